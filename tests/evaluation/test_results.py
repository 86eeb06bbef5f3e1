import errno
import json
import os

import numpy as np
import pytest

from frcnn.data.formats.coco_results import read_results, write_results
from frcnn.errors import DataError
from tests.evaluation.examples import make_detections, make_record, random_case

IDS = [3, 7, 90]


def test_round_trip_is_bit_identical(tmp_path):
    records, detections = random_case(5)
    rng = np.random.default_rng(0)
    detections = [
        found._replace(boxes=(found.boxes + rng.random(found.boxes.shape)).astype(np.float32)) for found in detections
    ]
    write_results(tmp_path / "found.json", records, detections, category_ids=IDS)
    for found, again in zip(detections, read_results(tmp_path / "found.json", records, category_ids=IDS), strict=True):
        for before, after in zip(found, again, strict=True):
            assert before.dtype == after.dtype and np.array_equal(before, after)


def test_the_file_has_the_format_of_coco(tmp_path):
    path = tmp_path / "new folder" / "found.json"
    write_results(
        path, [make_record([], [], image_id=42)], [make_detections([[1, 2, 4, 8]], [0.5], [2])], category_ids=IDS
    )
    assert json.loads(path.read_text()) == [
        {"image_id": 42, "category_id": 7, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
    ]


def test_detections_are_sorted_and_images_without_any_are_empty(tmp_path):
    entries = [
        {"image_id": "b", "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.25},
        {"image_id": "b", "category_id": 90, "bbox": [0, 0, 2, 2], "score": 1},
    ]
    (tmp_path / "found.json").write_text(json.dumps(entries))
    records = [make_record([], [], image_id=name) for name in "ab"]
    first, second = read_results(tmp_path / "found.json", records, category_ids=IDS)
    assert first.boxes.shape == (0, 4) and first.labels.dtype == np.int64
    assert second.labels.tolist() == [3, 1]
    (tmp_path / "found.json").write_text("[]")
    assert [len(found.scores) for found in read_results(tmp_path / "found.json", records, category_ids=IDS)] == [0, 0]


GOOD = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5], "score": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "not a JSON file"),
        ('{"annotations": []}', "expected a list of detections"),
        ("[5]", "entry 0: expected an object"),
        (json.dumps([GOOD, {**GOOD, "image_id": 2}]), "entry 1: the dataset has no image 2"),
        (json.dumps([{**GOOD, "image_id": [1]}]), r"entry 0: the dataset has no image \[1\]"),
        (json.dumps([{**GOOD, "category_id": 4}]), r"entry 0: the dataset has no category 4; it has \[3, 7, 90\]"),
        (json.dumps([{"image_id": 1, "category_id": 3}]), "entry 0: has no bbox, score"),
        (json.dumps([{**GOOD, "bbox": [1, 2, 3]}]), r"entry 0: bbox is \[1, 2, 3\]"),
        (json.dumps([{**GOOD, "bbox": [1, 2, -3, 4]}]), "negative width"),
        (json.dumps([{**GOOD, "score": "high"}]), "entry 0: score holds 'high'"),
        (json.dumps([{**GOOD, "score": float("nan")}]), "score holds nan"),
    ],
)
def test_invalid_files(text, message, tmp_path):
    path = tmp_path / "found.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_results(path, [make_record([], [], image_id=1)], category_ids=IDS)
    assert str(path) in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_results(tmp_path / "none.json", [], category_ids=IDS)


def test_two_images_with_the_same_id(tmp_path):
    records = [make_record([], [], image_id=1)] * 2
    with pytest.raises(DataError, match="image id 1 occurs twice"):
        write_results(tmp_path / "found.json", records, [make_detections([], [], [])] * 2, category_ids=IDS)


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "found.json"
    path.write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        write_results(path, [make_record([], [])], [make_detections([], [], [])], category_ids=IDS)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["found.json"]
