"""Datasets of the files of one source."""

from frcnn.data.annotated import AnnotatedDataset
from frcnn.data.formats.coco import read_coco
from frcnn.data.formats.voc import read_voc
from frcnn.data.formats.yolo import read_yolo
from frcnn.data.problems import ErrorPolicy


def voc_dataset(root, *, split="trainval", on_error="raise", coordinates="edges", problems=None, **options):
    raw = read_voc(root, split, coordinates=coordinates)
    return AnnotatedDataset(raw, problems=problems or ErrorPolicy(on_error), **options)


def coco_dataset(images, annotations, *, on_error="raise", problems=None, **options):
    return AnnotatedDataset(read_coco(images, annotations), problems=problems or ErrorPolicy(on_error), **options)


def yolo_dataset(root, *, split=None, on_error="raise", problems=None, **options):
    return AnnotatedDataset(read_yolo(root, split=split), problems=problems or ErrorPolicy(on_error), **options)
