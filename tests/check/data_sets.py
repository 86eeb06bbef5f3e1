"""Small datasets on disk, for tests that then damage them."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tests.training.experiments import tiny_settings

HEIGHT, WIDTH = 96, 128
OBJECTS = (("cat", (11, 11, 50, 50)), ("dog", (61, 21, 110, 80)))
EDGES = {"xmin": 0, "ymin": 1, "xmax": 2, "ymax": 3}


def noise(seed, height=HEIGHT, width=WIDTH):
    """Blocks of random colors, (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, size=(6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))


def xml_of(objects, height=HEIGHT, width=WIDTH):
    """A VOC annotation with (name, (xmin, ymin, xmax, ymax)) objects. It has no size if `height` is None."""
    body = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{edge}>{box[place]}</{edge}>" for edge, place in EDGES.items())
        + "</bndbox></object>"
        for name, box in objects
    )
    size = "" if height is None else f"<size><width>{width}</width><height>{height}</height></size>"
    return f"<annotation>{size}{body}</annotation>"


class VocFolder:
    """A VOC folder to which tests add images."""

    def __init__(self, root: Path):
        self.root = root
        self.lists = {"train": [], "val": []}
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True)

    def add(self, name, objects=OBJECTS, *, split="train", xml=None, picture=None, suffix="png"):
        """Add an image, by default noise, and its annotation. Returns the path of the image."""
        seed = sum(map(len, self.lists.values()))
        self.lists[split].append(name)
        path = self.root / f"JPEGImages/{name}.{suffix}"
        (Image.fromarray(noise(seed)) if picture is None else picture).save(path)
        (self.root / f"Annotations/{name}.xml").write_text(xml_of(objects) if xml is None else xml)
        return path

    def write_lists(self):
        for split, names in self.lists.items():
            (self.root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))

    def settings(self, **data):
        source = {"format": "voc", "root": str(self.root)}
        sources = {"train": source | {"split": "train"}, "val": source | {"split": "val"}}
        return settings_for(sources | data)


def settings_for(data):
    settings = tiny_settings(steps=2, num_logged_images=0)
    settings["data"] = {key: each for key, each in settings["data"].items() if key not in ("train", "val")} | data
    return settings


def shapes_settings():
    settings = tiny_settings(steps=2, num_logged_images=0)
    settings["data"]["train"]["num_images"], settings["data"]["val"]["num_images"] = 12, 2
    return settings


def clean_voc(root):
    voc = VocFolder(root)
    for number in range(12):
        voc.add(f"train_{number}")
    for number in range(4):
        voc.add(f"val_{number}", split="val")
    voc.write_lists()
    return voc


def write_config(path, settings):
    path.write_text(yaml.safe_dump(settings))
    return path


class CocoFiles:
    """COCO files for train and val with a common folder of images."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "images").mkdir(parents=True)
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        self.documents = {
            split: {"images": [], "annotations": [], "categories": [dict(each) for each in categories]}
            for split in ("train", "val")
        }
        for number in range(16):
            self.add(number + 1, split="train" if number < 12 else "val")

    def add(self, image_id, *, split="train"):
        name = f"{image_id}.png"
        Image.fromarray(noise(image_id)).save(self.folder / "images" / name)
        document = self.documents[split]
        document["images"].append({"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for category_id, (x1, y1, x2, y2) in enumerate((box for _, box in OBJECTS), start=1):
            self.annotate(image_id, [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1], category_id, split=split)

    def annotate(self, image_id, box, category_id=1, *, split="train", **fields):
        annotations = self.documents[split]["annotations"]
        entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id, "bbox": box}
        annotations.append(entry | fields)

    def settings(self, **data):
        sources = {}
        for split, document in self.documents.items():
            path = self.folder / f"{split}.json"
            path.write_text(json.dumps(document))
            sources[split] = {"format": "coco", "images": str(self.folder / "images"), "annotations": str(path)}
        return settings_for(sources | data)
