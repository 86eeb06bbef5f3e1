"""CSV files of boxes, with and without a header."""

import numpy as np
import pytest

from frcnn.cli.eval import main as evaluate
from frcnn.cli.train import main as train
from frcnn.data.annotated import AnnotatedDataset
from frcnn.data.formats.csv_boxes import read_csv
from frcnn.data.formats.raw import Changes
from frcnn.data.problems import ErrorPolicy
from frcnn.errors import DataError
from tests.check.data_sets import settings_for, write_config
from tests.data.conftest import write_image
from tests.data.sources import voc_dataset


@pytest.fixture
def write(tmp_path):
    """Callable: write images a.jpg and sub/b.jpg of 60 x 40 pixels and a CSV file; returns its path."""

    def write(text, name="boxes.csv"):
        for seed, image in enumerate(("a.jpg", "sub/b.jpg")):
            write_image(tmp_path / "images" / image, seed=seed)
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    return write


def read(path, **options):
    return read_csv(path.parent / "images", path, **options)


def load(path, on_error="raise", classes_file=None, **options):
    return AnnotatedDataset(read(path, classes_file=classes_file), problems=ErrorPolicy(on_error), **options)


def objects_of(record):
    return list(zip(record.labels.tolist(), record.boxes.tolist(), strict=True))


RETINANET = "a.jpg,1,2,30,20.5,dog\na.jpg,0,0,60,40,cat\nsub/b.jpg,,,,,\n"


@pytest.mark.parametrize(
    "text",
    [
        RETINANET,
        RETINANET.replace(",", ";"),
        RETINANET.replace(",", "\t").replace("\n", "\r\n\r\n"),
        "filename,xmin,ymin,xmax,ymax,class\n" + RETINANET,
        "class,YMAX,XMAX,YMIN,XMIN,extra,Image Path\ndog,20.5,30,2,1,?,a.jpg\ncat,40,60,0,0,,a.jpg\n,,,,,,sub/b.jpg\n",
        "image_id\tx\ty\twidth\theight\tlabel\na.jpg\t1\t2\t29\t18.5\tdog\na.jpg\t0\t0\t60\t40\tcat\nsub/b.jpg\t\t\t\t\t\n",
        '\ufefffile,left,top,w,h,width,height,name\n"a.jpg",1,2,29,18.5,60,40,dog\na.jpg,0,0,60,40,,,"cat"\nsub/b.jpg,,,,,,,\n',
    ],
    ids=["retinanet", "semicolon", "tab", "header", "other order", "sides", "sides and size"],
)
def test_equal_boxes_in_all_columns_and_delimiters(write, text):
    dataset = load(write(text))
    assert dataset.class_names == ("cat", "dog")
    assert [record.image_id for record in dataset.records] == ["a.jpg", "sub/b.jpg"]
    assert objects_of(dataset.records[0]) == [(2, [1, 2, 30, 20.5]), (1, [0, 0, 60, 40])]
    assert objects_of(dataset.records[1]) == []
    assert dataset.read_image(1).shape == (3, 40, 60)


def test_a_note_says_what_was_understood(write):
    assert load(write(RETINANET)).notes == (
        "csv boxes.csv: no header, commas; image path, class class, box x1 y1 x2 y2",
    )
    header = "Label;w;h;x;y;file\ncat;5;5;0;0;a.jpg\n"
    assert load(write(header)).notes == ("csv boxes.csv: a header, semicolons; image file, class Label, box x y w h",)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("filename,xmin,ymin,xmax,ymax", r"no column for class\. Found: 'filename', 'xmin', .*class \(class\|label\|"),
        ("filename,class,xmin,ymin,xmax", r"no column for y2\. Found"),
        ("class,a,b,c,d,e", r"no column for image, .* no column for y2\. Found: 'class', 'a', .*, 'e'\. Needed"),
        ("file,image_id,class,x,y,w,h", r"several columns for image \('file', 'image_id'\)"),
        ("", "the file has no rows"),
    ],
)
def test_unclear_columns(write, header, message):
    with pytest.raises(DataError, match=rf"boxes\.csv: .*{message}"):
        read(write(f"{header}\n"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg,1,2,30,dog", "5 fields instead of 6"),
        (",1,2,30,20,dog", "no image"),
        ("a.jpg,1,2,30,20,", "no class"),
        ("a.jpg,1,x,30,20,dog", r"\(dog\): box is missing or not four numbers: x1 1 y1 nan"),
        ("a.jpg,,,,,dog", r"\(dog\): box is missing or not four numbers"),
        ("a.jpg,1,2,inf,20,dog", r"\(dog\): box is missing or not four numbers"),
        ("a.jpg,30,2,1,20,dog", r"\(dog\): box without area in the image: x1 30 y1 2 x2 1 y2 20"),
        ("c.jpg,1,2,30,20,dog", r"no image 'c\.jpg' in .*images"),
        ("../secret.jpg,1,2,30,20,dog", r"no image '\.\./secret\.jpg' in .*images"),
        ("broken.jpg,1,2,30,20,dog", r".*broken\.jpg: cannot read image: the file is empty"),
    ],
)
def test_a_bad_row_names_its_line_and_can_be_skipped(write, tmp_path, row, message):
    path = write(f"a.jpg,0,0,60,40,dog\n{row}\n")
    write_image(tmp_path.parent / "secret.jpg")
    (tmp_path / "images/broken.jpg").touch()
    with pytest.raises(DataError, match=rf"boxes\.csv: line 2:? {message}"):
        load(path)
    dataset = load(path, on_error="skip")
    assert dataset.problems.count == 1
    assert [objects_of(record) for record in dataset.records] == [[(1, [0, 0, 60, 40])]]


def test_coordinates_in_shares_of_the_image_are_refused(write):
    with pytest.raises(DataError, match=r"boxes\.csv: all coordinates are between -1 and 1"):
        read(write("a.jpg,0.1,0.2,0.3,0.4,cat\n"))


@pytest.mark.parametrize("text", [b"a.jpg,1,2,3,4,caf\xe9\n", b"a.jpg,1,2,3,4," + b"x" * 200_000 + b"\n"])
def test_a_file_that_is_not_csv(write, text):
    with pytest.raises(DataError, match=r"boxes\.csv: not a CSV file in UTF-8, near line 1"):
        read(write(text))


def test_limits_and_missing_files(write, tmp_path, monkeypatch):
    path = write(RETINANET)
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        read(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"gone: no such folder"):
        read_csv(tmp_path / "gone", path)
    monkeypatch.setenv("FRCNN_MAX_CSV_BYTES", "10")
    with pytest.raises(DataError, match=r"boxes\.csv: has \d+ bytes, .* FRCNN_MAX_CSV_BYTES"):
        read(path)


def test_declared_classes(write):
    path = write(RETINANET)
    classes = write("dog,0\ncat,1\nbird,7\n", name="classes.csv")
    dataset = load(path, classes_file=classes)
    assert (dataset.class_names, dataset.category_ids) == (("dog", "cat", "bird"), (0, 1, 7))
    assert dataset.records[0].labels.tolist() == [1, 2]
    with pytest.raises(DataError, match=r"boxes\.csv: line 2: unknown class 'cat'"):
        load(path, classes_file=write("dog,0\n", name="classes.csv"))


@pytest.mark.parametrize("row", ["cat", "cat,x", "cat,-1", "cat,9223372036854775808", "dog,2", "cat,0", "cat,1,2"])
def test_bad_declared_classes(write, row):
    path = write(RETINANET)
    with pytest.raises(DataError, match=r"classes\.csv: line 2: "):
        read(path, classes_file=write(f"dog,0\n{row}\n", name="classes.csv"))


def test_crowds_and_difficult_objects(write):
    header = "file,class,x1,y1,x2,y2,iscrowd,Difficult\n"
    path = write(header + "a.jpg,cat,0,0,9,9,1,0\na.jpg,cat,0,0,9,8,0,True\na.jpg,cat,0,0,9,7,,no\n")
    record = load(path).records[0]
    assert record.is_crowd.tolist() == [True, False, False]
    assert record.is_difficult.tolist() == [False, True, False]
    assert record.is_ignored.tolist() == [True, True, False]


def test_sizes_come_from_the_columns_or_the_file(write):
    header = "file,width,height,class,x1,y1,x2,y2\n"
    records = load(write(header + "a.jpg,70,50,cat,0,0,9,9\nsub/b.jpg,0,?,cat,0,0,9,9\n")).records
    assert [(record.height, record.width) for record in records] == [(50, 70), (40, 60)]


def test_paths_of_another_disk_are_repaired(write, tmp_path):
    names = [str(tmp_path / "images/a.jpg"), "C:\\data\\b.jpg", "images/sub/c.jpg", "/disk/d.jpg", "/other/d.jpg"]
    write_image(tmp_path / "images/sub/c.jpg")
    write_image(tmp_path / "images/d.jpg")
    path = write("".join(f"{name},1,2,30,20,cat\n" for name in names))
    dataset = load(path, on_error="skip")
    assert [record.path.relative_to(tmp_path / "images").as_posix() for record in dataset.records] == [
        *("a.jpg", "sub/b.jpg", "sub/c.jpg")
    ]
    assert dataset.notes[1:] == (
        "csv boxes.csv: 1 path(s) do not exist and were replaced by the only file of that name",
    )
    assert dataset.problems.count == 2  # two names for one file


def test_a_copy_has_the_columns_of_the_file(write, tmp_path):
    header = "x;y;w;h;note;class;file\n"
    text = f"{header}1;2;70;20;?;cat;images/a.jpg\n5;5;0;5;;cat;images/a.jpg\nbad\n4;4;9;9;;cat;sub/b.jpg\n"
    raw = read(write(text))
    changes = Changes(raw, dropped_images=(), dropped_objects=(1, 2), sizes={}, boxes={0: [1, 2, 60, 22]}, names={})
    assert raw.write_copy is not None and raw.write_copy([changes], tmp_path / "copy.csv") == []
    assert (tmp_path / "copy.csv").read_text() == f"{header}1;2;59;20;?;cat;a.jpg\n;;;;;;sub/b.jpg\n"
    with pytest.raises(DataError, match="the file changed during the check"):
        write(text.replace("images/a", "images/b"))
        raw.write_copy([changes], tmp_path / "copy.csv")


def test_training_and_evaluation(tmp_path, capsys):
    rows = []
    for number in range(6):
        write_image(tmp_path / f"images/{number}.png", 96, 128, number)
        rows.append(f"{number}.png,10,10,60,50,{('cat', 'dog')[number % 2]}\n")
    sources = {}
    for split, chosen in (("train", rows[:4]), ("val", rows[4:])):
        path = tmp_path / f"{split}.csv"
        path.write_text("".join(chosen))
        sources[split] = {"format": "csv", "images": str(tmp_path / "images"), "annotations": str(path)}
    config = write_config(tmp_path / "config.yaml", settings_for(sources))
    assert train([str(config), "--out", str(tmp_path / "run")]) == 0
    assert "csv train.csv: no header, commas" in "".join(capsys.readouterr())
    assert evaluate([str(tmp_path / "run")]) == 0


def test_bccd(shared_path, tmp_path):
    root = shared_path("datasets/bccd")
    expected = voc_dataset(root, on_error="skip")
    rows = []
    for record in expected.records:
        rows.append(f"{record.path.name},,,,,\n")
        for label, box in objects_of(record):
            rows.append(f"{record.path.name},{','.join(map(str, box))},{expected.class_names[label - 1]}\n")
    (tmp_path / "bccd.csv").write_text("".join(rows))
    dataset = AnnotatedDataset(read_csv(root / "JPEGImages", tmp_path / "bccd.csv"), problems=ErrorPolicy())
    assert dataset.class_names == expected.class_names and len(dataset) == len(expected) == 292
    for ours, theirs in zip(dataset.records, expected.records, strict=True):
        assert (ours.path, ours.height, ours.width) == (theirs.path, theirs.height, theirs.width)
        for name in ("boxes", "labels", "areas", "is_crowd", "is_difficult", "is_ignored"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
