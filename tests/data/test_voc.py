"""Pascal VOC folders, whole and broken."""

import numpy as np
import pytest

from frcnn.data.formats.voc import read_voc
from frcnn.errors import DataError
from tests.data.sources import voc_dataset as load

CAT = ("cat", (1, 1, 20, 30), False)
HARD_DOG = ("dog", (5, 6, 10, 12), True)


def test_inclusive_coordinates_become_continuous_edges(voc_root):
    root = voc_root({"a": (40, 60, [("cat", (1, 1, 60, 40), False), ("cat", (11, 6, 12, 7), False)])})
    record = load(root).records[0]
    assert record.boxes.tolist() == [[0, 0, 60, 40], [10, 5, 12, 7]]
    assert record.boxes.dtype == np.float32 and record.labels.dtype == np.int64
    assert record.areas.tolist() == [2400, 4]


def test_boxes_beyond_the_border_are_clipped(voc_root):
    root = voc_root({"a": (40, 60, [("cat", (0, -3, 70, 41), False)])})
    assert load(root).records[0].boxes.tolist() == [[0, 0, 60, 40]]


def test_one_may_be_taken_from_all_four_coordinates(voc_root):
    root = voc_root({"a": (40, 60, [("cat", (11, 6, 20, 30), False), ("cat", (1, 1, 60, 40), False)])})
    assert load(root, coordinates="minus_one").records[0].boxes.tolist() == [[10, 5, 19, 29], [0, 0, 59, 39]]
    assert load(root, coordinates="edges").records[0].boxes.tolist() == [[10, 5, 20, 30], [0, 0, 60, 40]]


def test_coordinates_with_decimals(voc_root):
    root = voc_root({"a": (40, 60, [("cat", (3.5, 4.25, 10, 12), False)])})
    assert load(root).records[0].boxes.tolist() == [[2.5, 3.25, 10, 12]]


def test_ids_sizes_and_pixels(voc_root):
    dataset = load(voc_root({"b": (40, 60, [CAT]), "a": (50, 30, [])}))
    assert [record.image_id for record in dataset.records] == ["b", "a"]
    assert dataset.read_image(1).shape == (3, 50, 30)
    assert dataset.records[1].boxes.shape == (0, 4)
    assert dataset.category_ids == (1,)


@pytest.mark.parametrize(
    ("difficult", "labels", "is_difficult", "is_ignored"),
    [
        ("ignore", [1, 2], [False, True], [False, True]),
        ("keep", [1, 2], [False, True], [False, False]),
        ("drop", [1], [False], [False]),
    ],
)
def test_difficult_objects(voc_root, difficult, labels, is_difficult, is_ignored):
    root = voc_root({"a": (40, 60, [CAT, HARD_DOG])})
    record = load(root, regions=difficult).records[0]
    assert record.labels.tolist() == labels
    assert record.is_difficult.tolist() == is_difficult
    assert record.is_ignored.tolist() == is_ignored
    assert not record.is_crowd.any()


def test_classes_are_found_sorted_or_taken_in_the_given_order(voc_root):
    root = voc_root({"a": (40, 60, [HARD_DOG, CAT])})
    assert read_voc(root, "trainval").names == ["cat", "dog"]
    assert load(root).records[0].labels.tolist() == [2, 1]
    assert load(root, class_names=["dog", "cat"]).records[0].labels.tolist() == [1, 2]


def test_lists_of_single_classes_have_a_second_column(voc_root):
    root = voc_root({"a": (40, 60, [CAT]), "my cat 1": (40, 60, [])})
    (root / "ImageSets/Main/cat_train.txt").write_text("a  1\nmy cat 1 -1\n\na  0\n")
    assert [record.image_id for record in load(root, split="cat_train").records] == ["a", "my cat 1"]


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (5, 5, 5, 9), (5, 9, 8, 9), (9, 5, 5, 9), (70, 5, 80, 9)])
def test_a_box_without_area_is_reported_and_the_image_stays(voc_root, box, caplog):
    root = voc_root({"a": (40, 60, [CAT, ("cat", box, False)])})
    with pytest.raises(DataError, match=r"a\.xml: object 2 \(cat\): box without area"):
        load(root)
    dataset = load(root, on_error="skip")
    assert (len(dataset), dataset.problems.count, len(caplog.messages)) == (1, 1, 1)
    assert dataset.records[0].boxes.tolist() == [[0, 0, 20, 30]]


def test_two_equal_bad_boxes_are_two_problems(voc_root):
    bad = ("cat", (0, 0, 0, 0), False)
    assert load(voc_root({"a": (40, 60, [CAT, bad, bad])}), on_error="skip").problems.count == 2


def test_a_box_that_is_no_box(voc_root):
    root = voc_root({"a": (40, 60, [CAT, ("cat", ("x", 1, 2, 3), False)])})
    with pytest.raises(DataError, match=r"a\.xml: object 2 \(cat\): box is missing or not four numbers"):
        load(root)


def test_an_unknown_class_is_reported(voc_root):
    root = voc_root({"a": (40, 60, [CAT, HARD_DOG])})
    with pytest.raises(DataError, match=r"voc: 1 annotation\(s\) of the class 'dog'; the classes are cat"):
        load(root, class_names=["cat"])
    dataset = load(root, class_names=["cat"], on_error="skip")
    assert dataset.problems.count == 1 and dataset.records[0].labels.tolist() == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "annotation file not found"),
        ("<annotation><size>", "broken XML"),
        ("", "broken XML"),
        ("<annotation></annotation>", "size of the image is missing, 0, infinite"),
        ("<annotation><size><width>0</width><height>0</height></size></annotation>", "size of the image"),
        ("<annotation><size><width>60</width><height>inf</height></size></annotation>", "size of the image"),
        ("<annotation><size><width>nan</width><height>40</height></size></annotation>", "size of the image"),
    ],
)
def test_an_unusable_xml_leaves_out_its_image(voc_root, content, message):
    root = voc_root({"a": (40, 60, [CAT]), "b": (40, 60, [CAT])})
    path = root / "Annotations/b.xml"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=rf"b\.xml: {message}"):
        load(root)
    dataset = load(root, on_error="skip")
    assert [record.image_id for record in dataset.records] == ["a"]
    assert dataset.problems.count == 1


def test_a_missing_split_names_those_that_are_there(voc_root):
    root = voc_root({"a": (40, 60, [CAT])})
    with pytest.raises(DataError, match=r"test\.txt: no such split; existing splits: trainval"):
        load(root, split="test")
    with pytest.raises(DataError, match="no such folder"):
        load(root / "gone")


def test_missing_images_folder(voc_root):
    root = voc_root({"a": (40, 60, [CAT])})
    (root / "JPEGImages").rename(root / "Images")
    with pytest.raises(DataError, match="JPEGImages: no such folder"):
        load(root, on_error="skip")


def test_images_of_other_formats_are_found_and_missing_ones_told_when_read(voc_root):
    root = voc_root({"a": (40, 60, [CAT]), "b.v2": (40, 60, [CAT]), "c": (40, 60, [CAT])})
    from PIL import Image

    for stem, suffix in (("a", "PNG"), ("b.v2", "bmp")):
        old = root / f"JPEGImages/{stem}.jpg"
        Image.open(old).save(root / f"JPEGImages/{stem}.{suffix}")
        old.unlink()
    (root / "JPEGImages/c.jpg").unlink()
    (root / "JPEGImages/a.txt").write_text("no image")
    dataset = load(root)
    assert [record.path.name for record in dataset.records] == ["a.PNG", "b.v2.bmp", "c.jpg"]
    assert dataset.read_image(0).shape == dataset.read_image(1).shape == (3, 40, 60)
    with pytest.raises(DataError, match=r"c\.jpg: image file not found"):
        dataset.read_image(2)


def test_parts_of_an_object_are_not_objects(voc_root):
    root = voc_root({"a": (40, 60, [("person", (1, 1, 20, 30), False)])})
    path = root / "Annotations/a.xml"
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    path.write_text(path.read_text().replace("</object>", part + "</object>"))
    assert load(root).class_names == ("person",)
    assert load(root).records[0].boxes.tolist() == [[0, 0, 20, 30]]


def test_no_object_and_no_classes_is_an_error(voc_root):
    with pytest.raises(DataError, match=r"no class names.*data\.classes"):
        load(voc_root({"a": (40, 60, [])}))
    assert len(load(voc_root({"a": (40, 60, [])}), class_names=["cat"])) == 1


def test_bccd(shared_path, caplog):
    root = shared_path("datasets/bccd")
    with pytest.raises(DataError, match=r"BloodImage_00338\.xml: object 13 \(RBC\): box without area"):
        load(root)
    dataset = load(root, on_error="skip")
    assert dataset.class_names == ("Platelets", "RBC", "WBC")
    assert len(dataset) == 292
    assert dataset.problems.count == len(caplog.messages) == 2
    counts = np.bincount(np.concatenate([record.labels for record in dataset.records]))
    assert counts.tolist() == [0, 292, 3348, 301]
