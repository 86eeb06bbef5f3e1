"""Classes and datasets of a config."""

import numpy as np
import pytest

from frcnn.annotations import ImageRecord
from frcnn.config.schema import DataConfig
from frcnn.data import DetectionDataset, ErrorPolicy, build_dataset, build_datasets
from frcnn.data.concat import ConcatDataset
from frcnn.data.dataset import check_class_names
from frcnn.data.formats.shapes import CLASS_NAMES, ShapesDataset
from frcnn.errors import DataError


class Other(DetectionDataset):
    """A minimal dataset."""


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
def test_class_names_are_required_not_empty_and_unique(names, message):
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
    with pytest.raises(DataError, match="shapes seed 0: no category is named cirlce; did you mean circle.*star, cross"):
        build_dataset(data.model_copy(update={"classes": ["cirlce"]}), "train")


def test_listed_classes_filter_a_coco_file(coco_files):
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "person"}, {"id": 9, "name": "dog"}]
    labels = [3, 5, 9, 9, 5, 9]
    annotations = [{"id": n, "image_id": 7, "category_id": k, "bbox": [n, 2, 9, 9]} for n, k in enumerate(labels)]
    files = coco_files(categories=categories, annotations=annotations)
    data = DataConfig(train=coco(files), val=coco(files), classes=["person"])
    for dataset in build_datasets(data):
        assert dataset.class_names == ("person",) and dataset.category_ids == (5,)
        assert dataset.records[0].labels.tolist() == [1, 1]
        assert dataset.records[0].boxes[:, 0].tolist() == [1, 4]
        assert dataset.problems.count == 0
        assert dataset.notes == (
            "coco instances.json: 4 annotation(s) of 2 class(es) that data.classes does not list are skipped "
            "(dog 3, cat 1)",
        )
    with pytest.raises(DataError, match=r"instances\.json: no category is named Persn; did you mean person\?"):
        build_dataset(data.model_copy(update={"classes": ["Persn"]}), "val")
    assert build_dataset(data.model_copy(update={"classes": ["dog", "cat", "person"]}), "val").notes == ()


def test_listed_classes_filter_a_voc_set(voc_root):
    root = voc_root({"a": (40, 60, [thing("dog"), thing("person", difficult=True), thing("cat")])})
    data = DataConfig(train=voc(root), val=voc(root), classes=["person", "dog"])
    dataset = build_dataset(data, "train")
    assert dataset.records[0].labels.tolist() == [2, 1] and dataset.problems.count == 0
    assert dataset.notes == (
        "voc voc trainval: 1 annotation(s) of 1 class(es) that data.classes does not list are skipped (cat 1)",
    )
    dataset = build_dataset(data.model_copy(update={"classes": ["Person", "dog"]}), "train")
    assert dataset.notes[1] == "warning: voc voc trainval: no object has the class Person; did you mean person?"


def test_an_object_without_a_class_is_a_problem_even_if_classes_are_listed(voc_root):
    root = voc_root({"a": (40, 60, [thing("dog"), thing("")])})
    with pytest.raises(DataError, match="1 annotation\\(s\\) of the class ''"):
        build_dataset(DataConfig(train=voc(root), val=voc(root), classes=["dog"]), "train")


def test_listed_classes_filter_the_shapes():
    source = {"format": "shapes", "num_images": 9, "height": 64, "width": 64}
    whole, data = DataConfig(train=source, val=source), DataConfig(train=source, val=source, classes=["star", "circle"])
    every, some = build_dataset(whole, "train"), build_dataset(data, "train")
    assert some.category_ids == (4, 1)
    for index, (one, other) in enumerate(zip(every.records, some.records, strict=True)):
        assert [CLASS_NAMES.index(("star", "circle")[label - 1]) + 1 for label in other.labels] == [
            label for label in one.labels if label in (1, 4)
        ]
        assert every.read_image(index).equal(some.read_image(index))
    assert "of 3 class(es) that data.classes does not list" in some.notes[0]


@pytest.mark.parametrize(
    ("empty", "region", "kept"),
    [
        ("keep", "ignore", ["objects", "crowd", "other", "none"]),
        ("drop", "ignore", ["objects", "crowd"]),
        ("drop", "drop", ["objects", "crowd"]),
        ("drop_crowd_only", "ignore", ["objects"]),
        ("drop_crowd_only", "drop", ["objects"]),
    ],
)
@pytest.mark.parametrize("form", ["coco", "voc"])
def test_images_without_objects_of_the_training_set(form, empty, region, kept, coco_files, voc_root):
    """The crowd is a difficult object in VOC; the object of `other` is of a class that is not listed."""
    if form == "voc":
        images = {"objects": [thing("dog")], "crowd": [thing("dog", difficult=True)], "other": [thing("cat")]}
        root = voc_root({name: (40, 60, each) for name, each in (images | {"none": []}).items()})
        train, val = voc(root, difficult=region), voc(root)
    else:
        images = [
            {"id": name, "file_name": f"{name}.jpg", "height": 40, "width": 60}
            for name in ("objects", "crowd", "other", "none")
        ]
        annotations = [
            {
                "image_id": name,
                "category_id": 2 if name == "other" else 1,
                "bbox": [1, 2, 9, 9],
                "iscrowd": name == "crowd",
            }
            for name in ("objects", "crowd", "other")
        ]
        categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
        files = coco_files(categories=categories, annotations=annotations, images=images)
        train, val = coco(files) | {"crowd": region}, coco(files)
    train_set, val_set = build_datasets(DataConfig(train=train, val=val, classes=["dog"], empty=empty))
    assert [record.image_id for record in train_set.records] == kept
    assert [record.image_id for record in val_set.records] == ["objects", "crowd", "other", "none"]
    note = f"{train_set.name}: {4 - len(kept)} of 4 image(s) without objects are skipped (data.empty: {empty})"
    assert [each for each in train_set.notes if "data.empty" in each] == ([] if empty == "keep" else [note])
    assert not any("data.empty" in each for each in val_set.notes)
    assert train_set.read_image(len(kept) - 1).shape == (3, 40, 60)


def test_ordinary_difficult_objects_are_objects(voc_root):
    root = voc_root({"a": (40, 60, [thing("dog", difficult=True)]), "b": (40, 60, [])})
    data = DataConfig(train=voc(root, difficult="keep"), val=voc(root), empty="drop_crowd_only")
    assert [record.image_id for record in build_dataset(data, "train").records] == ["a"]


def test_shapes_without_objects_are_dropped_and_the_others_keep_their_images():
    source = {"format": "shapes", "num_images": 60, "height": 64, "width": 64}
    every = build_dataset(DataConfig(train=source, val=source), "train")
    some = build_dataset(DataConfig(train=source, val=source, empty="drop"), "train")
    rows = [row for row, record in enumerate(every.records) if len(record.boxes)]
    assert 0 < len(rows) < 60 and [record.image_id for record in some.records] == [row + 1 for row in rows]
    assert all(some.read_image(index).equal(every.read_image(row)) for index, row in enumerate(rows))


def test_a_training_set_of_empty_images_only_is_an_error_when_they_are_dropped(voc_root):
    root = voc_root({"a": (40, 60, [thing("cat")])})
    with pytest.raises(DataError, match=r"voc: data\.empty=drop skips all 1 image\(s\): none has objects of dog"):
        build_dataset(DataConfig(train=voc(root), val=voc(root), classes=["dog"], empty="drop"), "train")


def test_parts_of_different_classes_cannot_be_joined():
    shapes = ShapesDataset(num_images=1, seed=0, height=64, width=64, problems=ErrorPolicy())
    other = Other(name="other", class_names=["x"], category_ids=[1], records=shapes.records, problems=ErrorPolicy())
    with pytest.raises(DataError, match=r"other and shapes seed 0 cannot be joined"):
        ConcatDataset([shapes, other])


def test_a_dataset_without_images_is_an_error():
    with pytest.raises(DataError, match="other: the dataset has no usable image"):
        Other(name="other", class_names=["x"], category_ids=[1], records=[], problems=ErrorPolicy())


def test_records_follow_their_contract(voc_root):
    root = voc_root({"a": (40, 60, [thing("dog"), thing("cat", difficult=True)])})
    record = build_dataset(DataConfig(train=voc(root), val=voc(root)), "train").records[0]
    assert isinstance(record, ImageRecord)
    types = [each.dtype for each in record[4:]]
    assert types == [np.float32, np.int64, np.float64, np.bool_, np.bool_, np.bool_]
