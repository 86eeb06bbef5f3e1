"""VOC mAP against hand-computed cases and a second implementation with plain loops."""

import math
import sys

import numpy as np
import pytest

from frcnn.evaluation import table
from frcnn.evaluation.voc import evaluate_voc
from tests.evaluation.examples import make_detections, make_record, random_boxes, random_case

MATLAB_POINTS = [k * 0.1 for k in range(5)] + [0.5] + [1 - k * 0.1 for k in range(4, -1, -1)]
"""0:0.1:1 with the documented algorithm of MATLAB's colon: half from the front, half from the back, the middle."""


def to_kit(box):
    """Continuous edges -> 1-based inclusive pixels."""
    x1, y1, x2, y2 = (int(value) for value in box)
    return (x1 + 1, y1 + 1, x2, y2)


def class_of_the_kit(records, detections, label):
    """The objects of one class by image, and the lines of its results file, in integer pixels for the kit."""
    objects, lines = {}, []
    for image, record in enumerate(records):
        ignored = record.is_difficult | record.is_crowd
        of_class = [number for number in range(len(record.boxes)) if record.labels[number] == label]
        objects[image] = [(*to_kit(record.boxes[number]), bool(ignored[number])) for number in of_class]
    for image, found in enumerate(detections):
        for number in range(len(found.boxes)):
            if found.labels[number] == label:
                lines.append((image, float(found.scores[number]), *to_kit(found.boxes[number])))
    return objects, lines


def overlap_by_the_kit(box, other):
    """IoU of the development kit, with + 1."""
    width = min(box[2], other[2]) - max(box[0], other[0]) + 1.0
    height = min(box[3], other[3]) - max(box[1], other[1]) + 1.0
    if width <= 0 or height <= 0:
        return 0.0
    area = (box[2] - box[0] + 1.0) * (box[3] - box[1] + 1.0)
    other_area = (other[2] - other[0] + 1.0) * (other[3] - other[1] + 1.0)
    return width * height / (area + other_area - width * height)


def recall_and_precision_by_loops(objects, lines):
    """Precision and recall after each line, as in the kit and in py-faster-rcnn's voc_eval; None without objects."""
    num_objects = sum(not difficult for of_image in objects.values() for *_, difficult in of_image)
    if num_objects == 0:
        return None
    is_taken = {image: [False] * len(of_image) for image, of_image in objects.items()}
    true_positives = false_positives = 0
    curve = []
    for image, _, *box in sorted(lines, key=lambda line: -line[1]):
        best_overlap, best = -math.inf, None
        for number, (*other, _) in enumerate(objects[image]):
            overlap = overlap_by_the_kit(box, other)
            if overlap > best_overlap:
                best_overlap, best = overlap, number
        if best is None or best_overlap < 0.5:
            false_positives += 1
        elif not objects[image][best][4]:
            if is_taken[image][best]:
                false_positives += 1
            else:
                is_taken[image][best] = True
                true_positives += 1
        judged = max(true_positives + false_positives, sys.float_info.epsilon)
        curve.append((true_positives / num_objects, true_positives / judged))
    return curve


def eleven_points_by_loops(curve, points):
    average = 0.0
    for point in points:
        highest = 0.0
        for recall, precision in curve:
            if recall >= point and precision > highest:
                highest = precision
        average += highest / 11
    return average


def area_by_loops(curve):
    """The rule since VOC 2010: make precision monotonic from the end, then sum the rectangles where recall grows."""
    recalls = [0.0] + [recall for recall, _ in curve] + [1.0]
    precisions = [0.0] + [precision for _, precision in curve] + [0.0]
    for position in range(len(precisions) - 2, -1, -1):
        precisions[position] = max(precisions[position], precisions[position + 1])
    area = 0.0
    for position in range(1, len(recalls)):
        if recalls[position] != recalls[position - 1]:
            area += (recalls[position] - recalls[position - 1]) * precisions[position]
    return area


def equals_the_loops(records, detections, names):
    report = evaluate_voc(records, detections, class_names=names)
    areas, elevens = [], []
    for label, name in enumerate(names, start=1):
        curve = recall_and_precision_by_loops(*class_of_the_kit(records, detections, label))
        row = report["per_class"][name]
        if curve is None:
            assert row == {"AP": None, "AP_11point": None, "objects": 0}
            continue
        areas.append(area_by_loops(curve))
        elevens.append(eleven_points_by_loops(curve, MATLAB_POINTS))
        assert row["AP"] == pytest.approx(areas[-1], rel=0, abs=1e-12)
        assert row["AP_11point"] == pytest.approx(elevens[-1], rel=0, abs=1e-12)
    assert report["mAP"] == pytest.approx(np.mean(areas), rel=0, abs=1e-12)
    assert report["mAP_11point"] == pytest.approx(np.mean(elevens), rel=0, abs=1e-12)


def tens_case(seed):
    """Ten or twenty objects of one class to find, and two difficult ones, of which some are found, with strays.

    Recall then stops at one of the tenths as a rule, which is where roundings of the 11 points show.
    """
    rng = np.random.default_rng(seed)
    num_objects, num_images = int(rng.choice([10, 20])), 4
    records, detections = [], []
    image_of_object = rng.integers(0, num_images, num_objects)
    for image in range(num_images):
        number = int((image_of_object == image).sum())
        boxes = [[30 * k, 0, 30 * k + 20, 20] for k in range(number + (image < 2))]
        records.append(make_record(boxes, [1] * len(boxes), difficult=[number]))
        chosen = rng.random(len(boxes)) < rng.choice([0.2, 0.5, 0.8])
        found = np.array(boxes, np.float32).reshape(-1, 4)[chosen] + rng.integers(-4, 5, (int(chosen.sum()), 4))
        strays = random_boxes(rng, int(rng.integers(0, 3))) + [0, 300, 0, 300]
        found = np.concatenate([found, found[:1], strays])
        scores = np.sort(rng.integers(1, 9, len(found)) / 8)[::-1]
        detections.append(make_detections(rng.permutation(found), scores, [1] * len(found)))
    return records, detections


@pytest.mark.parametrize("block", range(10))
def test_equals_the_loops_on_random_data(block):
    for seed in range(20 * block, 20 * block + 20):
        equals_the_loops(*random_case(seed), names=["a", "b", "c"])
        equals_the_loops(*tens_case(seed), names=["a"])


def test_pairs_in_parts_change_nothing(monkeypatch):
    monkeypatch.setattr(table, "MOST_PAIRS", 3)
    for seed in range(10):
        equals_the_loops(*random_case(seed), names=["a", "b", "c"])


def test_the_random_data_contains_the_hard_cases():
    """Equal scores, ignored objects, duplicates and IoUs of exactly 0.5 occur, as the test above needs."""
    num_ties = num_ignored = num_empty = num_half = 0
    for seed in range(40):
        records, detections = random_case(seed)
        for record, found in zip(records, detections, strict=True):
            num_ties += len(found.scores) - len(set(found.scores.tolist()))
            num_ignored += int(record.is_ignored.sum())
            num_empty += len(record.boxes) == 0
            for box in found.boxes:
                overlaps = [overlap_by_the_kit(to_kit(box), to_kit(other)) for other in record.boxes]
                num_half += 0.5 in overlaps
    assert min(num_ties, num_ignored, num_empty, num_half) > 0


def test_the_rounding_of_the_points_matters_in_the_random_data():
    """Exact tenths and py-faster-rcnn's np.arange give other results for some of it."""
    by_fractions = by_arange = 0
    for seed in range(200):
        curve = recall_and_precision_by_loops(*class_of_the_kit(*tens_case(seed), 1))
        kit = eleven_points_by_loops(curve, MATLAB_POINTS)
        by_fractions += abs(eleven_points_by_loops(curve, [k / 10 for k in range(11)]) - kit) > 1e-3
        by_arange += abs(eleven_points_by_loops(curve, np.arange(0.0, 1.1, 0.1)) - kit) > 1e-3
    assert by_fractions > 10 and by_arange > 10


def one_class(records, detections):
    return evaluate_voc(records, detections, class_names=["a"])["per_class"]["a"]


FIRST, SECOND, FAR = [0, 0, 10, 10], [50, 50, 80, 90], [150, 150, 180, 180]


def test_three_detections():
    """Two objects; right, wrong, right.

    precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    Area: 1/2 * 1 + 1/2 * 2/3 = 5/6. 11 points: 6 of them (0 to 0.5) at 1, 5 (0.6 to 1) at 2/3: (6 + 10/3) / 11.
    """
    records = [make_record([FIRST, SECOND], [1, 1])]
    row = one_class(records, [make_detections([FIRST, FAR, SECOND], [0.9, 0.8, 0.7], [1, 1, 1])])
    assert row["AP"] == pytest.approx(5 / 6)
    assert row["AP_11point"] == pytest.approx((6 + 10 / 3) / 11)
    assert row["objects"] == 2


def test_a_found_object_is_not_replaced_by_the_next_best():
    """Two overlapping objects. Both detections have IoU 1 with the first object and 0.9 with the second.

    In the kit the second detection is wrong, although COCO would match it with the other object: recall 1/2, AP 1/2.
    """
    records = [make_record([[0, 0, 10, 10], [0, 0, 10, 9]], [1, 1])]
    row = one_class(records, [make_detections([FIRST, FIRST], [0.9, 0.8], [1, 1])])
    assert row["AP"] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["difficult", "crowd"])
def test_detections_of_ignored_objects_do_not_count(kind):
    """The two best detections are on an ignored object. Without them the only object is found at precision 1."""
    records = [make_record([FIRST, SECOND], [1, 1], **{kind: [1]})]
    row = one_class(records, [make_detections([SECOND, SECOND, FIRST], [0.9, 0.8, 0.7], [1, 1, 1])])
    assert row == {"AP": 1.0, "AP_11point": 1.0, "objects": 1}


def test_an_iou_of_exactly_one_half_is_enough():
    """10 x 10 object, 10 x 5 detection inside it: IoU 50 / 100. With one row less: 40 / 100."""
    records = [make_record([FIRST], [1])]
    assert one_class(records, [make_detections([[0, 0, 10, 5]], [0.9], [1])])["AP"] == 1
    assert one_class(records, [make_detections([[0, 0, 10, 4]], [0.9], [1])])["AP"] == 0


@pytest.mark.parametrize(
    ("num_found", "num_objects", "points"),
    [
        (3, 10, 3),  # 3/10 < 3 * 0.1 in floating point: 0, 0.1 and 0.2 are reached, 0.3 is not
        (6, 20, 3),
        (7, 20, 4),  # 0.35
        (1, 10, 2),
        (2, 10, 3),
        (6, 10, 7),  # np.arange's 0.6000000000000001 would not be reached
        (7, 10, 8),
        (9, 10, 10),
        (10, 10, 11),
        (1, 3, 4),  # 0.333
    ],
)
def test_the_eleven_points_that_a_recall_reaches(num_found, num_objects, points):
    """`num_found` objects are found without errors: precision 1 at each point reached, so AP = points / 11."""
    boxes = [[20 * k, 0, 20 * k + 10, 10] for k in range(num_objects)]
    records = [make_record(boxes, [1] * num_objects)]
    scores = np.linspace(0.9, 0.1, num_found)
    row = one_class(records, [make_detections(boxes[:num_found], scores, [1] * num_found)])
    assert row["AP_11point"] == pytest.approx(points / 11)
    assert row["AP"] == pytest.approx(num_found / num_objects)


def test_ten_objects():
    """Of ten objects three are found, then two strays, then three more; of the last the first is found once again.

    precision 1, 1, 1, 3/4, 3/5, 4/6, 5/7, 6/8, 6/9 at recall .1, .2, .3, .3, .3, .4, .5, .6, .6.
    Highest precision at recall r or more: 1 up to 0.3, then 6/8 up to 0.6, then 0.
    Area: 0.3 * 1 + 0.3 * 3/4 = 0.525.
    11 points: 0, 0.1, 0.2 at 1; the fourth is above 3/10, so it, 0.4, 0.5 and 0.6 at 3/4; four at 0: 3 + 3 = 6 of 11.
    """
    boxes = [[20 * k, 0, 20 * k + 10, 10] for k in range(10)]
    found = [*boxes[:3], [0, 50, 9, 59], [0, 80, 9, 89], *boxes[3:6], boxes[3]]
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    row = one_class([make_record(boxes, [1] * 10)], [make_detections(found, scores, [1] * 9)])
    assert row["AP"] == pytest.approx(0.525)
    assert row["AP_11point"] == pytest.approx(6 / 11)


def test_the_best_of_several_detections_of_an_object_counts():
    """Scores, not overlaps, say which: IoU 0.6 at 0.9, then IoU 1 at 0.8 is the second of the object and wrong.

    precision 1, 1/2 at recall 1/2, 1/2: area 1/2, and 6 of the 11 points (0 to 0.5).
    """
    records = [make_record([FIRST, SECOND], [1, 1])]
    row = one_class(records, [make_detections([[0, 0, 10, 6], FIRST], [0.9, 0.8], [1, 1])])
    assert row["AP"] == pytest.approx(1 / 2) and row["AP_11point"] == pytest.approx(6 / 11)


def test_detections_of_difficult_objects_only():
    """No detection counts: precision is 0 / 0, which the kit's maximum ignores. The result is 0."""
    records = [make_record([FIRST, SECOND], [1, 1], difficult=[1])]
    row = one_class(records, [make_detections([SECOND], [0.9], [1])])
    assert row == {"AP": 0.0, "AP_11point": 0.0, "objects": 1}


def test_no_detection_is_zero_and_no_object_is_none():
    records = [make_record([FIRST], [1])]
    nothing = [make_detections([], [], [])]
    report = evaluate_voc(records, nothing, class_names=["a", "b"])
    assert report["per_class"]["a"]["AP"] == 0 and report["per_class"]["a"]["AP_11point"] == 0
    assert report["per_class"]["b"] == {"AP": None, "AP_11point": None, "objects": 0}
    assert report["mAP"] == 0  # class a only

    only_strays = [make_detections([FIRST], [0.9], [2])]
    assert evaluate_voc(records, only_strays, class_names=["a", "b"])["per_class"]["b"]["AP"] is None
    assert evaluate_voc([], [], class_names=["a"])["mAP"] is None


def test_equal_scores_keep_their_order():
    """A wrong and a right detection with equal scores: the image that comes first is judged first."""
    hit, stray = make_detections([FIRST], [0.5], [1]), make_detections([FAR], [0.5], [1])
    with_object, without = make_record([FIRST], [1]), make_record([], [])
    assert one_class([with_object, without], [hit, stray])["AP"] == 1
    assert one_class([without, with_object], [stray, hit])["AP"] == pytest.approx(1 / 2)


def test_records_and_detections_must_have_equal_length():
    with pytest.raises(ValueError, match="1 records"):
        evaluate_voc([make_record([], [])], [], class_names=["a"])
