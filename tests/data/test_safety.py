"""Data sets and images made to do harm."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from frcnn.data.formats.voc import parse_annotation
from frcnn.data.images import read_image
from frcnn.errors import DataError
from tests.data.sources import coco_dataset, voc_dataset
from tests.fuzz.mutations import BILLION

CATS = [{"id": 1, "name": "cat"}]
CAT = ("cat", (1, 1, 20, 30), False)


def png(width, height, *chunks):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(height * (1 + 3 * width)) if height < 100 else b""))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + b"".join(chunk(*each) for each in chunks) + pixels + chunk(b"IEND", b"")


def test_a_huge_image_is_refused_by_its_header(tmp_path):
    (tmp_path / "a.png").write_bytes(png(30000, 30000))
    with pytest.raises(DataError, match=r"a\.png: .*900000000 pixels.* FRCNN_MAX_IMAGE_PIXELS"):
        read_image(tmp_path / "a.png")


def test_the_limit_of_pixels_is_set_by_the_environment(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(20, 10))
    monkeypatch.setenv("FRCNN_MAX_IMAGE_PIXELS", "199")
    with pytest.raises(DataError, match=r"a\.png: has 200 pixels, more than the limit of 199"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png(30000, 30000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # to be put back
    monkeypatch.setenv("FRCNN_MAX_IMAGE_PIXELS", "899e6")
    with pytest.raises(DataError, match=r"b\.png: has 900,000,000 pixels, more than the limit of 899,000,000"):
        read_image(tmp_path / "b.png")
    monkeypatch.setenv("FRCNN_MAX_IMAGE_PIXELS", "1e9")
    with pytest.raises(DataError, match=r"b\.png: cannot read image: .*truncated|b\.png: cannot read image"):
        read_image(tmp_path / "b.png")


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_text_that_unpacks_to_gigabytes(tmp_path, kind):
    packed = zlib.compress(bytes(4 * 10**6))  # 4 kB
    data = b"a\0\0" + packed if kind == b"zTXt" else b"a\0\1\0\0\0" + packed
    (tmp_path / "a.png").write_bytes(png(8, 8, (kind, data)))
    with pytest.raises(DataError, match=r"a\.png: cannot read image: Decompressed data too large"):
        read_image(tmp_path / "a.png")


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [Image.new("P", (20, 10), colour) for colour in range(200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").shape == (3, 10, 20)


def test_formats_that_run_programs_are_not_read(tmp_path):
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match=r"a\.jpg: cannot read image: no known image format \(JPEG, .*TIFF"):
        read_image(tmp_path / "a.jpg")


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: .*no regular file"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("start", [BILLION, "<!DOCTYPE annotation>", '<!DOCTYPE a SYSTEM "http://localhost/a.dtd">'])
def test_an_xml_that_defines_entities_is_refused(tmp_path, start, encoding):
    text = f"{start}<annotation><filename>&a9;&x;</filename></annotation>"
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=r"a\.xml: refused: it has a DOCTYPE"):
        parse_annotation(tmp_path / "a.xml")


def test_an_xml_of_a_gigabyte_is_not_read(tmp_path):
    with (tmp_path / "a.xml").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(DataError, match=r"a\.xml: has 1,073,741,824 bytes, more than .* FRCNN_MAX_XML_BYTES"):
        parse_annotation(tmp_path / "a.xml")


def test_a_deep_xml(tmp_path):
    (tmp_path / "a.xml").write_text("<a>" * 100_000 + "</a>" * 100_000)
    with pytest.raises(DataError, match=r"a\.xml: refused: .*more than 100 levels deep"):
        parse_annotation(tmp_path / "a.xml")


@pytest.mark.parametrize("encoding", ["no-such-code", "utf-7", "cp037", "base64"])
def test_an_unknown_encoding(tmp_path, encoding):
    (tmp_path / "a.xml").write_text(f'<?xml version="1.0" encoding="{encoding}"?><annotation/>')
    with pytest.raises(DataError, match=r"a\.xml: broken XML"):
        parse_annotation(tmp_path / "a.xml")


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a/../../secret"])
def test_a_list_of_images_stays_in_its_folder(voc_root, name):
    root = voc_root({"a": (40, 60, [CAT])})
    (root / "ImageSets/Main/trainval.txt").write_text(f"a\n{name} 1\n")
    with pytest.raises(DataError, match=rf"trainval\.txt: '{name}' is not the name of an image: it leads out"):
        voc_dataset(root, on_error="skip")


def test_a_split_is_a_name_in_its_folder(voc_root):
    root = voc_root({"a": (40, 60, [CAT])})
    (root / "ImageSets/list.txt").write_text("a")
    with pytest.raises(DataError, match=r"the split '\.\./list' leads out of this folder"):
        voc_dataset(root, split="../list")
    (root / "ImageSets/Main/fold").mkdir()
    (root / "ImageSets/Main/fold/1.txt").write_text("a")
    assert len(voc_dataset(root, split="fold/1")) == 1


def test_a_filename_outside_counts_as_none(voc_root):
    root = voc_root({"a": (40, 60, [CAT])})
    (root / "JPEGImages/a.jpg").rename(root / "secret.jpg")
    path = root / "Annotations/a.xml"
    whole = path.read_text()
    for name in ("../secret.jpg", str(root / "secret.jpg")):
        path.write_text(whole.replace("<size>", f"<filename>{name}</filename><size>"))
        (record,) = voc_dataset(root).records
        assert record.path == root / "JPEGImages/a.jpg"


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg"])
def test_a_coco_file_name_stays_in_the_folder_of_images(coco_files, name):
    images, path = coco_files(categories=CATS, annotations=[])
    document = json.loads(path.read_text())
    document["images"].append({"id": 8, "file_name": name, "height": 40, "width": 60})
    document["annotations"] = [{"id": 1, "image_id": 8, "category_id": 1, "bbox": [1, 1, 5, 5]}]
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=rf"instances\.json: image 8: its file_name '{name}' leads out of the image"):
        coco_dataset(images, path)
    dataset = coco_dataset(images, path, on_error="skip")
    assert (len(dataset), dataset.problems.count) == (1, 1)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "1e308", "1" + "0" * 4000])
@pytest.mark.parametrize("key", ["bbox", "area", "height", "image_id", "category_id", "id"])
def test_huge_numbers_in_a_coco_file(coco_files, key, number):
    annotation = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 3}
    other = {"id": 8, "file_name": "b.jpg", "height": 40, "width": 60}
    images, path = coco_files(categories=CATS, annotations=[])
    document = json.loads(path.read_text())
    document["images"].append(other)
    document["annotations"].append(annotation)
    (other if key == "height" else annotation)[key] = [1, 1, "HERE", 5] if key == "bbox" else "HERE"
    path.write_text(json.dumps(document).replace('"HERE"', number))
    dataset = coco_dataset(images, path, on_error="skip")
    for record in dataset.records:
        assert np.isfinite(record.boxes).all() and np.isfinite(record.areas).all()
    usable = key in ("area", "id") or (key == "bbox" and number[:1] == "1" and number != "1e999" and len(number) < 9)
    assert sum(len(record.boxes) for record in dataset.records) == (1 if usable or key == "height" else 0)


def test_a_category_id_beyond_64_bits(coco_files):
    files = coco_files(categories=[{"id": 10**30, "name": "cat"}], annotations=[])
    with pytest.raises(DataError, match="the category id 10+ of 'cat' has more than 64 bits"):
        coco_dataset(*files)


def test_messages_about_huge_entries_are_short(coco_files):
    images, path = coco_files(categories=CATS, annotations=[{"id": "x" * 10**6, "image_id": list(range(10**5))}])
    with pytest.raises(DataError) as caught:
        coco_dataset(images, path)
    assert len(str(caught.value)) < 1000


def test_exif_of_another_kind_is_a_data_error_or_no_matter(tmp_path):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(file, "JPEG", exif=exif)
    whole = file.getvalue()
    start = whole.index(b"Exif")
    for place in range(start, start + 30):
        (tmp_path / "a.jpg").write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        try:
            assert read_image(tmp_path / "a.jpg").shape[0] == 3
        except DataError as error:
            assert "a.jpg" in str(error)
