"""A few broken files for every reader; `python -m tests.fuzz.run` tries more."""

import random

import pytest

from tests.fuzz.readers import build_readers
from tests.fuzz.run import Outcome, fuzz, quiet

SLOW = {"checkpoint": 8, "YAML": 25, "overrides": 25, ".pth zip": 25, "TIFF": 40}
NAMES = [
    *("VOC XML", "VOC list", "COCO JSON", "JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP", "PPM", "JPEG2000", "YAML"),
    *("overrides", "checkpoint", ".pth zip", ".pth old", ".pkl", ".safetensors", "detections", "VOC results"),
    *("YOLO labels", "YOLO list", "YOLO data.yaml"),
    *("CSV", "CSV classes", "OpenImages boxes", "OpenImages classes"),
]


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    return build_readers(tmp_path_factory.mktemp("fuzz"))


def test_every_reader_is_tried(readers):
    assert set(readers) | {".safetensors"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_broken_files_are_refused(readers, name):
    if name not in readers:
        pytest.skip("safetensors is not installed")
    reader, outcome, rng = readers[name], Outcome(), random.Random(name)
    with quiet():
        for sample in reader.samples:  # whole files are read
            reader.path.write_bytes(sample)
            reader.read(reader.path)
        for _ in range(SLOW.get(name, 80)):
            fuzz(name, reader, rng, outcome)
    assert not outcome.crashes, "\n".join(crash.details for crash in outcome.crashes.values())
    assert outcome.errors.total() > 0
