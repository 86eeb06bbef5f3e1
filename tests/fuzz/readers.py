"""The fuzzed readers: valid files, a function that mutates them, and a call that reads one."""

import io
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image

import frcnn
from frcnn.config import dump_config, load_config
from frcnn.data.annotated import AnnotatedDataset
from frcnn.data.formats.coco import read_coco
from frcnn.data.formats.coco_results import read_results, write_results
from frcnn.data.formats.csv_boxes import read_csv
from frcnn.data.formats.openimages import read_openimages
from frcnn.data.formats.raw import RawAnnotation
from frcnn.data.formats.voc_results import read_voc_results, write_voc_results
from frcnn.data.images import read_image
from frcnn.data.problems import ErrorPolicy
from frcnn.errors import UserError
from frcnn.files.checkpoint import save_checkpoint
from frcnn.files.weights import find_state_dict, read_weight_file
from frcnn.model.build_detector import build_detector
from tests.data.sources import coco_dataset, voc_dataset, yolo_dataset
from tests.evaluation.examples import random_case
from tests.fuzz import mutations
from tests.training.experiments import tiny_config, tiny_settings


class Reader(NamedTuple):
    samples: list[bytes]
    """Valid files."""
    mutate: Callable[[random.Random, bytes], bytes]
    path: Path
    """Where a file is written before it is read."""
    read: Callable[[Path], object]


def build_readers(folder: Path) -> dict[str, Reader]:
    """All readers by name. `folder` is an empty folder for their files."""
    return {
        **_data_readers(folder),
        **_table_readers(folder / "tables"),
        **_yolo_readers(folder),
        **_image_readers(folder),
        **_config_readers(folder),
        **_weight_readers(folder),
        **_result_readers(folder),
    }


XML = """<annotation><folder>VOC</folder><filename>a.jpg</filename>
<size><width>60</width><height>40</height><depth>3</depth>
</size><object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>20.5</ymax>
</bndbox><part><name>head</name></part></object><object><name>dog</name><difficult>1</difficult><bndbox><xmin>5</xmin>
<ymin>5</ymin><xmax>60</xmax><ymax>40</ymax></bndbox></object></annotation>"""

COCO = {
    "info": {"year": 2017},
    "images": [
        {"id": 7, "file_name": "a.jpg", "height": 40, "width": 60},
        {"id": "b", "file_name": "sub/b.png", "height": 20, "width": 30, "license": 1},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10.5, 20], "area": 99.5, "iscrowd": 0},
        {"id": 2, "image_id": "b", "category_id": 90, "bbox": [0, 0, 30, 20], "segmentation": [[1, 2, 3, 4]]},
        {"id": 3, "image_id": 7, "category_id": 3, "bbox": [5, 5, 5, 5], "iscrowd": 1},
    ],
    "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 90, "name": "dog"}],
}


def _data_readers(folder: Path) -> dict[str, Reader]:
    root = folder / "voc"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main", "sub"):
        (root / name).mkdir(parents=True)
    (root / "Annotations/a.xml").write_text(XML)
    (root / "Annotations/c.xml").write_text(XML)
    (root / "ImageSets/Main/one.txt").write_text("a\nb\n")

    def voc(split: str) -> Callable[[Path], object]:
        def read(_: Path) -> None:
            _both(lambda problems: voc_dataset(root, split=split, problems=problems, class_names=["cat", "dog"]))
            voc_dataset(root, split=split)

        return read

    def coco(path: Path) -> None:
        read_coco(root, path)
        _both(lambda problems: coco_dataset(root, path, problems=problems))
        _both(lambda problems: coco_dataset(root, path, problems=problems, class_names=["dog"], regions="drop"))

    lists = [b"a\n", b"a  1\nc -1\n\na 0\n"]
    return {
        "VOC XML": Reader([XML.encode()], mutations.mutate_xml, root / "Annotations/b.xml", voc("one")),
        "VOC list": Reader(lists, mutations.mutate_lines, root / "ImageSets/Main/two.txt", voc("two")),
        "COCO JSON": Reader([json.dumps(COCO).encode()], mutations.mutate_json, folder / "coco.json", coco),
    }


CSV = [
    b"a.jpg,1,2,30,20.5,cat\na.jpg,5,5,60,40,dog\nb.jpg,,,,,\n",
    b"class,width,height,ymax,xmax,ymin,xmin,filename,iscrowd\ncat,60,40,20,30,2,1,a.jpg,0\ndog,x,,9,9,0,0,b.jpg,1\n",
    b"path,x,y,w,h,label\n/disk/a.jpg,1,2,29,18,cat\n../b.jpg,0,0,60,40,dog\n",
]
OPENIMAGES = b"""ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf
a,xclick,/m/01,1,0.1,0.5,0.2,0.9,0
b,xclick,/m/02,1,0,1,0,1,1
"""


def _table_readers(folder: Path) -> dict[str, Reader]:
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (60, 40)).save(folder / name)
    (folder / "boxes.csv").write_bytes(CSV[0])
    (folder / "ids.csv").write_bytes(OPENIMAGES)
    (folder / "names.csv").write_bytes(b"/m/01,Cat\n/m/02,Dog\n")

    def read(make: Callable[[Path], RawAnnotation], names: list[str] | None) -> Callable[[Path], object]:
        def read(path: Path) -> None:
            raw = make(path)
            _both(lambda problems: AnnotatedDataset(raw, problems=problems))
            _both(lambda problems: AnnotatedDataset(raw, problems=problems, class_names=names))

        return read

    names, path = ["cat", "dog"], folder / "table.csv"
    return {
        "CSV": Reader(CSV, mutations.mutate_table, path, read(lambda path: read_csv(folder, path), names)),
        "CSV classes": Reader(
            [b"cat,0\ndog,1\n"],
            mutations.mutate_table,
            path,
            read(lambda path: read_csv(folder, folder / "boxes.csv", classes_file=path), None),
        ),
        "OpenImages boxes": Reader(
            [OPENIMAGES],
            mutations.mutate_table,
            path,
            read(lambda path: read_openimages(folder, path, folder / "names.csv"), ["Cat", "Dog"]),
        ),
        "OpenImages classes": Reader(
            [b"/m/01,Cat\n/m/02,Dog\n"],
            mutations.mutate_table,
            path,
            read(lambda path: read_openimages(folder, folder / "ids.csv", path), None),
        ),
    }


def _yolo_readers(folder: Path) -> dict[str, Reader]:
    roots = {name: folder / f"yolo_{name}" for name in ("labels", "list", "data")}
    for root in roots.values():
        for name in ("images/train", "labels/train"):
            (root / name).mkdir(parents=True)
        for name in ("a", "b"):
            Image.new("RGB", (60, 40)).save(root / f"images/train/{name}.png")
        (root / "data.yaml").write_text("train: list.txt\nnames: [cat, dog]\n")
        (root / "labels/train/b.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (roots["labels"] / "list.txt").write_text("images/train/a.png\n")

    def read(path: Path) -> None:
        root = next(root for root in roots.values() if root in path.parents)
        _both(lambda problems: yolo_dataset(root, split="train", problems=problems))
        yolo_dataset(root, split="train")

    labels = [b"0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.2 0.2 0.3 0.1\n"]
    lists = [b"images/train/a.png\n./images/train/b.png", b"/home/x/images/train/a.png"]
    documents = [
        {"path": "../yolo", "train": "images/train", "nc": 2, "names": ["cat", "dog"]},
        {"train": ["images/train"], "names": {0: "cat", 1: "dog"}},
    ]
    return {
        "YOLO labels": Reader(labels, mutations.mutate_lines, roots["labels"] / "labels/train/a.txt", read),
        "YOLO list": Reader(lists, mutations.mutate_lines, roots["list"] / "list.txt", read),
        "YOLO data.yaml": Reader(
            [yaml.safe_dump(document).encode() for document in documents],
            mutations.mutate_yaml,
            roots["data"] / "data.yaml",
            read,
        ),
    }


def _both(make: Callable[[ErrorPolicy], object]) -> None:
    """Call with both policies. Only the second one continues after a problem."""
    for on_error in ("raise", "skip"):
        try:
            made = make(ErrorPolicy(on_error))
        except UserError:
            continue
        _check_dataset(made)


def _check_dataset(dataset: object) -> None:
    assert isinstance(dataset, AnnotatedDataset)
    for record in dataset.records:
        assert np.isfinite(record.boxes).all() and np.isfinite(record.areas).all()
        assert (record.boxes >= 0).all() and (record.boxes[:, 2:] <= [record.width, record.height]).all()
        assert (record.boxes[:, 2:] > record.boxes[:, :2]).all()
        assert ((record.labels >= 1) & (record.labels <= len(dataset.class_names))).all()


def _image_readers(folder: Path) -> dict[str, Reader]:
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = rgb.quantize(16)
    grey16 = Image.fromarray(np.arange(204, dtype=np.uint16).reshape(12, 17) * 300)
    variants: dict[str, list[tuple[Image.Image, dict]]] = {
        "JPEG": [
            (rgb, {"exif": exif}),
            (rgb, {"restart_marker_rows": 1, "subsampling": 0}),
            (rgb.convert("L"), {}),
            (rgb.convert("CMYK"), {}),
            (rgb, {"progressive": True}),
        ],
        "PNG": [(rgb, {"exif": exif}), (grey16, {}), (palette, {"transparency": 3}), (rgb.convert("1"), {})],
        "TIFF": [(rgb, {}), (grey16, {}), (rgb, {"compression": "tiff_lzw"}), (rgb, {"compression": "jpeg"})],
        "GIF": [(palette, {}), (palette, {"save_all": True, "append_images": [palette.rotate(90)]})],
        "BMP": [(rgb, {}), (palette, {})],
        "WEBP": [(rgb, {"exif": exif}), (rgb, {"lossless": True})],
        "PPM": [(rgb, {})],
        "JPEG2000": [(rgb, {})],
    }

    def read(path: Path) -> None:
        pixels = read_image(path)
        assert pixels.dtype == torch.uint8 and pixels.shape[0] == 3 and pixels.numel() > 0

    readers = {}
    for kind, images in variants.items():
        samples = []
        for image, options in images:
            file = io.BytesIO()
            image.save(file, kind, **options)
            samples.append(file.getvalue())
        readers[kind] = Reader(samples, mutations.mutate_bytes, folder / "image.jpg", read)
    return readers


def _config_readers(folder: Path) -> dict[str, Reader]:
    (folder / "base.yaml").write_text(yaml.safe_dump(tiny_settings()))
    samples = [
        yaml.safe_dump(tiny_settings(), sort_keys=False).encode(),
        b"base: base.yaml\ntrain: {lr: 1e-3, epochs: 2}\ndata:\n  train: &a {format: voc, root: x}\n  val: *a\n",
    ]
    overrides = ["train.lr=0.1", "data.classes=[cat, dog]", "data.train.num_images=7", "model.backbone.weights=null"]

    def override(path: Path) -> None:
        lines = path.read_bytes().decode(errors="surrogateescape").split("\n")
        load_config(folder / "base.yaml", lines)

    return {
        "YAML": Reader(samples, mutations.mutate_yaml, folder / "config.yaml", lambda path: load_config(path)),
        "overrides": Reader(
            [line.encode() for line in overrides] + ["\n".join(overrides).encode()],
            lambda rng, data: rng.choice([mutations.mutate_lines, _mutate_override])(rng, data),
            folder / "overrides.txt",
            override,
        ),
    }


def _mutate_override(rng: random.Random, data: bytes) -> bytes:
    text = data.decode()
    place = rng.randrange(len(text) + 1)
    new = rng.choice([*mutations.YAML_BITS, *map(str, mutations.NUMBERS), ".", "=", "0.", "train.", "data."])
    return (text[:place] + new + text[place + rng.randrange(3) :]).encode("utf-8", "surrogatepass")


def _weight_readers(folder: Path) -> dict[str, Reader]:
    config = tiny_config()
    model = build_detector(
        config.model, num_classes=2, mean=config.data.mean, std=config.data.std, channels="rgb", pretrained=False
    )
    # Weights of the right shapes that need no memory, because only their description is fuzzed.
    state = {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in model.state_dict().items()}
    checkpoint = {
        "format": 1,
        "model": state,
        "config": dump_config(config),
        "class_names": ["cat", "dog"],
        "category_ids": [1, 2],
        "step": 3,
    }
    save_checkpoint(folder / "checkpoint.pt", checkpoint)
    tensors = {"model": {"conv.weight": torch.rand(4, 3, 3, 3), "bn.running_var": torch.ones(4)}, "epoch": 3}
    zipped, old = io.BytesIO(), io.BytesIO()
    torch.save(tensors, zipped)
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    arrays = {"model": {name: value.numpy() for name, value in tensors["model"].items()}, "__author__": "x"}
    pickles = [pickle.dumps(arrays, protocol) for protocol in (2, 4)]

    def read(path: Path) -> None:
        find_state_dict(read_weight_file(path), source=path)

    readers = {
        "checkpoint": Reader(
            [(folder / "checkpoint.pt").read_bytes()],
            mutations.mutate_zip,
            folder / "last.pt",
            lambda path: frcnn.load(path, device="cpu"),
        ),
        ".pth zip": Reader([zipped.getvalue()], mutations.mutate_zip, folder / "weights.pth", read),
        ".pth old": Reader([old.getvalue()], mutations.mutate_pickle, folder / "weights.pth", read),
        ".pkl": Reader(pickles, mutations.mutate_pickle, folder / "weights.pkl", read),
    }
    try:
        from safetensors.torch import save
    except ImportError:
        return readers
    plain = save(tensors["model"])
    return readers | {
        ".safetensors": Reader([plain], mutations.mutate_safetensors, folder / "weights.safetensors", read)
    }


def _result_readers(folder: Path) -> dict[str, Reader]:
    records, detections = random_case(5)
    write_results(folder / "found.json", records, detections, category_ids=[3, 7, 90])
    voc, names = folder / "results", ["cat", "dog", "cup"]
    write_voc_results(voc, records, detections, class_names=names, split="test")
    file = voc / "comp4_det_test_cat.txt"
    return {
        "detections": Reader(
            [(folder / "found.json").read_bytes()],
            mutations.mutate_json,
            folder / "detections.json",
            lambda path: read_results(path, records, category_ids=[3, 7, 90]),
        ),
        "VOC results": Reader(
            [file.read_bytes()],
            mutations.mutate_lines,
            file,
            lambda _: read_voc_results(voc, records, class_names=names, split="test"),
        ),
    }
