"""COCO's tables computed by the packages pycocotools and faster-coco-eval, for comparison with this implementation."""

import contextlib
import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from frcnn.annotations import to_xywh
from frcnn.errors import ConfigError
from frcnn.evaluation.coco_matching import CocoTables
from frcnn.evaluation.table import DetectionTable, ObjectTable


def check_installed(backend: str) -> None:
    """Raise ConfigError if the package that `eval.backend` names is not installed."""
    if backend == "faster" and find_spec("faster_coco_eval") is None:
        raise ConfigError(
            'eval.backend: faster needs faster-coco-eval (pip install "frcnn[fast]"); auto needs no package'
        )


def evaluate_by_package(
    backend: str, objects: ObjectTable, detections: DetectionTable, *, image_rank: np.ndarray, num_classes: int
) -> CocoTables:
    """Compute the tables of `evaluate_tables` with a package: "pycocotools" or "faster".

    Raises:
        ConfigError: the package is not installed.
    """
    check_installed(backend)
    source = {"image_ids": range(len(image_rank)), "category_ids": range(1, num_classes + 1)}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluator(backend)(
            _Annotations(_object_rows(objects, image_rank), **source),
            _Annotations(_detection_rows(detections, image_rank), **source),
            iouType="bbox",
        )
        evaluation.evaluate()
        evaluation.accumulate()
    # (T, R, K, A, limits) -> at 100 detections
    return CocoTables(evaluation.eval["precision"][..., -1], evaluation.eval["recall"])


def _evaluator(backend: str) -> Any:
    if backend == "faster":
        from faster_coco_eval import COCOeval_faster  # pyright: ignore[reportMissingImports]

        return COCOeval_faster
    from pycocotools.cocoeval import COCOeval

    return COCOeval


class _Annotations:
    """The part of the pycocotools.COCO interface that an evaluator uses.

    The packages' own classes also index annotations by image, class and id. An evaluation of the whole dataset does not
    need that index, and building it takes longer than all of faster-coco-eval's matching.
    """

    def __init__(
        self, annotations: list[dict[str, Any]], *, image_ids: Sequence[int], category_ids: Sequence[int]
    ) -> None:
        self.annotations = annotations
        self.image_ids = image_ids
        self.category_ids = category_ids

    def getImgIds(self) -> list[int]:
        return list(self.image_ids)

    def getCatIds(self) -> list[int]:
        return list(self.category_ids)

    def getAnnIds(self, **_: Any) -> range:
        """Ids of all annotations; evaluators ask for all images and classes only."""
        return range(1, len(self.annotations) + 1)

    def loadAnns(self, ids: range) -> list[dict[str, Any]]:
        """The annotations; evaluators ask for all ids only."""
        return self.annotations


def _object_rows(objects: ObjectTable, image_rank: np.ndarray) -> list[dict[str, Any]]:
    """COCO annotations of the objects. Ids start at 1, because pycocotools treats a match with id 0 as no match."""
    columns = zip(
        image_rank[objects.image].tolist(),
        objects.labels.tolist(),
        to_xywh(objects.boxes).tolist(),
        objects.areas.tolist(),
        objects.is_region.astype(int).tolist(),
        strict=True,
    )
    return [
        {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": is_crowd}
        for number, (image, label, box, area, is_crowd) in enumerate(columns, start=1)
    ]


def _detection_rows(detections: DetectionTable, image_rank: np.ndarray) -> list[dict[str, Any]]:
    columns = zip(
        image_rank[detections.image].tolist(),
        detections.labels.tolist(),
        to_xywh(detections.boxes).tolist(),
        detections.scores.tolist(),
        strict=True,
    )
    return [
        {"id": number, "image_id": image, "category_id": label, "bbox": box, "score": score, "area": box[2] * box[3]}
        for number, (image, label, box, score) in enumerate(columns, start=1)
    ]
