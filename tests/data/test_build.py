"""Which classes and data sets a config comes to."""

import numpy as np
import pytest

from frcnn.config.schema import DataConfig
from frcnn.data import DetectionDataset, ErrorPolicy, build_dataset
from frcnn.data.concat import ConcatDataset
from frcnn.data.dataset import check_class_names
from frcnn.data.shapes import CLASS_NAMES, ShapesDataset
from frcnn.errors import DataError
from frcnn.records import ImageRecord


class Other(DetectionDataset):
    """The least a data set can be."""


def voc(root, split="trainval", **options):
    return {"format": "voc", "root": root, "split": split, **options}


def coco(files):
    return {"format": "coco", "images": files[0], "annotations": files[1]}


def thing(name, difficult=False):
    return (name, (1, 1, 20, 30), difficult)


def test_voc_classes_of_training_and_validation_are_joined_and_sorted(voc_root):
    roots = [
        voc_root({"a": (40, 60, [thing("dog")])}, name="one"),
        voc_root({"a": (40, 60, [thing("cat")]), "b": (50, 60, [])}, name="two"),
        voc_root({"a": (40, 60, [thing("ant"), thing("dog")])}, name="three"),
    ]
    data = DataConfig(train=[voc(roots[0]), voc(roots[1])], val=voc(roots[2]))
    train, val = build_dataset(data, "train"), build_dataset(data, "val")
    assert train.class_names == val.class_names == ("ant", "cat", "dog")
    assert [record.labels.tolist() for record in train.records] == [[3], [2], []]
    assert val.records[0].labels.tolist() == [1, 3]
    assert [train.read_image(index).shape[1] for index in range(3)] == [40, 40, 50]
    assert train.read_image(1).shape == (3, 40, 60)
    with pytest.raises(IndexError):
        train.read_image(3)


def test_joined_sets_count_their_problems_together(voc_root):
    bad = ("cat", (0, 0, 0, 0), False)
    roots = [voc_root({"a": (40, 60, [thing("cat"), bad])}, name=name) for name in ("one", "two")]
    data = DataConfig(train=[voc(root) for root in roots], val=voc(roots[0]), on_error="skip")
    assert build_dataset(data, "train").problems.count == 2


def test_configured_classes_hold_for_every_set(voc_root):
    root = voc_root({"a": (40, 60, [thing("dog")])})
    data = DataConfig(train=voc(root), val=voc(root), classes=["zebra", "dog"])
    for split in ("train", "val"):
        assert build_dataset(data, split).class_names == ("zebra", "dog")
        assert build_dataset(data, split).records[0].labels.tolist() == [2]


@pytest.mark.parametrize(
    ("names", "message"), [(["a", "a"], "unique.*: a"), (["a", " "], "empty"), ([], "no class names")]
)
def test_class_names_must_be_there_not_empty_and_unique(names, message):
    with pytest.raises(DataError, match=f"here: .*{message}"):
        check_class_names(names, source="here")
    with pytest.raises(DataError, match=message):
        Other(name="other", class_names=names, category_ids=range(len(names)), records=[1], problems=ErrorPolicy())


def test_a_coco_training_set_declares_the_classes_of_a_voc_validation_set(voc_root, coco_files):
    root = voc_root({"a": (40, 60, [thing("dog")])})
    files = coco_files(categories=[{"id": 5, "name": "zebra"}, {"id": 9, "name": "dog"}], annotations=[])
    data = DataConfig(train=coco(files), val=voc(root))
    val = build_dataset(data, "val")
    assert val.class_names == ("zebra", "dog") and val.category_ids == (1, 2)
    assert build_dataset(data, "train").category_ids == (5, 9)


def test_coco_files_of_different_classes_are_not_mixed_up(coco_files):
    one = coco_files(categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}], annotations=[], name="one")
    two = coco_files(categories=[{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}], annotations=[], name="two")
    with pytest.raises(DataError, match=r"different classes.*data\.classes"):
        build_dataset(DataConfig(train=coco(one), val=coco(two)), "val")
    chosen = build_dataset(DataConfig(train=coco(one), val=coco(two), classes=["cat", "dog"]), "val")
    assert chosen.category_ids == (2, 1)


def test_difficult_objects_are_never_dropped_from_a_validation_set(voc_root):
    root = voc_root({"a": (40, 60, [thing("dog"), thing("cat", difficult=True)])})
    data = DataConfig(train=voc(root, difficult="drop"), val=voc(root, difficult="drop"))
    assert build_dataset(data, "train").records[0].labels.tolist() == [2]
    assert build_dataset(data, "val").records[0].is_difficult.tolist() == [False, True]


def test_shapes_have_their_own_classes():
    source = {"format": "shapes", "num_images": 2, "height": 64, "width": 64}
    data = DataConfig(train=source, val=source)
    assert build_dataset(data, "train").class_names == CLASS_NAMES
    with pytest.raises(DataError, match="shapes seed 0: no category is named cat; it has circle"):
        build_dataset(data.model_copy(update={"classes": ["cat"]}), "train")


def test_parts_of_different_classes_cannot_be_joined():
    shapes = ShapesDataset(num_images=1, seed=0, height=64, width=64, problems=ErrorPolicy())
    other = Other(name="other", class_names=["x"], category_ids=[1], records=shapes.records, problems=ErrorPolicy())
    with pytest.raises(DataError, match=r"other and shapes seed 0 cannot be joined"):
        ConcatDataset([shapes, other])


def test_a_data_set_without_images_is_an_error():
    with pytest.raises(DataError, match="other: the data set holds no usable image"):
        Other(name="other", class_names=["x"], category_ids=[1], records=[], problems=ErrorPolicy())


def test_records_say_what_the_contract_says(voc_root):
    root = voc_root({"a": (40, 60, [thing("dog"), thing("cat", difficult=True)])})
    record = build_dataset(DataConfig(train=voc(root), val=voc(root)), "train").records[0]
    assert isinstance(record, ImageRecord)
    types = [each.dtype for each in record[4:]]
    assert types == [np.float32, np.int64, np.float64, np.bool_, np.bool_, np.bool_]
