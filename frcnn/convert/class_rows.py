"""Class names of the datasets on which published detectors were trained."""

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
"""COCO's 80 classes, ordered by category id."""
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Category ids in 1..90 without a class."""
COCO_IDS = [category_id for category_id in range(1, 91) if category_id not in COCO_UNUSED_IDS]

COCO_OUTPUTS = [dict(zip(COCO_IDS, COCO_NAMES, strict=True)).get(number, f"N/A {number}") for number in range(1, 91)]
"""Names of the 90 outputs of torchvision's detectors: output k is category id k, with or without a class."""

_VOC = (
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, person, "
    "pottedplant, sheep, sofa, train, tvmonitor"
)
VOC_NAMES = _VOC.split(", ")
"""Pascal VOC's 20 classes in alphabetical order, which all supported programs use."""

_KNOWN = (("coco", COCO_NAMES, COCO_IDS), ("coco", COCO_OUTPUTS, range(1, 91)), ("voc", VOC_NAMES, range(1, 21)))


class ClassList(NamedTuple):
    """The classes of a detector's outputs."""

    names: list[str]
    category_ids: list[int]
    dataset: str | None
    """coco or voc if the names are exactly those of the dataset, otherwise None."""
    is_assumed: bool = False
    """Whether the names were guessed from their number."""


def find_classes(num_classes: int, names: Sequence[str] | None) -> ClassList:
    """Find the classes of a detector with K outputs.

    Args:
        num_classes: K, without background.
        names: names from the user or the file; None uses the names of COCO for K = 80 and 90, and of VOC for K = 20.

    Raises:
        CheckpointError: the number of names is not K, a name is duplicated, or names is None for another K.
    """
    is_assumed = names is None
    if names is None:
        names = next((known for _, known, _ in _KNOWN if len(known) == num_classes), None)
    if names is None:
        raise CheckpointError(
            f"the file has {num_classes} classes but no class names: pass --classes with a list such as cat,dog or a "
            "file with one name per line, in the order of the outputs, without background"
        )
    if len(names) != num_classes:
        raise CheckpointError(f"{len(names)} class names for a file with {num_classes} classes (without background)")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise CheckpointError(f"duplicate class names: {', '.join(twice)}")
    for dataset, known, ids in _KNOWN:
        if list(names) == known:
            return ClassList(list(names), list(ids), dataset, is_assumed)
    return ClassList(list(names), list(range(1, num_classes + 1)), None)
