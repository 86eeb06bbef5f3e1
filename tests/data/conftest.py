"""Small datasets written to a temporary folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_image(path: Path, height: int = 40, width: int = 60, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, size=(4, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height)).save(path)
    return path


@pytest.fixture
def voc_root(tmp_path):
    """Callable: write a VOC dataset from {stem: (height, width, [(name, (xmin, ymin, xmax, ymax), difficult)])}."""

    def write(images: dict, *, split: str = "trainval", name: str = "voc") -> Path:
        root = tmp_path / name
        (root / "Annotations").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        for seed, (stem, (height, width, objects)) in enumerate(images.items()):
            write_image(root / f"JPEGImages/{stem}.jpg", height, width, seed)
            body = "".join(
                f"<object><name>{kind}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>{box[0]}</xmin>"
                f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
                for kind, box, difficult in objects
            )
            size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            (root / f"Annotations/{stem}.xml").write_text(f"<annotation>{size}{body}</annotation>")
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(images) + "\n")
        return root

    return write


@pytest.fixture
def coco_files(tmp_path):
    """Callable: write images and an instances file; returns the two paths."""

    def write(*, categories, annotations, images=None, name: str = "coco") -> tuple[Path, Path]:
        folder = tmp_path / name / "images"
        if images is None:
            images = [{"id": 7, "file_name": "seven.jpg", "height": 40, "width": 60}]
        folder.mkdir(parents=True, exist_ok=True)
        for entry in images:
            if {"file_name", "height", "width"} <= entry.keys() and entry["height"] > 0:
                write_image(folder / entry["file_name"], entry["height"], entry["width"])
        document = {"images": images, "annotations": annotations, "categories": categories}
        path = tmp_path / name / "instances.json"
        path.write_text(json.dumps(document))
        return folder, path

    return write
