import json

import numpy as np
import pytest
import torch
from PIL import Image

import frcnn
from frcnn.config import dump_config, parse_config
from frcnn.errors import CheckpointError, ConfigError, DataError
from tests.inference.trained import raw_config, save_small_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_small_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints" / "best.pt")


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return frcnn.load(checkpoint, device="cpu")


def make_pixels(height=120, width=90):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_equal(left, right):
    assert len(left.scores) > 0
    for name in ("boxes", "scores", "labels", "class_names"):
        assert np.array_equal(getattr(left, name), getattr(right, name))


def test_all_image_types_give_the_same_result(predictor, tmp_path):
    pixels = make_pixels()
    image = Image.fromarray(pixels)
    image.save(tmp_path / "image.png")
    kinds = [
        pixels,
        image,
        torch.from_numpy(pixels).permute(2, 0, 1),
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        pixels[:, ::-1].copy()[:, ::-1],  # negative strides
    ]
    first, *others = predictor.predict(kinds, score_threshold=0)
    for other in others:
        assert_equal(first, other)
    (single,) = predictor.predict(pixels, score_threshold=0)
    assert_equal(first, single)


def test_boxes_are_in_the_image_and_scores_reach_the_threshold(predictor):
    for pixels in (make_pixels(120, 90), make_pixels(60, 200)):
        (everything,) = predictor.predict(pixels, score_threshold=0)
        height, width = pixels.shape[:2]
        assert (everything.boxes >= 0).all() and (everything.boxes <= [width, height, width, height]).all()
        assert everything.class_names == [predictor.class_names[label - 1] for label in everything.labels]
        middle = float(np.median(everything.scores))
        (some,) = predictor.predict(pixels, score_threshold=middle)
        assert 0 < len(some.scores) < len(everything.scores) and (some.scores >= middle).all()
        (none,) = predictor.predict(pixels, score_threshold=1)
        assert none.boxes.shape == (0, 4) and none.class_names == []


def test_images_in_batches(predictor):
    images = [make_pixels(height) for height in (100, 110, 90)]
    alone = predictor.predict(images, score_threshold=0)
    together = predictor.predict(iter(images), score_threshold=0, batch_size=2)
    for left, right in zip(alone, together, strict=True):
        np.testing.assert_allclose(left.scores, right.scores, atol=1e-5)
    assert predictor.predict([]) == []


def test_json(predictor):
    (prediction,) = predictor.predict(make_pixels(), score_threshold=0)
    entries = json.loads(json.dumps(prediction.to_dict(), allow_nan=False))["detections"]
    assert len(entries) == len(prediction.scores)
    assert set(entries[0]) == {"class", "label", "score", "box"}
    assert entries[0]["class"] == prediction.class_names[0] and len(entries[0]["box"]) == 4


def test_a_run_folder_stands_for_its_best_checkpoint(checkpoint, predictor):
    again = frcnn.load(str(checkpoint.parent.parent), device="cpu")
    pixels = make_pixels()
    assert_equal(*(each.predict(pixels, score_threshold=0)[0] for each in (predictor, again)))


def test_predict_does_not_change_the_random_state_or_the_image(predictor):
    pixels = make_pixels()
    before, state = pixels.copy(), torch.get_rng_state()
    predictor.predict(pixels)
    assert np.array_equal(pixels, before) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 5), np.uint8), r"uint8 RGB \(H, W, 3\), not uint8 \(5, 5\)"),
        (np.zeros((5, 5, 3)), "not float64"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
        (torch.zeros(3, 5, 5), "not torch.float32"),
        (torch.zeros(5, 5, 3, dtype=torch.uint8), r"\(3, H, W\), not torch.uint8 \(5, 5, 3\)"),
        (Image.new("F", (5, 5)), "mode F"),
        ("nowhere.jpg", "nowhere.jpg: image file not found"),
        ([5], "image 0: .*not int"),
        ([np.zeros((5, 5, 3), np.uint8), np.zeros((5, 5), np.uint8)], "image 1: a NumPy image"),
    ],
)
def test_invalid_images(predictor, image, message):
    with pytest.raises(DataError, match=message):
        predictor.predict(image)
    with pytest.raises(ValueError, match="batch_size"):
        predictor.predict(np.zeros((5, 5, 3), np.uint8), batch_size=-1)


def test_invalid_checkpoints_and_devices(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="no such run folder or checkpoint"):
        frcnn.load(tmp_path / "none.pt")
    with pytest.raises(ConfigError, match="'gpu' is not a device"):
        frcnn.load(checkpoint, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="finds no cuda on this machine"):
            frcnn.load(checkpoint, device="cuda")


def test_weights_of_another_model(tmp_path):
    other = save_small_checkpoint(tmp_path / "other.pt", class_names=["a", "b"], category_ids=[1, 2])
    with pytest.raises(CheckpointError, match="weights do not fit the model"):
        frcnn.load(other, device="cpu")


def test_the_layout_of_training_changes_nothing_on_a_cpu(predictor, tmp_path):
    """CPU kernels are channels-last in both cases."""
    raw = raw_config()
    raw["train"]["channels_last"] = True
    path = save_small_checkpoint(tmp_path / "last.pt", config=dump_config(parse_config(raw, source="test")))
    turned = frcnn.load(path, device="cpu")
    for each in (predictor, turned):
        weight = next(p for p in each.model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1)
        assert weight.is_contiguous(memory_format=torch.channels_last)
    pixels = make_pixels()
    (left,), (right,) = (each.predict(pixels, score_threshold=0) for each in (predictor, turned))
    np.testing.assert_allclose(left.scores, right.scores, atol=1e-4)
