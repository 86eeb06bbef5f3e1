"""The CSV files of OpenImages."""

import numpy as np
import pytest

from frcnn.config import parse_config
from frcnn.data.annotated import AnnotatedDataset
from frcnn.data.build_data import build_datasets
from frcnn.data.formats.openimages import read_openimages
from frcnn.data.formats.raw import Changes
from frcnn.data.problems import ErrorPolicy
from frcnn.errors import DataError
from tests.check.data_sets import settings_for
from tests.data.conftest import write_image

HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
)
BOXES = f"""{HEADER}b,xclick,/m/01yrx,1,0.25,0.5,0.1,0.75,0,1,0,0,0
b,xclick,/m/0bt9lr,1,0,1,0,1,0,1,1,0,0
a,activemil,/m/0bt9lr,1,0.5,1.0,0.5,1.0,-1,-1,-1,-1,-1
"""


@pytest.fixture
def write(tmp_path):
    """Callable: write images a.jpg, b.png, c.jpg of 60 x 40 pixels and the two files; returns the annotations."""

    def write(boxes=BOXES, classes="/m/01yrx,Cat\n/m/0bt9lr,Dog\n/m/015p6,Bird\n"):
        for name in ("a.jpg", "b.png", "c.jpg"):
            write_image(tmp_path / "images" / name)
        (tmp_path / "boxes.csv").write_text(boxes)
        (tmp_path / "classes.csv").write_text(classes)
        return read_openimages(tmp_path / "images", tmp_path / "boxes.csv", tmp_path / "classes.csv")

    return write


def load(raw, on_error="raise"):
    return AnnotatedDataset(raw, problems=ErrorPolicy(on_error))


def test_boxes_are_shares_of_the_listed_images(write, tmp_path):
    dataset = load(write())
    assert dataset.class_names == ("Cat", "Dog")
    assert [record.image_id for record in dataset.records] == ["b", "a"]
    assert [record.path.name for record in dataset.records] == ["b.png", "a.jpg"]
    np.testing.assert_allclose(dataset.records[0].boxes, [[15, 4, 30, 30], [0, 0, 60, 40]])
    assert dataset.records[0].labels.tolist() == [1, 2]
    np.testing.assert_allclose(dataset.records[1].boxes, [[30, 20, 60, 40]])
    assert dataset.notes == (f"openimages boxes.csv: 1 image(s) of {tmp_path / 'images'} are not listed and not used",)


def test_a_group_is_an_ignore_region(write):
    records = load(write()).records
    assert records[0].is_crowd.tolist() == records[0].is_ignored.tolist() == [False, True]
    assert records[1].is_crowd.tolist() == [False]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("gone,,/m/01yrx,1,0,1,0,1,0,0,0,0,0", r"no image 'gone' in .*images"),
        ("../a,,/m/01yrx,1,0,1,0,1,0,0,0,0,0", r"no image '\.\./a' in .*images"),
        ("a,,/m/none,1,0,1,0,1,0,0,0,0,0", "unknown class '/m/none'"),
        ("a,,/m/01yrx,1,0,,0,1,0,0,0,0,0", r"\(Cat\): box is missing or not four numbers: XMin 0 YMin 0 XMax nan"),
        ("a,,/m/01yrx,1,1,1.5,0,1,0,0,0,0,0", r"\(Cat\): box without area in the image"),
        ("a,/m/01yrx", "2 fields instead of 13"),
    ],
)
def test_a_bad_row_names_its_line(write, row, message):
    raw = write(f"{BOXES}{row}\n")
    with pytest.raises(DataError, match=rf"boxes\.csv: line 5:? {message}"):
        load(raw)
    dataset = load(raw, on_error="skip")
    assert dataset.problems.count == 1 and [len(record.boxes) for record in dataset.records] == [2, 1]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"boxes": "ImageID,XMin,XMax,YMin,YMax\n"}, r"boxes\.csv: .*no column for class"),
        ({"classes": "/m/01yrx\n"}, r"classes\.csv: line 1: expected id,name"),
        ({"classes": "/m/01yrx,Cat\n/m/01yrx,Dog\n"}, r"classes\.csv: line 2: expected id,name with a new id"),
    ],
)
def test_unusable_files(write, files, message):
    with pytest.raises(DataError, match=message):
        write(**files)


def test_a_copy_keeps_ids_and_shares(write, tmp_path):
    raw = write(BOXES.replace("0.25,0.5", "0.25,1.5") + "a,,/m/01yrx,1,0,0,0,0,0,0,0,0,0\n")
    changes = Changes(raw, (), dropped_objects=(2, 3), sizes={}, boxes={0: [15, 4, 60, 30]}, names={1: "Cat"})
    assert raw.write_copy is not None and raw.write_copy([changes], tmp_path / "copy.csv") == []
    assert (tmp_path / "copy.csv").read_text() == (
        f"{HEADER}b,xclick,/m/01yrx,1,0.25,1,0.1,0.75,0,1,0,0,0\nb,xclick,/m/01yrx,1,0,1,0,1,0,1,1,0,0\na,,,,,,,,,,,,\n"
    )


def test_sources_share_the_classes_that_occur(write, tmp_path):
    write()
    (tmp_path / "val.csv").write_text(f"{HEADER}c,,/m/015p6,1,0,1,0,1,0,0,0,0,0\n")
    source = {"format": "openimages", "images": str(tmp_path / "images"), "classes": str(tmp_path / "classes.csv")}
    sources = {
        "train": source | {"boxes": str(tmp_path / "boxes.csv")},
        "val": source | {"boxes": f"{tmp_path}/val.csv"},
    }
    train_set, val_set = build_datasets(parse_config(settings_for(sources), source="test").data)
    assert train_set.class_names == val_set.class_names == ("Bird", "Cat", "Dog")
    assert val_set.records[0].labels.tolist() == [1]
