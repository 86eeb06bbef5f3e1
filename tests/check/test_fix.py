"""The cleaned copy: its changes, unchanged originals, and training with it."""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from frcnn.check.build_checks import check_config
from frcnn.check.fix import write_fixed
from frcnn.cli.train import main as train
from frcnn.config import parse_config
from frcnn.data.build_data import build_dataset
from frcnn.errors import UserError
from tests.check.data_sets import HEIGHT, WIDTH, CocoFiles, VocFolder, clean_voc, noise, settings_for, write_config
from tests.check.test_broken import CLASSES, broken_voc


def fix(settings, out):
    return write_fixed(check_config(parse_config(settings, source="test")), out)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read_all(settings):
    """Read both datasets completely. Any fault raises an error."""
    data = parse_config(settings, source="test").data
    assert data.on_error == "raise"
    for split in ("train", "val"):
        dataset = build_dataset(data, split)
        for index in range(len(dataset)):
            dataset.read_image(index)
        yield dataset


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fix")
    voc = broken_voc(folder / "broken")
    before = contents(voc.root)
    lines = fix(voc.settings(classes=CLASSES), folder / "out")
    assert contents(voc.root) == before
    return folder / "out", lines


def objects_of(out, name):
    return [
        (each.findtext("name"), [float(edge.text) for edge in each.find("bndbox")])
        for each in ElementTree.parse(out / f"Annotations/{name}.xml").findall("object")
    ]


@pytest.mark.parametrize(
    ("name", "third"),
    [
        ("flat", []),
        ("outside", []),
        ("repeated", []),
        ("words", []),
        ("negative", [("cat", [20, 60, 60, 70])]),
        ("over", [("cat", [80, 40, WIDTH, HEIGHT])]),
        ("unknown", [("cat", [60, 5, 80, 30])]),
        ("tiny", [("cat", [60, 5, 61, 30])]),
        ("plural", [("dogs", [60, 5, 90, 30])]),
    ],
)
def test_objects_of_voc(fixed, name, third):
    assert objects_of(fixed[0], name)[2:] == third


def test_images_of_voc(fixed):
    listed = (fixed[0] / "ImageSets/Main/train.txt").read_text().split()
    gone = {"unreadable_xml", "gone", "truncated", "rubbish", "other_size", "turned", "sound_1"}
    assert not gone & set(listed) and {"sound_0", "empty", "twin", "leak"} - set(listed) == {"leak"}
    assert listed.count("listed_twice") == 1
    assert not (fixed[0] / "Annotations/gone.xml").exists()
    size = ElementTree.parse(fixed[0] / "Annotations/no_size.xml").find("size")
    assert (size.findtext("height"), size.findtext("width")) == (str(HEIGHT), str(WIDTH))
    assert (fixed[0] / "JPEGImages").is_symlink()


def test_all_changes_are_listed(fixed):
    out, lines = fixed
    changes = (out / "changes.txt").read_text().splitlines()
    assert lines[0] == f"{len(changes)} changes, listed in {out}/changes.txt"
    assert "train: over.png: object 3 (cat): clipped to the image" in "\n".join(changes)
    assert "train: sound_1.png: image removed, it is also in val" in changes
    assert f"data.train.root={out} data.val.root={out}" in lines[-1]


def test_the_copy_of_voc_trains(fixed, tmp_path):
    out, _ = fixed
    settings = VocFolder.settings(type("", (), {"root": out})(), classes=CLASSES)
    train_set, val_set = read_all(settings)
    assert len(val_set) == 6 and len(train_set) > 20
    assert train([str(write_config(tmp_path / "c.yaml", settings)), "--out", str(tmp_path / "run")]) == 0


def test_names_in_another_case_become_the_most_frequent_one(tmp_path):
    voc = clean_voc(tmp_path / "voc")
    voc.add("odd", [("Cat", (11, 11, 50, 50))])
    voc.write_lists()
    fix(voc.settings(), tmp_path / "out")
    assert objects_of(tmp_path / "out", "odd") == [("cat", [11, 11, 50, 50])]


def test_equal_sets_stay_equal(tmp_path):
    voc = clean_voc(tmp_path / "voc")
    voc.lists["val"] = voc.lists["train"]
    voc.write_lists()
    fix(voc.settings(), tmp_path / "out")
    assert len((tmp_path / "out/ImageSets/Main/train.txt").read_text().split()) == 12


def test_the_copy_of_coco_trains(tmp_path):
    coco = CocoFiles(tmp_path / "coco")
    train_file = coco.documents["train"]
    coco.annotate(99, [1, 1, 20, 20])
    coco.annotate(1, [70, 5, 20, 20], 77)
    coco.annotate(1, [90, 5, -20, 20])
    coco.annotate(2, [70, 5, 0, 20])
    coco.annotate(3, [70, 5, 20])
    coco.annotate(4, [70, 5, 100, 30], id=1)
    coco.annotate(5, [10, 10, 40, 40])
    coco.annotate(6, [70, 5, 1e-9, 20])
    train_file["images"].append(dict(train_file["images"][0]))
    train_file["images"][1] |= {"height": 0}
    (tmp_path / "coco/images/12.png").unlink()
    settings = coco.settings()
    before = contents(tmp_path / "coco")
    lines = fix(settings, tmp_path / "out")
    assert contents(tmp_path / "coco") == before
    assert f"data.train.annotations={tmp_path}/out/train.json" in lines[-1]
    document = json.loads((tmp_path / "out/train.json").read_text())
    assert [each["id"] for each in document["images"]] == list(range(1, 12))
    assert document["images"][1]["height"] == HEIGHT
    ids = [each["id"] for each in document["annotations"]]
    assert len(set(ids)) == len(ids) == 11 * 2 + 2
    boxes = [each["bbox"] for each in document["annotations"]]
    assert [70, 5, 20, 20] in boxes and [70, 5, WIDTH - 70, 30] in boxes

    settings["data"]["train"]["annotations"] = str(tmp_path / "out/train.json")
    settings["data"]["val"]["annotations"] = str(tmp_path / "out/val.json")
    train_set, _ = read_all(settings)
    assert len(train_set) == 11


def test_several_roots_get_a_folder_each(tmp_path):
    voc, other = clean_voc(tmp_path / "a/voc"), clean_voc(tmp_path / "b/voc")
    settings = voc.settings(
        train=[{"format": "voc", "root": str(each.root), "split": "train"} for each in (voc, other)],
    )
    shutil.rmtree(other.root / "JPEGImages")
    (other.root / "JPEGImages").mkdir()
    lines = fix(settings, tmp_path / "out")
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["2_voc", "changes.txt", "voc"]
    assert f"data.train.1.root={tmp_path}/out/2_voc" in lines[-1]


def test_out_must_be_new_or_empty(tmp_path):
    voc = clean_voc(tmp_path / "voc")
    for out in (voc.root, voc.root / "ImageSets/Main/train.txt"):
        with pytest.raises(UserError, match="needs a new or empty folder"):
            fix(voc.settings(), out)


def test_objects_of_filtered_classes_remain(tmp_path):
    voc = clean_voc(tmp_path / "voc")
    lines = fix(voc.settings(classes=["cat"]), tmp_path / "out")
    assert lines[0].startswith("0 changes") and len(objects_of(tmp_path / "out", "train_0")) == 2


def test_the_copy_of_csv_trains(tmp_path):
    for number in range(8):
        path = tmp_path / f"images/{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise(number)).save(path)
    (tmp_path / "images/6.png").write_bytes(b"no image")
    boxes = "".join(f"images/{number}.png,10,10,50,50,cat\n" for number in range(5))
    odd = f"images/5.png,10,10,{WIDTH + 9},50,Cat\nimages/5.png,20,20,20,30,cat\nimages/5.png,1,2,x,9,cat\n"
    gone = "images/6.png,10,10,50,50,cat\nimages/7.png,,,,,\nimages/8.png,10,10,50,50,cat\nimages/9.png,1,2\n"
    (tmp_path / "train.csv").write_text(boxes + odd + gone)
    (tmp_path / "val.csv").write_text(boxes)
    sources = {
        split: {"format": "csv", "images": str(tmp_path / "images"), "annotations": str(tmp_path / f"{split}.csv")}
        for split in ("train", "val")
    }
    settings = settings_for(sources)
    check = check_config(parse_config(settings, source="test"))
    texts = "\n".join(example.text for finding in check.findings for example in finding.examples)
    for text in ("line 9: .*6.png: cannot read image", "line 11: no image 'images/8.png'", "line 12: 3 fields"):
        assert re.search(rf"train\.csv: {text}", texts)
    before = contents(tmp_path)
    lines = write_fixed(check, tmp_path / "out")
    assert contents(tmp_path) == before | contents(tmp_path / "out")
    assert f"data.train.annotations={tmp_path}/out/train.csv" in lines[-1]
    copy = "".join(f"{number}.png,10,10,50,50,cat\n" for number in range(5))
    assert (tmp_path / "out/train.csv").read_text() == f"{copy}5.png,10,10,{WIDTH},50,cat\n7.png,,,,,\n"
    for split in ("train", "val"):
        settings["data"][split]["annotations"] = str(tmp_path / f"out/{split}.csv")
    assert [len(dataset) for dataset in read_all(settings)] == [7, 5]
