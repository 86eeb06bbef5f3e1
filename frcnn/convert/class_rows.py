"""Class names of the data sets that published detectors were trained on, as plain data."""

from collections.abc import Sequence
from typing import NamedTuple

from frcnn.errors import CheckpointError

_COCO = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush"
)
COCO_NAMES = _COCO.split(", ")
"""COCO's 80 classes in the order of their ids."""
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Ids of 1..90 that no class has."""
COCO_IDS = [category_id for category_id in range(1, 91) if category_id not in COCO_UNUSED_IDS]

COCO_OUTPUTS = [dict(zip(COCO_IDS, COCO_NAMES, strict=True)).get(number, f"N/A {number}") for number in range(1, 91)]
"""What the 90 outputs of torchvision's detectors stand for: output k is category id k, used or not."""

_VOC = (
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, person, "
    "pottedplant, sheep, sofa, train, tvmonitor"
)
VOC_NAMES = _VOC.split(", ")
"""Pascal VOC's 20 classes, alphabetically, as every program here orders them."""

_KNOWN = (("coco", COCO_NAMES, COCO_IDS), ("coco", COCO_OUTPUTS, range(1, 91)), ("voc", VOC_NAMES, range(1, 21)))


class ClassList(NamedTuple):
    """What the outputs of a detector stand for."""

    names: list[str]
    category_ids: list[int]
    dataset: str | None
    """coco or voc, where the names are exactly its."""
    is_assumed: bool = False
    """Nobody named them; it was their number that told."""


def find_classes(num_classes: int, names: Sequence[str] | None) -> ClassList:
    """The classes of a detector with K outputs.

    Args:
        num_classes: K, without background.
        names: as the user or the file gives them; None takes those of COCO for K = 80 and 90, of VOC for K = 20.

    Raises:
        CheckpointError: another number of names than K, names twice, or None for another K.
    """
    is_assumed = names is None
    if names is None:
        names = next((known for _, known, _ in _KNOWN if len(known) == num_classes), None)
    if names is None:
        raise CheckpointError(
            f"the file has {num_classes} classes but does not name them: give --classes, a file with a name a line "
            "or a list such as cat,dog, in the order of the outputs, without background"
        )
    if len(names) != num_classes:
        raise CheckpointError(f"{len(names)} class names for a file of {num_classes} classes (background not counted)")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise CheckpointError(f"class names must differ; {', '.join(twice)} is there more than once")
    for dataset, known, ids in _KNOWN:
        if list(names) == known:
            return ClassList(list(names), list(ids), dataset, is_assumed)
    return ClassList(list(names), list(range(1, num_classes + 1)), None)
