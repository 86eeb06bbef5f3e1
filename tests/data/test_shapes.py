"""The demo dataset."""

import numpy as np
import pytest
import torch

from frcnn.data.formats.shapes import CLASS_NAMES, MIN_VISIBLE, ShapesDataset, place_shapes, rasterise
from frcnn.data.problems import ErrorPolicy


def make(num_images=60, seed=0, height=256, width=256):
    return ShapesDataset(num_images=num_images, seed=seed, height=height, width=width, problems=ErrorPolicy())


@pytest.fixture(scope="module")
def dataset():
    return make(num_images=300)


def test_images_and_annotations_are_repeatable(dataset):
    again = make(num_images=8)  # the number of images changes none of them
    for index in (7, 0, 3):
        assert torch.equal(again.read_image(index), dataset.read_image(index))
        assert np.array_equal(again.records[index].boxes, dataset.records[index].boxes)
        assert np.array_equal(again.records[index].labels, dataset.records[index].labels)


def test_seeds_give_different_sets(dataset):
    other = make(num_images=4, seed=1)
    for index in range(4):
        assert (other.read_image(index) != dataset.read_image(index)).float().mean() > 0.8  # other grounds too


def test_no_global_randomness(dataset):
    state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    make(num_images=2).read_image(0)
    assert np.array_equal(np.random.get_state()[1], state[0]) and torch.equal(torch.random.get_rng_state(), state[1])


def test_records_are_well_formed(dataset):
    assert dataset.class_names == CLASS_NAMES and len(CLASS_NAMES) >= 4
    assert dataset.category_ids == (1, 2, 3, 4, 5)
    for record in dataset.records:
        assert record.path is None and (record.height, record.width) == (256, 256)
        widths, heights = (record.boxes[:, 2:] - record.boxes[:, :2]).T
        assert (record.boxes >= 0).all() and (record.boxes <= 256).all() and (widths > 0).all() and (heights > 0).all()
        assert (record.areas <= widths * heights).all() and (record.areas > 0).all()
        assert record.labels.dtype == np.int64 and record.boxes.dtype == np.float32
        assert not record.is_ignored.any()


def test_the_set_is_varied(dataset):
    counts = np.bincount(np.concatenate([record.labels for record in dataset.records]), minlength=6)
    assert counts[0] == 0 and counts[1:].min() > 0.7 * counts[1:].mean()
    empty = np.mean([len(record.labels) == 0 for record in dataset.records])
    assert 0.01 < empty < 0.1
    sides = np.concatenate([(record.boxes[:, 2:] - record.boxes[:, :2]).max(axis=1) for record in dataset.records])
    assert sides.min() < 20 and sides.max() > 130 and sides.max() <= 161


def test_boxes_are_tight_around_the_visible_pixels():
    occluded = 0
    for index in range(40):
        shapes, owner = place_shapes(np.random.default_rng([5, index]), 200, 240)
        whole_areas = [rasterise(shape.outline, 10_000, 10_000)[2] for shape in shapes]
        for number, (shape, whole) in enumerate(zip(shapes, whole_areas, strict=True), start=1):
            mask, window, _ = rasterise(shape.outline, *owner.shape)
            seen = owner == number
            assert not (seen[window] & ~mask).any() and seen.sum() == seen[window].sum()
            assert seen.sum() >= MIN_VISIBLE * whole
            occluded += seen.sum() < 0.9 * whole
    assert occluded > 5


def test_records_agree_with_the_placing(dataset):
    for index in range(30):
        shapes, owner = place_shapes(np.random.default_rng([0, index, 1]), 256, 256)
        record = dataset.records[index]
        assert record.labels.tolist() == [shape.label for shape in shapes]
        for number, box in enumerate(record.boxes.astype(int).tolist(), start=1):
            ys, xs = np.nonzero(owner == number)
            assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert record.areas[number - 1] == len(xs)


def test_pixels_show_what_the_record_says(dataset):
    """An image painted with and without its shapes differs mostly inside the shapes."""
    from frcnn.data.formats.shapes import paint

    for index in range(6):
        shapes, owner = place_shapes(np.random.default_rng([0, index, 1]), 256, 256)
        painted = [paint(np.random.default_rng(3), chosen, 256, 256).astype(int) for chosen in (shapes[:1], [])]
        changed = np.abs(painted[0] - painted[1]).sum(axis=2)
        inside = np.zeros((256, 256), bool)
        if shapes:
            mask, window, _ = rasterise(shapes[0].outline, 256, 256)
            inside[window] = mask
            assert np.median(changed[inside]) > 80


def test_other_sizes():
    for height, width in ((64, 64), (100, 300), (301, 65)):
        dataset = make(num_images=20, height=height, width=width)
        for index in range(3):
            image = dataset.read_image(index)
            assert image.shape == (3, height, width) and image.dtype == torch.uint8
        assert all((record.boxes <= [width, height, width, height]).all() for record in dataset.records)
