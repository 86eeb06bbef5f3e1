from benchmarks.comparison_text import format_evaluation
from benchmarks.evaluation import annotation_file, compare_evaluation, make_up, result_file


def test_generated_data_have_the_requested_numbers():
    records, found = make_up(images=7, classes=3, detections=50, seed=0)
    assert len(records) == len(found) == 7
    assert sum(len(each.boxes) for each in found) == 50
    for record, each in zip(records, found, strict=True):
        assert (record.boxes[:, 2:] > record.boxes[:, :2]).all() and (each.boxes[:, 2:] > each.boxes[:, :2]).all()
        assert set(each.labels) <= {1, 2, 3}
        assert (each.scores[:-1] >= each.scores[1:]).all()
    dataset, results = annotation_file(records, ["a", "b", "c"]), result_file(records, found)
    assert len(results) == 50 and len(dataset["annotations"]) == sum(len(record.boxes) for record in records)


def test_both_give_the_same_numbers():
    result = compare_evaluation(images=30, classes=4, detections=900, rounds=1)
    assert result["difference"] == 0 and result["ratio"] is not None
    assert 0.05 < result["numbers"]["AP50"][0] < 1
    text = format_evaluation(result)
    assert "all numbers equal" in text and "CPU pressure" in text and result["machine"]["cpu"] in text


def test_numbers_that_differ_have_no_ratio(monkeypatch):
    monkeypatch.setattr("benchmarks.evaluation.run_pycocotools", lambda *_: [0.5] * 12)
    result = compare_evaluation(images=5, classes=2, detections=50, rounds=1)
    assert result["ratio"] is None
    assert "no ratio: the 12 numbers differ" in format_evaluation(result)
