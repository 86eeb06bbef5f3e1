"""VOC mAP against hand-computed cases and against a second implementation, written here in plain loops."""

from fractions import Fraction

import numpy as np
import pytest

from frcnn.evaluation.voc import evaluate_voc
from tests.evaluation.examples import make_detections, make_record, random_case


def overlap_by_the_kit(box, other) -> Fraction:
    """IoU as the development kit writes it, on 1-based inclusive whole coordinates: with + 1."""
    width = min(box[2], other[2]) - max(box[0], other[0]) + 1
    height = min(box[3], other[3]) - max(box[1], other[1]) + 1
    if width <= 0 or height <= 0:
        return Fraction(0)
    size = (box[2] - box[0] + 1) * (box[3] - box[1] + 1) + (other[2] - other[0] + 1) * (other[3] - other[1] + 1)
    return Fraction(width * height, size - width * height)


def to_kit(box):
    """Continuous edges -> 1-based inclusive pixels."""
    x1, y1, x2, y2 = (int(value) for value in box)
    return (x1 + 1, y1 + 1, x2, y2)


def average_precision_by_loops(records, detections, label):
    """Area and 11-point AP of one class in exact fractions; None without objects."""
    objects = {}
    num_objects = 0
    for image, record in enumerate(records):
        objects[image] = []
        for number in range(len(record.boxes)):
            if record.labels[number] == label:
                ignored = bool(record.is_difficult[number] or record.is_crowd[number])
                objects[image].append({"box": to_kit(record.boxes[number]), "ignored": ignored, "taken": False})
                num_objects += not ignored
    if num_objects == 0:
        return None, None

    everything = []
    for image, found in enumerate(detections):
        for number in range(len(found.boxes)):
            if found.labels[number] == label:
                everything.append((float(found.scores[number]), image, to_kit(found.boxes[number])))
    everything.sort(key=lambda entry: -entry[0])

    right = wrong = 0
    curve = []
    for _, image, box in everything:
        best, best_overlap = None, Fraction(-1)
        for candidate in objects[image]:
            overlap = overlap_by_the_kit(box, candidate["box"])
            if overlap > best_overlap:
                best, best_overlap = candidate, overlap
        if best is None or best_overlap < Fraction(1, 2):
            wrong += 1
        elif best["ignored"]:
            continue
        elif best["taken"]:
            wrong += 1
        else:
            best["taken"] = True
            right += 1
        curve.append((Fraction(right, num_objects), Fraction(right, right + wrong)))

    eleven = sum(
        max((precision for recall, precision in curve if recall >= Fraction(tenth, 10)), default=Fraction(0))
        for tenth in range(11)
    ) / Fraction(11)
    area = Fraction(0)
    previous = Fraction(0)
    for position, (recall, _) in enumerate(curve):
        area += (recall - previous) * max(precision for _, precision in curve[position:])
        previous = recall
    return float(area), float(eleven)


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_loops_on_random_data(seed):
    records, detections = random_case(seed)
    report = evaluate_voc(records, detections, class_names=["a", "b", "c"])
    areas, elevens = [], []
    for label, name in enumerate("abc", start=1):
        area, eleven = average_precision_by_loops(records, detections, label)
        row = report["per_class"][name]
        assert row["AP"] == (None if area is None else pytest.approx(area, abs=1e-12))
        assert row["AP_11point"] == (None if eleven is None else pytest.approx(eleven, abs=1e-12))
        if area is not None:
            areas.append(area)
            elevens.append(eleven)
    assert report["mAP"] == pytest.approx(np.mean(areas), abs=1e-12)
    assert report["mAP_11point"] == pytest.approx(np.mean(elevens), abs=1e-12)


def test_the_random_data_holds_the_hard_cases():
    """Ties, ignored objects, duplicates and IoU of exactly 0.5 do occur; else the test above would show little."""
    num_ties = num_ignored = num_empty = num_half = 0
    for seed in range(40):
        records, detections = random_case(seed)
        for record, found in zip(records, detections, strict=True):
            num_ties += len(found.scores) - len(set(found.scores.tolist()))
            num_ignored += int(record.is_ignored.sum())
            num_empty += len(record.boxes) == 0
            for box in found.boxes:
                overlaps = [overlap_by_the_kit(to_kit(box), to_kit(other)) for other in record.boxes]
                num_half += Fraction(1, 2) in overlaps
    assert min(num_ties, num_ignored, num_empty, num_half) > 0


def one_class(records, detections):
    return evaluate_voc(records, detections, class_names=["a"])["per_class"]["a"]


FIRST, SECOND, FAR = [0, 0, 10, 10], [50, 50, 80, 90], [150, 150, 180, 180]


def test_three_detections_by_hand():
    """Two objects; found, stray, found.

    precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    Area: 1/2 * 1 + 1/2 * 2/3 = 5/6. 11 points: 6 of them (0 to 0.5) at 1, 5 (0.6 to 1) at 2/3: (6 + 10/3) / 11.
    """
    records = [make_record([FIRST, SECOND], [1, 1])]
    row = one_class(records, [make_detections([FIRST, FAR, SECOND], [0.9, 0.8, 0.7], [1, 1, 1])])
    assert row["AP"] == pytest.approx(5 / 6)
    assert row["AP_11point"] == pytest.approx((6 + 10 / 3) / 11)
    assert row["objects"] == 2


def test_the_second_detection_of_an_object_is_wrong():
    """Found, the same again, the other: precision 1, 1/2, 2/3; as if the duplicate were a stray."""
    records = [make_record([FIRST, SECOND], [1, 1])]
    row = one_class(records, [make_detections([FIRST, FIRST, SECOND], [0.9, 0.8, 0.7], [1, 1, 1])])
    assert row["AP"] == pytest.approx(5 / 6)


def test_a_taken_object_is_not_exchanged_for_the_next_best():
    """Two objects over each other; both detections overlap the first most (IoU 1), the second object only by 0.9.

    By the kit the second detection is wrong, though COCO would give it the other object: recall 1/2, AP 1/2.
    """
    records = [make_record([[0, 0, 10, 10], [0, 0, 10, 9]], [1, 1])]
    row = one_class(records, [make_detections([FIRST, FIRST], [0.9, 0.8], [1, 1])])
    assert row["AP"] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["difficult", "crowd"])
def test_detections_of_ignored_objects_count_neither_way(kind):
    """The two best detections lie on an ignored object; without them the one object is found at precision 1."""
    records = [make_record([FIRST, SECOND], [1, 1], **{kind: [1]})]
    row = one_class(records, [make_detections([SECOND, SECOND, FIRST], [0.9, 0.8, 0.7], [1, 1, 1])])
    assert row == {"AP": 1.0, "AP_11point": 1.0, "objects": 1}


def test_overlap_of_exactly_one_half_is_enough():
    """10 x 10 object, 10 x 5 detection inside it: IoU 50 / 100. One pixel row less: 40 / 100."""
    records = [make_record([FIRST], [1])]
    assert one_class(records, [make_detections([[0, 0, 10, 5]], [0.9], [1])])["AP"] == 1
    assert one_class(records, [make_detections([[0, 0, 10, 4]], [0.9], [1])])["AP"] == 0


def test_eleven_points_compare_recall_exactly():
    """3 of 10 objects found and nothing else: recall 3/10 reaches the points 0, 0.1, 0.2 and 0.3, so 4/11."""
    boxes = [[20 * k, 0, 20 * k + 10, 10] for k in range(10)]
    records = [make_record(boxes, [1] * 10)]
    row = one_class(records, [make_detections(boxes[:3], [0.9, 0.8, 0.7], [1, 1, 1])])
    assert row["AP_11point"] == pytest.approx(4 / 11)
    assert row["AP"] == pytest.approx(0.3)


def test_no_detection_is_zero_and_no_object_is_left_out():
    records = [make_record([FIRST], [1])]
    nothing = [make_detections([], [], [])]
    report = evaluate_voc(records, nothing, class_names=["a", "b"])
    assert report["per_class"]["a"]["AP"] == 0 and report["per_class"]["a"]["AP_11point"] == 0
    assert report["per_class"]["b"] == {"AP": None, "AP_11point": None, "objects": 0}
    assert report["mAP"] == 0  # of class a alone

    only_strays = [make_detections([FIRST], [0.9], [2])]
    assert evaluate_voc(records, only_strays, class_names=["a", "b"])["per_class"]["b"]["AP"] is None
    assert evaluate_voc([], [], class_names=["a"])["mAP"] is None


def test_equal_scores_keep_their_order():
    """A stray and a hit of one score: whichever image comes first is judged first, in one order or the other."""
    hit, stray = make_detections([FIRST], [0.5], [1]), make_detections([FAR], [0.5], [1])
    with_object, without = make_record([FIRST], [1]), make_record([], [])
    assert one_class([with_object, without], [hit, stray])["AP"] == 1
    assert one_class([without, with_object], [stray, hit])["AP"] == pytest.approx(1 / 2)


def test_records_and_detections_must_belong_together():
    with pytest.raises(ValueError, match="1 records"):
        evaluate_voc([make_record([], [])], [], class_names=["a"])
