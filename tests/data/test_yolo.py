"""YOLO datasets: layouts, data.yaml, rows, and the copy that frcnn check-data --fix writes."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frcnn.check.build_checks import check_config
from frcnn.check.fix import write_fixed
from frcnn.cli.main import main
from frcnn.config import parse_config
from frcnn.config.schema import DataConfig
from frcnn.data import build_datasets
from frcnn.data.formats.yolo import read_yolo
from frcnn.errors import DataError
from tests.check.data_sets import noise, settings_for, write_config
from tests.data.conftest import write_image
from tests.data.sources import voc_dataset, yolo_dataset

BOX = "1 0.5 0.5 0.5 0.25"


def write(root, files, names="[cat, dog]"):
    """Write images of 60 x 40 pixels and their labels: {path of the image: rows, or None for no label file}."""
    for seed, (name, rows) in enumerate(files.items()):
        write_image(root / name, 40, 60, seed)
        if rows is not None:
            head, _, tail = f"/{name}".rpartition("/images/")
            label = root / (f"{head}/labels/{tail}".strip("/") if head or tail != f"/{name}" else name)
            label = label.with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(rows)
    if names is not None:
        (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    return root


def rows_of(tmp_path, rows, **options):
    """The dataset of one image with these rows."""
    return yolo_dataset(write(tmp_path / "set", {"images/train/a.png": rows}), split="train", **options)


def test_boxes_labels_and_areas(tmp_path):
    record = rows_of(tmp_path, f"{BOX}\n0.0 0.25 0.5 0.5 1\n\n").records[0]
    assert record.boxes.tolist() == [[15, 15, 45, 25], [0, 0, 30, 40]]
    assert record.boxes.dtype == np.float32 and record.labels.tolist() == [2, 1]
    assert record.areas.tolist() == [300, 1200]
    assert (record.image_id, record.height, record.width) == ("images/train/a.png", 40, 60)


def test_boxes_and_polygons_are_told_apart_row_by_row(tmp_path):
    triangle = "0 0.0 0.0 0.5 0.0 0.5 0.5"
    quadrilateral = "1 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5"
    record = rows_of(tmp_path, f"{triangle}\n{BOX}\n{quadrilateral}").records[0]
    assert record.boxes.tolist() == [[0, 0, 30, 20], [15, 15, 45, 25], [15, 10, 45, 30]]
    assert np.allclose(record.areas, [300, 300, 300], atol=1e-9)


def test_category_ids_are_the_numbers_of_the_files(tmp_path):
    dataset = rows_of(tmp_path, BOX)
    assert dataset.class_names == ("cat", "dog") and dataset.category_ids == (0, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1 0.5 0.5 0.5 0.25 0.9", "6 fields, as in predictions with a confidence"),
        ("1 0.5 0.5 0.5", r"4 field\(s\); expected class cx cy w h"),
        ("1 0.1 0.1 0.2 0.2 0.3 0.1 0.9", r"8 field\(s\)"),
        ("dog 0.5 0.5 0.5 0.25", "not a number: 'dog'"),
        ("1 0.5 0.5 nan 0.25", "nan is not in 0..1"),
        ("1 0.5 0.5 1e999 0.25", "inf is not in 0..1"),
        ("1 30 20 30 10", "30 is not in 0..1; coordinates are fractions"),
        ("1 0.5 0.5 -0.5 0.25", "-0.5 is not in 0..1"),
        ("-1 0.5 0.5 0.5 0.25", "the class must be a whole number from 0, found '-1'"),
        ("0.5 0.5 0.5 0.5 0.25", "the class must be a whole number"),
        ("2 0.5 0.5 0.5 0.25", r"there is no class 2; the classes are 0\.\.1"),
        ("1 0.5 0.5 0 0.25", "box without area"),
        ("1 0.1 0.1 0.2 0.2 0.3 0.3", "the polygon has no area"),
    ],
)
def test_a_bad_row_is_named_and_skipped_alone(tmp_path, row, message, caplog):
    rows = f"{BOX}\n{row}\n{BOX}"
    with pytest.raises(DataError, match=rf"labels/train/a\.txt: line 2.*{message}"):
        rows_of(tmp_path, rows)
    dataset = rows_of(tmp_path, rows, on_error="skip")
    assert len(dataset.records[0].boxes) == 2 and dataset.problems.count == len(caplog.messages) == 1


def test_coordinates_within_the_tolerance_are_clipped(tmp_path):
    record = rows_of(tmp_path, "0 0.5 0.5 1.005 1.0\n1 0.95 0.5 0.2 0.5").records[0]
    assert record.boxes.tolist() == [[0, 0, 60, 40], [51, 10, 60, 30]]


@pytest.mark.parametrize("rows", [None, "", "\n \n"])
def test_an_image_without_label_file_or_rows_has_no_objects(tmp_path, rows):
    assert rows_of(tmp_path, rows).records[0].boxes.shape == (0, 4)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"0" * (5 * 2**20)])
def test_an_unreadable_label_file_makes_its_image_unusable(tmp_path, content):
    root = write(tmp_path / "set", {"images/train/a.png": BOX, "images/train/b.png": BOX})
    (root / "labels/train/b.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"b\.txt: (cannot be read: .*utf-8|has 5,242,880 bytes)"):
        yolo_dataset(root, split="train")
    assert [each.image_id for each in yolo_dataset(root, split="train", on_error="skip").records] == [
        "images/train/a.png"
    ]


def test_an_image_that_cannot_be_read_is_one_problem(tmp_path):
    root = write(tmp_path / "set", {"images/train/a.png": BOX, "images/train/b.png": f"{BOX}\nbad"})
    (root / "images/train/b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.png: cannot read image: not a supported"):
        yolo_dataset(root, split="train")
    dataset = yolo_dataset(root, split="train", on_error="skip")
    assert (len(dataset), dataset.problems.count) == (1, 1)


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("images/train", "train"),
        ("train/images", "train"),
        ("valid/images", "val"),
        ("images/val", "valid"),
        ("train", "train"),
        ("images", None),
        ("", None),
        ("images/train/sub", "train"),
        ("images/old/images/train", "images/old/images/train"),
    ],
)
def test_layouts_without_data_yaml(tmp_path, folder, split):
    root = write(tmp_path / "set", {f"{folder}/a.v2.jpg".strip("/"): f"{BOX}\n10 0.5 0.5 0.1 0.1"}, names=None)
    raw = read_yolo(root, split=split)
    assert raw.names == ["1", "10"] and not raw.is_declared
    assert raw.objects.names.tolist() == [0, 1] and raw.images[0].annotation.name == "a.v2.txt"
    (root / "classes.txt").write_text("cat\ndog\n\n")
    raw = read_yolo(root, split=split)
    assert raw.names == ["cat", "dog"] and raw.is_declared and raw.objects.names.tolist() == [1, -1]
    assert "line 2: there is no class 10" in raw.faults[0].message


def test_a_missing_split_names_what_was_searched(tmp_path):
    root = write(tmp_path / "set", {"images/train/a.png": BOX})
    with pytest.raises(DataError, match=r"data\.yaml: no entry for the split 'test'; existing splits: train, val"):
        read_yolo(root, split="test")
    with pytest.raises(DataError, match=r"data\.yaml: val: there is no folder or list 'images/val'"):
        read_yolo(root, split="val")
    (root / "data.yaml").unlink()
    with pytest.raises(DataError, match="neither a data.yaml nor a folder images/test, test/images, test"):
        read_yolo(root, split="test")
    with pytest.raises(DataError, match=r"'\.\./x' leads out of this folder"):
        read_yolo(root, split="../x")
    with pytest.raises(DataError, match="gone: no such folder"):
        read_yolo(root / "gone")
    (root / "images/test").mkdir()
    with pytest.raises(DataError, match="test: there are no images in this folder"):
        read_yolo(root, split="test")


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("", "images/train"),
        ("path: .\n", "./images/train/"),
        ("path: sub\n", "train"),
        ("path: /home/someone/set\n", "images/train"),
        ("path: ../datasets/set\n", "images/train"),
        ("", "../images/train"),
        ("", "/content/drive/set/images/train"),
        ("", "'C:\\set\\images\\train'"),
        ("", "[images/train]"),
        ("", "lists/train.txt"),
    ],
)
@pytest.mark.parametrize("key", ["root", "data"])
def test_paths_of_data_yaml(tmp_path, path, entry, key):
    folder = "sub/train" if "sub" in path else "images/train"
    root = write(tmp_path / "set", {f"{folder}/a.png": BOX})
    (root / "lists").mkdir()
    (root / "lists/train.txt").write_text("./images/train/a.png\n\n")
    (root / "data.yaml").write_text(f"{path}train: {entry}\nnc: 2\nnames: {{0: cat, 1: 2}}\ndownload: rm -r /\n")
    raw = read_yolo(*((root,) if key == "root" else (None, root / "data.yaml")), split="train")
    assert [image.path for image in raw.images] == [root / folder / "a.png"] and raw.names == ["cat", "2"]
    assert raw.origin == (root if key == "root" else root / "data.yaml") and raw.origin_key == key
    notes = raw.notes
    is_other = "/home" in path or ".." in path or ".." in entry or "content" in entry or "C:" in entry
    assert len(notes) == is_other and all("data.yaml: " in note and str(root) in note for note in notes)


def test_a_list_with_names_of_another_machine_repeated_and_missing_images(tmp_path):
    root = write(tmp_path / "set", {"images/train/a.png": BOX, "images/train/b.png": BOX, "images/train/c.png": BOX})
    lines = ["/home/x/set/images/train/a.png", str(root / "images/train/b.png"), "images/train/c.png", "gone.png"]
    (root / "train.txt").write_text("\n".join([*lines, "images/train/c.png", "../../../etc/passwd", "images"]))
    (root / "data.yaml").write_text("train: train.txt\nnames: [cat, dog]\n")
    raw = read_yolo(root, split="train")
    assert [image.path and image.path.stem for image in raw.images] == ["a", "b", "c", None, None, None]
    assert [fault.kind for fault in raw.faults] == ["listed twice", *["no image"] * 3]
    assert "1 image(s) are read from another path, such as '/home/x" in raw.notes[0]
    with pytest.raises(DataError, match=r"train\.txt: line 4: there is no image 'gone\.png' in "):
        yolo_dataset(root, split="train")
    dataset = yolo_dataset(root, split="train", on_error="skip")
    assert (len(dataset), dataset.problems.count) == (3, 3)
    assert dataset.notes == raw.notes


@pytest.mark.parametrize("root", [".", "../set", "../set/../set", "labels/.."])
def test_relative_folders(tmp_path, root, monkeypatch):
    write(tmp_path / "set", {"images/train/a.png": BOX})
    (tmp_path / "set/data.yaml").write_text("train: labels/../images/train\nval: list.txt\nnames: [cat, dog]\n")
    (tmp_path / "set/list.txt").write_text("./images/../images/train/a.png\n")
    monkeypatch.chdir(tmp_path / "set")
    for split in ("train", "val"):
        raw = read_yolo(Path(root), split=split)
        assert [image.image_id for image in raw.images] == ["images/train/a.png"] and not raw.faults and not raw.notes
        assert raw.name == f"yolo set {split}" and len(raw.objects.rows) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", r"data\.yaml, line 1: "),
        ("- a", "expected the keys train, val and names"),
        ("train: images/train\nnames: [cat]\nnc: 2", "nc is 2, but names has 1 classes"),
        ("train: images/train\nnames: [cat]\nnc: x", "nc must be the number of classes, found 'x'"),
        ("train: images/train\nnc: 1000000000000", "nc must be the number"),
        ("train: images/train\nnames: {0: cat, 2: dog}", r"the keys of names must be 0\.\.1, found \[0, 2\]"),
        ("train: images/train\nnames: [true]", "names must be a list of texts"),
        ("train: images/train\nnames: []", "names must be a list of texts"),
        ("train: {a: 1}\nnames: [cat]", "train: there is no folder or list"),
        ("train: data.yaml\nnames: [cat]", "expected a folder or a .txt list of images"),
        ("train: empty.txt\nnames: [cat]", "empty.txt: the list is empty"),
        ("train: images/train\nnames: [cat]\nkpt_shape: [17, 3]", "keypoints"),
        ("train: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("train: /etc\nnames: [cat]", "train: there is no folder or list '/etc'"),
    ],
)
def test_unusable_data_yaml(tmp_path, text, message):
    root = write(tmp_path / "set", {"images/train/a.png": BOX})
    (root / "empty.txt").write_text("\n")
    (root / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_yolo(root, split="train")


def test_numbers_are_the_names_if_data_yaml_has_only_nc(tmp_path):
    root = write(tmp_path / "set", {"images/train/a.png": BOX})
    (root / "data.yaml").write_text("train: images/train\nnc: 3\n")
    assert read_yolo(root, split="train").names == ["0", "1", "2"]


def test_a_source_has_either_root_or_data(tmp_path):
    for source in ({}, {"root": "a", "data": "b"}):
        with pytest.raises(ValueError, match="give either root"):
            DataConfig(train={"format": "yolo", **source}, val={"format": "yolo", "root": "a"})


def test_boxes_are_relative_to_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    root = write(tmp_path / "set", {"images/train/a.jpg": BOX})
    Image.new("RGB", (60, 40)).save(root / "images/train/a.jpg", exif=exif)
    dataset = yolo_dataset(root, split="train")
    assert dataset.records[0].boxes.tolist() == [[10, 22.5, 30, 37.5]]
    assert dataset.read_image(0).shape == (3, 60, 40)


ROWS = "0 0.2734375 0.3125 0.3125 0.41666666\n1 0.6640625 0.52083333 0.390625 0.625\n"


class YoloFolder:
    """A YOLO dataset of noise with two objects per image, for tests that damage it."""

    def __init__(self, root, *, train=12, val=4):
        self.root = root
        for number in range(train + val):
            self.add(f"{'train' if number < train else 'val'}_{number}", split="train" if number < train else "val")
        (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")

    def add(self, name, rows=ROWS, *, split="train"):
        for folder in ("images", "labels"):
            (self.root / folder / split).mkdir(parents=True, exist_ok=True)
        seed = len(list(self.root.rglob("*.png")))
        Image.fromarray(noise(seed)).save(self.root / f"images/{split}/{name}.png")
        (self.root / f"labels/{split}/{name}.txt").write_text(rows)

    def settings(self, **data):
        source = {"format": "yolo", "root": str(self.root)}
        return settings_for({split: source | {"split": split} for split in ("train", "val")} | data)


def cases_of(settings, **options):
    check = check_config(parse_config(settings, source="test"), **options)
    return {finding.kind: [each.text for each in finding.examples] for finding in check.findings}


def test_valid_data_has_no_findings(tmp_path):
    assert cases_of(YoloFolder(tmp_path / "set").settings()) == {}


def broken(root):
    yolo = YoloFolder(root)
    yolo.add("words", f"{ROWS}left 0.5 0.5 0.1 0.1\n")
    yolo.add("repeated", f"\n{ROWS}{ROWS.splitlines()[0]}\n")
    yolo.add("unknown", f"{ROWS}2 0.5 0.1 0.1 0.1\n")
    yolo.add("flat", f"{ROWS}0 0.5 0.1 0 0.1\n")
    yolo.add("over", f"{ROWS}0 0.95 0.2 0.2 0.3\n1 0.6 0.9 0.9 0.9 0.75 1.01\n")
    yolo.add("gone")
    (root / "images/train/gone.png").write_bytes(b"no image")
    return yolo


def test_findings_name_the_label_file_and_the_line(tmp_path):
    root = tmp_path / "set"
    cases = cases_of(broken(root).settings())
    assert cases["line-unreadable"] == [f"{root}/labels/train/words.txt: line 3: not a number: 'left'"]
    assert cases["box-duplicate"][0].startswith("repeated.txt: line 4 (cat): cx 0.273438 cy 0.3125")
    assert cases["box-duplicate"][0].endswith("same as line 2 (cat)")
    assert cases["class-unknown"][0].startswith("unknown.txt: line 3 (unknown category): not one of cat, dog")
    assert cases["box-zero-area"] == ["flat.txt: line 3 (cat): cx 0.5 cy 0.1 w 0 h 0.1 in 128 x 96"]
    assert [text.split(" (")[0] for text in cases["box-over-border"]] == ["over.txt: line 3"]
    assert len(cases["image-unreadable"]) == 1
    unread = cases_of(broken(tmp_path / "other").settings(), most_images=0)["image-unreadable"]
    assert len(unread) == 1 and "gone.png: cannot read image" in unread[0]


@pytest.mark.parametrize("key", ["root", "data"])
def test_the_fixed_copy_can_be_trained_with(tmp_path, key):
    root, out = tmp_path / "set", tmp_path / "out"
    settings = broken(root).settings()
    if key == "data":
        for split in ("train", "val"):
            settings["data"][split] = {"format": "yolo", "data": str(root / "data.yaml"), "split": split}
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    lines = write_fixed(check_config(parse_config(settings, source="test")), out)
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    place = out if key == "root" else out / "data.yaml"
    assert lines[-1].strip() == f"data.train.{key}={place} data.val.{key}={place}"
    changes = (out / "changes.txt").read_text()
    assert "train: line removed, " in changes and "words.txt: line 3" in changes
    assert "train: over.txt: line 3 (cat): clipped to the image" in changes
    assert "train: gone.png: image removed, its file is unreadable" in changes
    for split in ("train", "val"):
        settings["data"][split][key] = str(place)
    data = parse_config(settings, source="test").data
    train_set, val_set = build_datasets(data)
    assert data.on_error == "raise" and (len(train_set), len(val_set)) == (17, 4)
    assert {len(record.boxes) for record in train_set.records} == {2, 4}
    assert train_set.read_image(0).shape == (3, 96, 128)
    folder = out if key == "root" else out / "data"
    over = (folder / "labels/train/over.txt").read_text().splitlines()[2].split()
    assert np.allclose([float(each) for each in over], [0, 0.925, 0.2, 0.15, 0.3])
    assert (folder / "images/train/over.png").is_symlink() and not (folder / "images/train/gone.png").exists()
    assert set(cases_of(settings)) <= {"box-tiny"}


def test_the_fixed_copy_of_a_dataset_without_splits(tmp_path):
    root, out = tmp_path / "set", tmp_path / "out"
    write(root, {"images/a.png": f"{BOX}\nbad", "images/b.png": None}, names=None)
    (root / "classes.txt").write_text("cat\ndog\n")
    source = {"format": "yolo", "root": str(root)}
    write_fixed(check_config(parse_config(settings_for({"train": source, "val": source}), source="test")), out)
    dataset = yolo_dataset(out)
    assert dataset.class_names == ("cat", "dog") and [len(each.boxes) for each in dataset.records] == [1, 0]
    assert not (out / "labels/b.txt").exists()


def test_train_check_and_eval_on_the_command_line(tmp_path, capsys):
    yolo = YoloFolder(tmp_path / "set", train=4, val=2)
    config, run = str(write_config(tmp_path / "config.yaml", yolo.settings())), str(tmp_path / "run")
    assert main(["check-data", config, "--fail-on", "error"]) == 0
    assert "train  yolo set train: 4 images, 8 objects; 4 image files read" in capsys.readouterr().out
    assert main(["train", config, "--out", run]) == 0
    report = json.loads((tmp_path / "run/eval.json").read_text())
    assert report["images"] == 2 and set(report["per_class"]) == {"cat", "dog"}
    assert main(["eval", run, "--save-detections", "--out", str(tmp_path / "eval")]) == 0
    (path,) = (tmp_path / "eval").rglob("detections.json")
    found = json.loads(path.read_text())
    assert {each["image_id"] for each in found} <= {"images/val/val_4.png", "images/val/val_5.png"}
    assert {each["category_id"] for each in found} <= {0, 1}


def test_bccd_in_yolo_layout_equals_voc(shared_path, tmp_path):
    voc = voc_dataset(shared_path("datasets/bccd"), on_error="skip")
    root = tmp_path / "bccd"
    for folder in ("images", "labels"):
        (root / folder / "train").mkdir(parents=True)
    for record in voc.records:
        os.symlink(record.path.resolve(), root / f"images/train/{record.path.name}")
        sides = np.array([record.width, record.height])
        boxes = record.boxes.astype(np.float64)
        rows = np.column_stack([(boxes[:, :2] + boxes[:, 2:]) / 2 / sides, (boxes[:, 2:] - boxes[:, :2]) / sides])
        text = "".join(
            f"{label - 1} {' '.join(f'{value:.7f}' for value in row)}\n"
            for label, row in zip(record.labels, rows, strict=True)
        )
        (root / f"labels/train/{record.image_id}.txt").write_text(text)
    (root / "data.yaml").write_text("train: images/train\nnames: [Platelets, RBC, WBC]\n")
    yolo = yolo_dataset(root, split="train")
    assert yolo.class_names == voc.class_names and len(yolo) == len(voc) == 292
    by_name = {record.path.name: record for record in voc.records}
    for record in yolo.records:
        other = by_name[record.path.name]
        assert (record.height, record.width) == (other.height, other.width)
        assert record.labels.tolist() == other.labels.tolist()
        assert np.abs(record.boxes - other.boxes).max(initial=0) < 1e-3
        assert all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(record.areas, other.areas, strict=True))
