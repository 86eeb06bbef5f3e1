"""Malicious files with detections."""

import json

import pytest

from frcnn.data.formats.coco_results import read_results
from frcnn.data.formats.voc_results import read_voc_results
from frcnn.errors import DataError
from tests.evaluation.examples import make_record

GOOD = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5], "score": 0.5}
RECORDS = [make_record([], [], image_id=1)]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "1e300", "1" + "0" * 4000, "true"])
@pytest.mark.parametrize("key", ["bbox", "score"])
def test_huge_numbers(tmp_path, key, number):
    path = tmp_path / "found.json"
    value = [0, 0, "HERE", 5] if key == "bbox" else "HERE"
    path.write_text(json.dumps([{**GOOD, key: value}]).replace('"HERE"', number))
    with pytest.raises(DataError, match=rf"found\.json: entry 0: {key} holds .*, expected a finite number") as caught:
        read_results(path, RECORDS, category_ids=[3])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000])
def test_deep_nesting(tmp_path, text):
    path = tmp_path / "found.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"found\.json: not a JSON file"):
        read_results(path, RECORDS, category_ids=[3])


@pytest.mark.parametrize("number", ["1e999", "nan", "1e300", "9" * 5000])
def test_huge_numbers_in_voc_results(tmp_path, number):
    (tmp_path / "comp4_det_test_cat.txt").write_text(f"1 0.5 1 1 {number} 5\n")
    with pytest.raises(DataError, match=r"comp4_det_test_cat\.txt, line 1: .* is not a finite number") as caught:
        read_voc_results(tmp_path, RECORDS, class_names=["cat"], split="test")
    assert len(str(caught.value)) < 500


def test_results_above_the_limit_are_not_read(tmp_path, monkeypatch):
    (tmp_path / "comp4_det_test_cat.txt").write_text("1 0.5 1 1 5 5\n")
    monkeypatch.setenv("FRCNN_MAX_JSON_BYTES", "10")
    with pytest.raises(DataError, match=r"comp4_det_test_cat\.txt: has 14 bytes, more than the limit of 10"):
        read_voc_results(tmp_path, RECORDS, class_names=["cat"], split="test")
