"""The check finds each kind of fault in damaged datasets, and nothing in valid ones."""

import shutil

import numpy as np
import pytest
from PIL import Image

from frcnn.check.build_checks import check_config
from frcnn.check.findings import Example, Finding
from frcnn.config import parse_config
from frcnn.data.build_data import build_datasets
from frcnn.errors import DataError
from tests.check.data_sets import (
    HEIGHT,
    OBJECTS,
    WIDTH,
    CocoFiles,
    VocFolder,
    clean_voc,
    noise,
    shapes_settings,
    xml_of,
)

CLASSES = ["cat", "dog", "dogs", "bird", "fish", "newt"]


def check(settings, **options):
    return check_config(parse_config(settings, source="test"), **options)


def found(result):
    """The texts of all cases, by (kind, split)."""
    cases = {}
    for finding in result.findings:
        cases.setdefault((finding.kind, finding.split), []).extend(each.text for each in finding.examples)
    return cases


def broken_voc(root):
    """A VOC folder with all faults, each in an image of its own."""
    voc = VocFolder(root)
    for number in range(11):
        voc.add(f"sound_{number}")
    for name, extra in {
        "flat": ("cat", (5, 5, 5, 9)),
        "negative": ("cat", (60, 60, 20, 70)),
        "outside": ("cat", (WIDTH + 5, 5, WIDTH + 30, 30)),
        "over": ("cat", (80, 40, WIDTH + 9, HEIGHT + 9)),
        "repeated": OBJECTS[0],
        "nearly": ("cat", (11, 11, 50, 51)),
        "contradicted": ("dog", OBJECTS[0][1]),
        "tiny": ("cat", (60, 5, 61, 30)),
        "words": ("cat", ("left", 1, 2, 3)),
        "unknown": ("Cat", (60, 5, 80, 30)),
        "missed": ("cat", (3, 5, 125, 9)),
        "plural": ("dogs", (60, 5, 90, 30)),
    }.items():
        voc.add(name, (*OBJECTS, extra))
    voc.add("empty", ())
    voc.add("unreadable_xml", xml="<annotation><object>")
    voc.add("no_size", xml=xml_of(OBJECTS, height=None))
    voc.add("listed_twice")
    voc.lists["train"].append("listed_twice")

    voc.add("gone").unlink()
    truncated = voc.add("truncated", suffix="jpg")
    truncated.write_bytes(truncated.read_bytes()[:900])
    voc.add("rubbish").write_bytes(b"no image")
    voc.add("other_size", picture=Image.fromarray(noise(100, 90, 120)))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(101)).save(voc.add("turned", suffix="jpg"), exif=exif)
    Image.fromarray(noise(102, WIDTH, HEIGHT)).save(voc.add("turned_well", suffix="jpg"), exif=exif)
    voc.add("grey", picture=Image.fromarray(noise(103)[..., 0]))
    voc.add("deep", picture=Image.fromarray(noise(104)[..., 0].astype(np.uint16) * 257))
    voc.add("palette", picture=Image.fromarray(noise(105)).quantize(8))
    voc.add("print", picture=Image.fromarray(noise(106)).convert("CMYK"), suffix="jpg")
    voc.add("alpha", picture=Image.fromarray(noise(107)).convert("RGBA"))
    voc.add("black", picture=Image.new("RGB", (WIDTH, HEIGHT)))
    shutil.copy(root / "JPEGImages/sound_0.png", voc.add("twin"))

    for number in range(3):
        voc.add(f"val_{number}", split="val")
    shutil.copy(root / "JPEGImages/sound_1.png", voc.add("leak", split="val"))
    brighter = np.minimum(noise(2).astype(int) + 1, 255).astype(np.uint8)
    voc.add("lookalike", split="val", picture=Image.fromarray(brighter))
    voc.add("only_in_val", (*OBJECTS, ("newt", (60, 5, 90, 30))), split="val")
    voc.write_lists()
    return voc


EXPECTED = {
    ("box-zero-area", "train"): "flat.png: object 3 (cat): xmin 5 ymin 5 xmax 5 ymax 9 in 128 x 96",
    ("box-negative", "train"): "negative.png: object 3",
    ("box-outside", "train"): "outside.png: object 3",
    ("box-over-border", "train"): "over.png: object 3",
    ("box-duplicate", "train"): "repeated.png: object 3 (cat): xmin 11 ymin 11 xmax 50 ymax 50, same as object 1 (cat)",
    ("box-nearly-duplicate", "train"): "nearly.png: object 3 (cat): IoU 0.98 with object 1",
    ("box-two-classes", "train"): "contradicted.png: object 3 (dog)",
    ("box-tiny", "train"): "tiny.png: object 3",
    ("box-no-numbers", "train"): "words.png: object 3",
    (
        "class-unknown",
        "train",
    ): "unknown.png: object 3 (Cat): not one of cat, dog, dogs, bird, fish, newt; did you mean cat?",
    ("anchors-miss", "train"): "missed.png: object 3 (cat): best IoU 0.",
    ("classes-alike", "train and val"): "'dog' (",
    ("class-unused", "train"): "bird: 0 in train, 0 in val",
    ("class-only-in-val", "train"): "newt: 0 in train, 1 in val",
    ("class-not-in-val", "val"): "dogs: 1 in train, 0 in val",
    ("class-rare", "train"): "dogs: 1 in train",
    ("image-without-objects", "train"): "empty.png",
    ("annotation-unreadable", "train"): "unreadable_xml.xml: broken XML",
    ("image-size-missing", "train"): "no_size.xml: size of the image is missing",
    ("image-listed-twice", "train"): "train.txt: listed_twice occurs twice",
    ("image-missing", "train"): "gone.jpg: image file not found",
    ("image-truncated", "train"): "truncated.jpg",
    ("image-unreadable", "train"): "rubbish.png: cannot read image: not a supported image format",
    ("image-size-differs", "train"): "other_size.png: 120 x 90 pixels, annotated as 128 x 96",
    ("image-size-turned", "train"): "turned.jpg: 96 x 128 pixels, annotated as 128 x 96, which is the size before EXIF",
    ("image-turned", "train"): "turned_well.jpg",
    ("image-grey", "train"): "grey.png",
    ("image-16-bit", "train"): "deep.png",
    ("image-palette", "train"): "palette.png",
    ("image-cmyk", "train"): "print.jpg",
    ("image-alpha", "train"): "alpha.png",
    ("image-one-colour", "train"): "black.png",
    ("image-twice", "train"): "twin.png: the same file as sound_0.png of train",
    ("image-in-train-and-val", "val"): "leak.png: the same file as sound_1.png of train",
    ("image-nearly-in-train", "val"): "lookalike.png: looks like sound_2.png of train",
}
"""Part of the text of a case for each finding. The name of the image tells the fault."""
SEVERAL_CASES = {
    ("class-unused", "train"),  # fish
    ("image-without-objects", "train"),  # the image with unreadable XML
    ("image-one-colour", "train"),
    ("anchors-miss", "train"),  # the tiny box
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    voc = broken_voc(tmp_path_factory.mktemp("data") / "broken")
    return voc, check(voc.settings(classes=CLASSES))


def test_at_least_twenty_faults_are_covered():
    assert len(EXPECTED) >= 20


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind[0])
def test_fault_is_found(broken, kind):
    cases = found(broken[1]).get(kind, [])
    assert any(EXPECTED[kind] in text for text in cases), cases
    assert len(cases) == 1 or kind in SEVERAL_CASES, cases


def test_nothing_else_is_found(broken):
    assert set(found(broken[1])) == set(EXPECTED)


def test_valid_voc_has_no_findings(tmp_path):
    assert found(check(clean_voc(tmp_path / "clean").settings())) == {}


def test_valid_coco_has_no_findings(tmp_path):
    assert found(check(CocoFiles(tmp_path / "coco").settings())) == {}


def test_shapes_are_checked():
    result = check(shapes_settings())
    assert not result.of_severity("error") and [len(source.raw.images) for source in result.sources] == [12, 2]


def test_faults_of_coco_files(tmp_path):
    coco = CocoFiles(tmp_path / "coco")
    train = coco.documents["train"]
    coco.annotate(99, [1, 1, 20, 20])
    coco.annotate(1, [70, 5, 20, 20], 77)
    coco.annotate(1, [70, 5, -20, 20])
    coco.annotate(2, [70, 5, 0, 20])
    coco.annotate(3, [70, 5, 20])
    coco.annotate(4, [70, 5, 30, 30], id=1)
    coco.annotate(5, [70, 5, 30, 30], 9)
    train["images"].append(dict(train["images"][0]))
    train["images"].append(train["images"][1] | {"id": 50})
    train["images"].append({"id": 51, "file_name": "../1.png", "height": HEIGHT, "width": WIDTH})
    train["categories"].append({"id": 9, "name": "bird"})
    cases = found(check(coco.settings()))
    assert cases["object-without-image", "train"] == [
        f"{tmp_path}/coco/train.json: annotation 25: there is no image 99"
    ]
    assert cases["class-unknown", "train"][0].startswith("1.png: annotation 26 (unknown category)")
    assert "annotation 27 (cat): x 70 y 5 w -20 h 20" in cases["box-negative", "train"][0]
    assert "annotation 28" in cases["box-zero-area", "train"][0]
    assert "annotation 29" in cases["box-no-numbers", "train"][0]
    assert "annotation id 1 occurs twice" in cases["annotation-id-twice", "train"][0]
    assert "image id 1 occurs twice" in cases["image-listed-twice", "train"][0]
    assert "image 50 has the file 2.png of another image" in cases["image-file-annotated-twice", "train"][0]
    assert "leads out of the image folder" in cases["annotation-unreadable", "train"][0]
    assert "ids 1 to 9 without 3, 4, 5, 6, 7, 8" in cases["category-gaps", "train"][0]
    assert "val.json has cat, dog; expected cat, dog, bird" in cases["class-lists-differ", "train and val"][0]


def test_boxes_that_training_refuses_are_errors(tmp_path):
    coco = CocoFiles(tmp_path / "coco")
    coco.annotate(1, [70, 5, 1e-9, 20])  # an area in float64, but not in the float32 of the dataset
    settings = coco.settings()
    with pytest.raises(DataError, match="annotation 25 of image 1"):
        build_datasets(parse_config(settings, source="test").data)
    assert "annotation 25" in found(check(settings))["box-outside", "train"][0]


def test_finding_texts_agree_with_their_number():
    texts = [Finding("box-zero-area", "train", [Example("")] * count).text for count in (1, 2)]
    assert texts == ["1 box without area", "2 boxes without area"]


def test_listed_classes_are_a_filter(tmp_path):
    coco, voc = CocoFiles(tmp_path / "coco"), clean_voc(tmp_path / "voc")
    for data in (coco, voc):
        result = check(data.settings(classes=["cat"]))
        cases = found(result)
        assert set(cases) == {("class-filtered", "train"), ("class-filtered", "val")}, cases
        assert cases["class-filtered", "train"] == ["dog: 12 object(s)"]
        assert result.counts["train"].objects.tolist() == [12]


def test_images_with_filtered_classes_only_have_no_objects(tmp_path):
    voc = clean_voc(tmp_path / "voc")
    voc.add("dogs", OBJECTS[1:])
    voc.write_lists()
    assert found(check(voc.settings(classes=["cat"])))["image-without-objects", "train"] == ["dogs.png"]


def test_missing_listed_class_is_found_with_the_nearest_name(tmp_path):
    coco, voc = CocoFiles(tmp_path / "coco"), clean_voc(tmp_path / "voc")
    missing = found(check(coco.settings(classes=["cat", "dgo"])))["class-missing", "train"]
    assert missing == ["dgo is not a category of coco train.json; did you mean dog?"]
    unused = found(check(voc.settings(classes=["cat", "dgo"])))["class-unused", "train"]
    assert unused == ["dgo: 0 in train, 0 in val; did you mean dog?"]


def guess(tmp_path, boxes):
    voc = VocFolder(tmp_path / "voc")
    for number, box in enumerate(boxes):
        voc.add(f"train_{number}", [("cat", box)])
    voc.add("val", [("cat", (11, 11, 50, 50))], split="val")
    voc.write_lists()
    return found(check(voc.settings())).get(("coordinates", "train"), [""])[0]


def test_zero_based_coordinates_are_found(tmp_path):
    boxes = [(0, 10, 30, 60), (40, 0, 90, 50), (60, 30, WIDTH - 1, 70), (60, 30, 100, HEIGHT - 1)]
    text = guess(tmp_path, 4 * boxes)
    assert "coordinates seem to start at 0" in text and "8 boxes start at 0 and 0 at 1" in text


def test_edges_instead_of_pixels_are_found(tmp_path):
    assert "coordinates seem to be edges from 0" in guess(tmp_path, 4 * [(0, 0, WIDTH, 50), (10, 0, 60, HEIGHT)])


def test_coordinates_need_enough_evidence(tmp_path):
    assert guess(tmp_path, [(0, 10, 30, 60)] + 9 * [(1, 10, 30, 60)]) == ""
    shutil.rmtree(tmp_path / "voc")
    assert guess(tmp_path, 4 * [(0, 10, 30, 60)]) == ""


def test_one_based_coco_is_found(tmp_path):
    coco = CocoFiles(tmp_path / "coco")
    for number in range(12):
        coco.annotate(number + 1, [1, 55, 30, 30])
    (text,) = found(check(coco.settings()))["coordinates", "train"]
    assert "coordinates seem to start at 1, but COCO starts at 0" in text


def test_files_that_are_not_read_are_compared_by_path(tmp_path):
    voc = clean_voc(tmp_path / "voc")
    voc.lists["val"].append("train_3")
    voc.write_lists()
    result = check(voc.settings(), most_images=0)
    assert list(found(result)) == [("image-in-train-and-val", "val")]
    assert all(facts is None for source in result.sources for facts in source.facts)
    assert sum(facts is not None for facts in check(voc.settings(), most_images=5).sources[0].facts) == 5


def test_boxes_without_area_of_bccd(shared_path):
    root = str(shared_path("datasets/bccd"))
    voc = {"format": "voc", "root": root}
    settings = shapes_settings()
    settings["data"] |= {"train": voc | {"split": "trainval"}, "val": voc | {"split": "test"}}
    cases = found(check(settings, most_images=0))
    assert [text.split(":")[0] for text in cases["box-zero-area", "train"]] == [
        "BloodImage_00338.jpg",
        "BloodImage_00343.jpg",
    ]
