"""COCO files, whole and broken."""

import json

import numpy as np
import pytest

from frcnn.errors import DataError
from tests.data.sources import coco_dataset

GAPS = [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]


def box(category_id=1, bbox=(1, 2, 10, 20), image_id=7, **more):
    return {"id": 1, "image_id": image_id, "category_id": category_id, "bbox": list(bbox), **more}


def load(files, **options):
    return coco_dataset(*files, **options)


def test_gaps_between_category_ids_close_in_the_order_of_the_ids(coco_files):
    dataset = load(coco_files(categories=GAPS, annotations=[box(90), box(1), box(18)]))
    assert dataset.class_names == ("person", "dog", "brush")
    assert dataset.category_ids == (1, 18, 90)
    assert dataset.records[0].labels.tolist() == [3, 1, 2]


def test_configured_classes_set_the_label_order(coco_files):
    files = coco_files(categories=GAPS, annotations=[box(90), box(1)])
    dataset = load(files, class_names=["brush", "person", "dog"])
    assert dataset.category_ids == (90, 1, 18)
    assert dataset.records[0].labels.tolist() == [1, 2]


def test_a_configured_class_that_is_no_category_is_an_error_even_when_skipping(coco_files):
    files = coco_files(categories=GAPS, annotations=[])
    with pytest.raises(DataError, match=r"instances\.json: no category is named cat; it has person, dog, brush"):
        load(files, class_names=["person", "cat"], on_error="skip")


def test_a_class_that_is_not_given_is_reported_once_if_used(coco_files):
    files = coco_files(categories=GAPS, annotations=[box(1), box(18), box(18)])
    with pytest.raises(DataError, match=r"2 annotation\(s\) of the class 'dog'; the classes are person"):
        load(files, class_names=["person"])
    dataset = load(files, class_names=["person"], on_error="skip")
    assert dataset.problems.count == 1
    assert dataset.records[0].labels.tolist() == [1]


def test_boxes_become_corners_clipped_to_the_image(coco_files):
    annotations = [box(bbox=(-5, -6, 20, 20)), box(bbox=(50, 30, 10, 10)), box(bbox=(55.5, 0, 100, 5.25))]
    record = load(coco_files(categories=GAPS, annotations=annotations)).records[0]
    assert record.boxes.dtype == np.float32
    assert record.boxes.tolist() == [[0, 0, 15, 14], [50, 30, 60, 40], [55.5, 0, 60, 5.25]]


def test_area_is_used_as_annotated_else_that_of_the_box(coco_files):
    annotations = [box(area=12.5), box(), box(area=None), box(bbox=(-5, 0, 10, 4))]
    record = load(coco_files(categories=GAPS, annotations=annotations)).records[0]
    assert record.areas.tolist() == [12.5, 200, 200, 20]


def test_crowds_may_be_left_out(coco_files):
    files = coco_files(categories=GAPS, annotations=[box(iscrowd=1), box(18, bbox=(3, 4, 5, 6)), box(90, iscrowd=1)])
    record = load(files, regions="drop").records[0]
    assert record.boxes.tolist() == [[3, 4, 8, 10]]
    assert record.labels.tolist() == [2] and record.areas.tolist() == [30]
    assert not record.is_crowd.any() and not record.is_ignored.any()


def test_classes_that_stand_for_unused_ids_need_no_category(coco_files):
    files = coco_files(categories=GAPS, annotations=[box(18)])
    dataset = load(files, class_names=["person", "N/A 12", "dog"])
    assert dataset.category_ids == (1, 12, 18)
    assert dataset.records[0].labels.tolist() == [3]


def test_crowds_are_ignore_regions_and_iscrowd_may_be_absent(coco_files):
    record = load(coco_files(categories=GAPS, annotations=[box(iscrowd=1), box(iscrowd=0), box()])).records[0]
    assert record.is_crowd.tolist() == [True, False, False]
    assert record.is_ignored.tolist() == [True, False, False]
    assert record.is_difficult.tolist() == [False, False, False]


def test_objects_go_to_their_image_and_images_without_any_stay(coco_files):
    images = [{"id": number, "file_name": f"{number}.jpg", "height": 40, "width": 60} for number in (5, 2, 9)]
    annotations = [box(1, image_id=9), box(18, image_id=5), box(90, image_id=9)]
    dataset = load(coco_files(categories=GAPS, annotations=annotations, images=images))
    assert [record.image_id for record in dataset.records] == [5, 2, 9]
    assert [record.labels.tolist() for record in dataset.records] == [[2], [], [1, 3]]
    assert dataset.records[1].boxes.shape == (0, 4)
    assert dataset.records[2].path.name == "9.jpg"
    assert dataset.read_image(2).shape == (3, 40, 60)


def test_a_file_without_any_annotation_loads(coco_files):
    assert len(load(coco_files(categories=GAPS, annotations=[])).records[0].labels) == 0


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (box(bbox=(5, 5, 0, 4)), r"annotation 1 of image 7 \(person\): box without area .*x 5 y 5 w 0 h 4"),
        (box(bbox=(5, 5, 4, -1)), "box without area"),
        (box(bbox=(70, 5, 4, 4)), "box without area"),
        (box(bbox=(-9, 5, 4, 4)), "box without area"),
        (box(bbox=(float("nan"), 5, 4, 4)), "box is missing or not four numbers: x nan"),
        (box(bbox=(1, 2, 3)), "box is missing or not four numbers"),
        ({"id": 1, "image_id": 7, "category_id": 1}, "box is missing"),
        (box(category_id=33), "annotation 1: there is no category 33"),
        (box(image_id=8), "annotation 1: there is no image 8"),
        (box(category_id=[1]), r"annotation 1: there is no category \[1\]"),
        (box(category_id={}), "annotation 1: there is no category {}"),
        (box(image_id=[7]), r"annotation 1: there is no image \[7\]"),
        (box(image_id={"id": 7}), "there is no image {'id': 7}"),
    ],
)
def test_an_unusable_annotation_stops_or_is_left_out(coco_files, annotation, message, caplog):
    files = coco_files(categories=GAPS, annotations=[box(18), annotation, box(90)])
    with pytest.raises(DataError, match=rf"instances\.json: .*{message}"):
        load(files)
    dataset = load(files, on_error="skip")
    assert dataset.problems.count == 1
    assert len(caplog.messages) == 1
    assert dataset.records[0].labels.tolist() == [2, 3]
    assert np.isfinite(dataset.records[0].boxes).all()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"id": 8, "file_name": "b.jpg", "height": 0, "width": 60}, r"image 8 \(b\.jpg\) needs a finite height"),
        ({"id": 8, "file_name": "b.jpg"}, r"image 8 \(b\.jpg\) needs a finite height"),
        (
            {"id": 8, "file_name": "b.jpg", "height": float("inf"), "width": 60},
            r"image 8 \(b\.jpg\) needs a finite height",
        ),
        (
            {"id": 8, "file_name": "b.jpg", "height": 40, "width": float("nan")},
            r"image 8 \(b\.jpg\) needs a finite height",
        ),
        ({"id": [8], "file_name": "b.jpg", "height": 40, "width": 60}, "needs an id and a file_name"),
        ({"id": 8, "height": 40, "width": 60}, "needs an id and a file_name"),
        ({"id": 7, "file_name": "b.jpg", "height": 40, "width": 60}, "image id 7 occurs twice"),
    ],
)
def test_an_unusable_image_entry_stops_or_is_left_out(coco_files, broken, message):
    whole = {"id": 7, "file_name": "seven.jpg", "height": 40, "width": 60}
    files = coco_files(categories=GAPS, annotations=[box(18)], images=[whole])
    document = json.loads(files[1].read_text())
    document["images"].append(broken)
    files[1].write_text(json.dumps(document))
    with pytest.raises(DataError, match=message):
        load(files)
    dataset = load(files, on_error="skip")
    assert (len(dataset), dataset.problems.count) == (1, 1)
    assert dataset.records[0].labels.tolist() == [2]


def test_annotations_of_a_left_out_image_are_not_reported_again(coco_files):
    images = [
        {"id": 7, "file_name": "seven.jpg", "height": 40, "width": 60},
        {"id": 8, "file_name": "b.jpg", "height": 0, "width": 60},
    ]
    files = coco_files(categories=GAPS, annotations=[box(18), box(1, image_id=8)], images=images)
    assert load(files, on_error="skip").problems.count == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "not a JSON file"),
        ("[]", "not a COCO instances file"),
        ('{"images": [], "categories": []}', "no class names|annotations"),
        ('{"images": [], "annotations": []}', "list `categories` is missing"),
        ('{"annotations": [], "categories": [{"id": 1, "name": "a"}]}', "list `images` is missing"),
        ('{"images": [], "categories": [{"id": 1, "name": "a"}]}', "list `annotations` is missing"),
        ('{"images": [3], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "list `images`"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no usable image"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "integer id and a name"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "twice"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}', "unique"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": " "}]}', "name is empty"),
    ],
)
def test_a_file_that_is_no_instances_file_is_an_error_even_when_skipping(coco_files, text, message):
    images, path = coco_files(categories=GAPS, annotations=[])
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load((images, path), on_error="skip")
    assert "instances.json" in str(caught.value)


def test_missing_file_and_missing_folder(coco_files):
    images, path = coco_files(categories=GAPS, annotations=[])
    with pytest.raises(DataError, match=r"gone\.json"):
        load((images, path.with_name("gone.json")), on_error="skip")
    with pytest.raises(DataError, match="gone: no such folder"):
        load((images.with_name("gone"), path), on_error="skip")


def test_a_missing_image_is_found_when_it_is_read(coco_files):
    images, path = coco_files(categories=GAPS, annotations=[])
    (images / "seven.jpg").unlink()
    dataset = load((images, path))
    with pytest.raises(DataError, match=r"seven\.jpg: image file not found"):
        dataset.read_image(0)


def test_an_image_of_another_size_than_annotated_is_an_error(coco_files):
    images, path = coco_files(categories=GAPS, annotations=[])
    document = json.loads(path.read_text())
    document["images"][0]["height"] = 41
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"seven\.jpg.* 60 x 40 .* annotated as 60 x 41"):
        load((images, path)).read_image(0)


def test_coco200(shared_path):
    root = shared_path("datasets/coco200")
    dataset = load((root / "train2017", root / "annotations/instances_train2017.json"))
    assert (len(dataset), len(dataset.class_names)) == (100, 80)
    assert dataset.class_names[:2] == ("person", "bicycle") and dataset.category_ids[-1] == 90
    assert sum(len(record.labels) for record in dataset.records) == 746
    assert sum(int(record.is_ignored.sum()) for record in dataset.records) == 6
    assert sum(not len(record.labels) for record in dataset.records) == 2
    for record in dataset.records:
        assert (record.boxes >= 0).all() and (record.boxes[:, 2:] <= [record.width, record.height]).all()
