import json

from frcnn.evaluation.evaluate import compute_metrics, format_report
from tests.evaluation.examples import make_detections, make_record, random_case


def test_the_report_is_strict_json_with_all_metrics():
    records, detections = random_case(1)
    report = compute_metrics(records, detections, class_names=["a", "b", "c", "never there"])
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert list(report) == ["coco", "voc", "per_class", "images"]
    assert len(report["coco"]) == 12 and set(report["voc"]) == {"mAP", "mAP_11point"}
    assert report["images"] == len(records)
    assert report["per_class"]["never there"] == {
        "AP": None,
        "AP50": None,
        "voc_AP": None,
        "voc_AP_11point": None,
        "objects": 0,
    }
    counted = sum((~record.is_difficult & ~record.is_crowd).sum() for record in records)
    assert sum(row["objects"] for row in report["per_class"].values()) == counted


def test_the_table_is_aligned():
    box = [[0, 0, 20, 20]]
    report = compute_metrics(
        [make_record(box, [1])], [make_detections(box, [0.9], [1])], class_names=["red blood cell", "b"]
    )
    assert format_report(report) == "\n".join(
        [
            "images: 1   objects: 1",
            "",
            "COCO       AP     AP50     AP75      APs      APm      APl",
            "        100.0    100.0    100.0    100.0        -        -",
            "          AR1     AR10    AR100      ARs      ARm      ARl",
            "        100.0    100.0    100.0    100.0        -        -",
            "VOC       mAP  11-point",
            "        100.0     100.0",
            "",
            "class           objects       AP     AP50   VOC AP  11-point",
            "red blood cell        1    100.0    100.0    100.0     100.0",
            "",
            "classes without objects in this dataset: b",
        ]
    )


def test_the_table_without_objects():
    assert "images: 0   objects: 0" in format_report(compute_metrics([], [], class_names=["a"]))
