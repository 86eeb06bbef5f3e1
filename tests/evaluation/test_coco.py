"""COCO metrics against pycocotools on the same files."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frcnn.annotations import ImageDetections, ImageRecord
from frcnn.data.formats.coco_results import read_results, write_results
from frcnn.errors import ConfigError
from frcnn.evaluation import coco_packages, table
from frcnn.evaluation.coco import METRICS, evaluate_coco
from tests.data.sources import coco_dataset
from tests.evaluation.examples import make_detections, make_record, random_case


def run_pycocotools(annotations, results) -> COCOeval:
    """pycocotools as in its documentation: files in, summary out."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def numbers(report):
    return [-1 if report[name] is None else report[name] for name in METRICS]


def write_annotations(path, records, category_ids):
    """An instances file with COCO boxes, and difficult objects as crowds."""
    annotations = []
    for record in records:
        for number in range(len(record.boxes)):
            x1, y1, x2, y2 = record.boxes[number].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record.image_id,
                    "category_id": category_ids[record.labels[number] - 1],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(record.areas[number]),
                    "iscrowd": int(record.is_crowd[number] or record.is_difficult[number]),
                }
            )
    images = [{"id": record.image_id, "height": record.height, "width": record.width} for record in records]
    categories = [{"id": category_id, "name": str(category_id)} for category_id in category_ids]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


@pytest.mark.parametrize("seed", range(8))
def test_equals_pycocotools_on_random_data(seed, tmp_path):
    records, detections = random_case(seed, num_images=20)
    category_ids = [3, 7, 90]
    write_annotations(tmp_path / "truth.json", records, category_ids)
    write_results(tmp_path / "found.json", records, detections, category_ids=category_ids)
    expected = run_pycocotools(tmp_path / "truth.json", tmp_path / "found.json")
    report = evaluate_coco(records, detections, class_names=["a", "b", "c"])
    assert numbers(report) == expected.stats.tolist()
    again = read_results(tmp_path / "found.json", records, category_ids=category_ids)
    assert evaluate_coco(records, again, class_names=["a", "b", "c"]) == report


def raw_files(seed):
    """An instances file and a results file of another program: every id with gaps and out of order, boxes in eighths.

    Crowds, images without objects or detections, ties of score within and between images, a category without objects,
    areas of masks, and one image with more than the 100 detections that count.
    """
    rng = np.random.default_rng(seed)
    image_ids = rng.choice(10**6, 12, replace=False).tolist()
    category_ids = [90, 3, 44, 7]
    annotations, results = [], []
    annotation_ids = iter((rng.permutation(500) * 7 + 1).tolist())
    for number, image_id in enumerate(image_ids):
        num_objects = 0 if number % 4 == 3 else int(rng.integers(1, 6))
        corners = rng.integers(0, 2400, (num_objects, 2)) / 8
        sides = rng.choice([12, 60, 150], (num_objects, 1)) + rng.integers(0, 160, (num_objects, 2)) / 8
        for box in np.concatenate([corners, sides], axis=1).tolist():
            annotation = {"id": next(annotation_ids), "image_id": image_id, "bbox": box}
            annotation["category_id"] = int(rng.choice(category_ids[:3]))
            annotation["area"] = box[2] * box[3] * float(rng.choice([0.5, 1]))
            annotation["iscrowd"] = int(rng.random() < 0.15)
            annotations.append(annotation)
            for _ in range(0 if number == 1 else 120 if number == 2 else int(rng.integers(0, 5))):
                shift = rng.integers(-40, 41, 4) / 8 * (rng.random() < 0.8)
                found = {"image_id": image_id, "category_id": annotation["category_id"]}
                if rng.random() < 0.1:
                    found["category_id"] = int(rng.choice(category_ids))
                found["bbox"] = [*(np.array(box) + shift).clip([-5, -5, 1, 1]).tolist()]
                results.append({**found, "score": int(rng.integers(1, 12)) / 16})
    rng.shuffle(annotations)
    rng.shuffle(results)
    images = [{"id": image_id, "file_name": f"{image_id}.jpg", "height": 600, "width": 600} for image_id in image_ids]
    categories = [{"id": category_id, "name": f"class {category_id}"} for category_id in category_ids]
    return {"images": images, "annotations": annotations, "categories": categories}, results


@pytest.mark.parametrize("seed", range(8))
def test_equals_pycocotools_on_raw_files(seed, tmp_path):
    """All 12 metrics and the metrics of each class, from files read by frcnn and by pycocotools."""
    truth, results = raw_files(seed)
    assert any(annotation["iscrowd"] for annotation in truth["annotations"])
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(results))
    expected = run_pycocotools(tmp_path / "truth.json", tmp_path / "found.json")

    dataset = coco_dataset(tmp_path, tmp_path / "truth.json")
    assert dataset.category_ids == (3, 7, 44, 90)
    detections = read_results(tmp_path / "found.json", dataset.records, category_ids=dataset.category_ids)
    report = evaluate_coco(dataset.records, detections, class_names=dataset.class_names)
    assert numbers(report) == expected.stats.tolist()
    assert 0 < report["AP"] < 1 and report["APs"] is not None
    for k, name in enumerate(dataset.class_names):
        precision = expected.eval["precision"][:, :, k, 0, 2]
        row = report["per_class"][name]
        if name == "class 7":
            assert row == {"AP": None, "AP50": None} and precision.max() == -1
        else:
            assert row == {"AP": precision.mean(), "AP50": precision[0].mean()}


def read_coco(path):
    """Records of an instances file, read by this test; labels in order of category id."""
    document = json.loads(path.read_text())
    category_ids = sorted(category["id"] for category in document["categories"])
    records = []
    for image in document["images"]:
        own = [annotation for annotation in document["annotations"] if annotation["image_id"] == image["id"]]
        boxes = np.array([annotation["bbox"] for annotation in own], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        is_crowd = np.array([bool(annotation["iscrowd"]) for annotation in own], bool)
        records.append(
            ImageRecord(
                image["id"],
                None,
                image["height"],
                image["width"],
                boxes,
                np.array([category_ids.index(annotation["category_id"]) + 1 for annotation in own], np.int64),
                np.array([annotation["area"] for annotation in own], np.float64),
                is_crowd,
                np.zeros(len(own), bool),
                is_crowd,
            )
        )
    return records, category_ids


def disturb(record, rng, num_classes) -> ImageDetections:
    """Detections of an average detector: most objects, slightly moved, some twice, some false positives."""
    number = len(record.boxes)
    chosen = rng.integers(0, number, 2 * number) if number else np.zeros(0, int)
    size = record.boxes[chosen, 2:] - record.boxes[chosen, :2]
    boxes = record.boxes[chosen] + rng.normal(0, 0.08, (len(chosen), 4)) * np.concatenate([size, size], axis=1)
    corner = rng.uniform(0, 300, (5, 2))
    boxes = np.concatenate([boxes, np.concatenate([corner, corner + rng.uniform(8, 200, (5, 2))], axis=1)])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    labels = np.concatenate([record.labels[chosen], rng.integers(1, num_classes + 1, 5)])
    scores = rng.random(len(boxes)).round(2)
    order = np.argsort(-scores, kind="stable")
    return make_detections(boxes[order], scores[order], labels[order])


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_equals_pycocotools_on_real_annotations(split, shared_path, tmp_path):
    """Gaps in category ids, crowds, images without objects; the original file and the records of frcnn."""
    annotations = shared_path(f"datasets/coco200/annotations/instances_{split}.json")
    records, category_ids = read_coco(annotations)
    assert category_ids[-1] > len(category_ids) and any(record.is_crowd.any() for record in records)
    rng = np.random.default_rng(0)
    detections = [disturb(record, rng, len(category_ids)) for record in records]
    write_results(tmp_path / "found.json", records, detections, category_ids=category_ids)
    expected = run_pycocotools(annotations, tmp_path / "found.json")
    report = evaluate_coco(records, detections, class_names=[str(category_id) for category_id in category_ids])
    assert numbers(report) == expected.stats.tolist()
    assert 0.1 < report["AP"] < 0.9
    for k, category_id in enumerate(category_ids):
        precision = expected.eval["precision"][0, :, k, 0, 2]
        expected_value = precision.mean() if precision.max() > -1 else None
        assert report["per_class"][str(category_id)]["AP50"] == expected_value


def hard_case(seed):
    """Boxes on a grid of 8 pixels in a few sizes around the limits of area, scores in fifths: ties of every kind.

    Ids with gaps and out of order, images without objects or detections, two classes of five without objects, regions
    over objects, and an image with 150 detections of one class.
    """
    rng = np.random.default_rng(seed)
    records, detections = [], []
    for position, image_id in enumerate(rng.choice(1000, 6, replace=False).tolist()):
        number = int(rng.integers(0, 8)) if position else 5
        corner = rng.integers(0, 12, (number, 2)) * 8
        boxes = np.concatenate([corner, corner + rng.choice([24, 32, 40, 96, 104], (number, 2))], axis=1)
        boxes[number // 2 :] = boxes[: number - number // 2] if rng.random() < 0.5 else boxes[number // 2 :]
        labels = rng.integers(1, 4, number) if position else np.ones(number, int)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * rng.choice([0.25, 1], number)
        ignored = {kind: np.flatnonzero(rng.random(number) < 0.15) for kind in ("crowd", "difficult")}
        records.append(make_record(boxes, labels, image_id=image_id, areas=areas, **ignored))
        count = 150 if not position else int(rng.integers(0, 30))
        if not number:
            boxes, labels = np.array([[0, 0, 32, 32]]), np.array([1])
        chosen = rng.integers(0, len(boxes), count)
        found = boxes[chosen] + rng.choice([-8, 0, 0, 8], (count, 4))
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])  # some without area
        classes = np.where(rng.random(count) < 0.8, labels[chosen], rng.integers(1, 6, count))
        scores = np.sort(rng.integers(1, 6, count) / 5)[::-1]
        detections.append(make_detections(found, scores, classes if position else np.ones(count)))
    return records, detections


@pytest.mark.parametrize("block", range(4))
def test_the_matching_on_arrays_is_bit_identical_to_pycocotools(block):
    """All 12 metrics and the metrics of each class."""
    names = ["a", "b", "c", "d", "e"]
    for seed in range(12 * block, 12 * block + 12):
        records, detections = hard_case(seed)
        report = evaluate_coco(records, detections, class_names=names)
        assert report == evaluate_coco(records, detections, class_names=names, backend="pycocotools")
        assert report["per_class"]["e"] == {"AP": None, "AP50": None}


def test_the_hard_cases_are_hard():
    """Equal IoUs, more detections than are counted, regions, and objects outside an area range change the metrics."""
    records, detections = hard_case(0)
    report = evaluate_coco(records, detections, class_names=["a", "b", "c"])
    assert all(0 < report[name] < 1 for name in METRICS)
    backwards = [type(found)(*(column[::-1] for column in found)) for found in detections]
    assert evaluate_coco(records, backwards, class_names=["a", "b", "c"])["AP"] != report["AP"]
    cut = [type(found)(*(column[:100] for column in found)) for found in detections]
    assert evaluate_coco(records, cut, class_names=["a", "b", "c"]) == report
    fewer = [type(found)(*(column[:20] for column in found)) for found in detections]
    assert evaluate_coco(records, fewer, class_names=["a", "b", "c"]) != report
    plain = [
        record._replace(is_crowd=record.is_crowd & False, is_difficult=record.is_crowd & False) for record in records
    ]
    assert evaluate_coco(plain, detections, class_names=["a", "b", "c"]) != report


def test_faster_coco_eval_agrees():
    """They agree to 1e-12; faster-coco-eval does not add 2.2e-16 to the number of detections as pycocotools does."""
    pytest.importorskip("faster_coco_eval")
    for seed in range(10):
        for (records, detections), names in ((hard_case(seed), list("abcde")), (random_case(seed), list("abc"))):
            report = evaluate_coco(records, detections, class_names=names)
            other = evaluate_coco(records, detections, class_names=names, backend="faster")
            assert numbers(other) == pytest.approx(numbers(report), rel=0, abs=1e-12)
            for name, row in other["per_class"].items():
                for key, value in report["per_class"][name].items():
                    assert row[key] == (value if value is None else pytest.approx(value, rel=0, abs=1e-12))


def test_pairs_in_parts_change_nothing(monkeypatch):
    records, detections = random_case(1, num_images=20)
    expected = evaluate_coco(records, detections, class_names=list("abc"))
    monkeypatch.setattr(table, "MOST_PAIRS", 3)
    assert evaluate_coco(records, detections, class_names=list("abc")) == expected


def test_a_backend_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(coco_packages, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"eval\.backend: faster needs faster-coco-eval .*frcnn\[fast\]"):
        evaluate_coco([], [], class_names=["a"], backend="faster")
    assert evaluate_coco([], [], class_names=["a"])["AP"] is None


def test_perfect_detections():
    """A small (20 x 20) and a large (100 x 100) object, each with a perfect detection: every metric is 1.

    AR1 allows one detection of each class and image: 1 of the 2 objects, both of one class: 1/2. No medium object.
    """
    boxes = [[0, 0, 20, 20], [50, 50, 150, 150]]
    report = evaluate_coco(
        [make_record(boxes, [1, 1])], [make_detections(boxes, [0.9, 0.8], [1, 1])], class_names=["a"]
    )
    assert [report[name] for name in METRICS] == [
        pytest.approx(value) if value is not None else None for value in [1, 1, 1, 1, None, 1, 0.5, 1, 1, 1, None, 1]
    ]


def test_areas_are_annotated_areas():
    """A 100 x 100 box whose mask has 500 square pixels is small."""
    box = [[0, 0, 100, 100]]
    report = evaluate_coco(
        [make_record(box, [1], areas=[500.0])], [make_detections(box, [0.9], [1])], class_names=["a"]
    )
    assert report["APs"] == pytest.approx(1) and report["APl"] is None


@pytest.mark.parametrize("kind", ["crowd", "difficult"])
def test_ignore_regions_take_any_number_of_detections(kind):
    """Three detections with higher scores inside an ignore region: none of them is wrong."""
    record = make_record([[0, 0, 30, 30], [50, 50, 150, 150]], [1, 1], **{kind: [1]})
    inside = [[50, 50, 90, 90], [60, 60, 99, 99], [100, 100, 150, 150]]
    found = make_detections([*inside, [0, 0, 30, 30]], [0.9, 0.8, 0.7, 0.6], [1] * 4)
    assert evaluate_coco([record], [found], class_names=["a"])["AP"] == pytest.approx(1)


def test_no_detections_are_zero_and_no_objects_are_none(capsys):
    nothing = make_detections([], [], [])
    report = evaluate_coco([make_record([[0, 0, 20, 20]], [1])], [nothing], class_names=["a", "b"])
    assert report["AP"] == 0 and report["AR100"] == 0 and report["APl"] is None
    assert report["per_class"] == {"a": {"AP": 0.0, "AP50": 0.0}, "b": {"AP": None, "AP50": None}}

    found = make_detections([[0, 0, 9, 9]], [0.9], [1])
    for records, detections in ([make_record([], [])], [found]), ([make_record([], [])], [nothing]), ([], []):
        for backend in ("auto", "pycocotools"):
            report = evaluate_coco(records, detections, class_names=["a"], backend=backend)
            assert all(report[name] is None for name in METRICS)
    assert capsys.readouterr().out == ""


def test_image_ids_that_are_names():
    """VOC's image ids are names. The metrics are the same."""
    records, detections = random_case(3)
    named = [record._replace(image_id=f"image_{record.image_id}") for record in records]
    names = ["a", "b", "c"]
    assert evaluate_coco(named, detections, class_names=names) == evaluate_coco(records, detections, class_names=names)
