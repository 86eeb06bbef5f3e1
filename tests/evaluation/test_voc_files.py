"""VOC's results files: written, read back, and written by other programs."""

import errno
import os

import numpy as np
import pytest

from frcnn.data.formats.voc_results import read_voc_results, results_file_name, write_voc_results
from frcnn.errors import DataError
from frcnn.evaluation.evaluate import compute_metrics
from tests.evaluation.examples import make_detections, make_record, random_case

NAMES = ["cup", "tea cup", "a/b"]


def with_fractions(detections, seed):
    """Boxes and scores with all digits of a float32."""
    rng = np.random.default_rng(seed)
    return [
        found._replace(
            boxes=(found.boxes + rng.random(found.boxes.shape)).astype(np.float32),
            scores=np.sort(rng.random(len(found.scores)).astype(np.float32))[::-1],
        )
        for found in detections
    ]


@pytest.mark.parametrize("far_shift", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_round_trip_has_the_same_numbers_and_metrics(seed, far_shift, tmp_path):
    """With equal scores, and numbers with all digits."""
    records, detections = random_case(seed)
    for cases in (detections, with_fractions(detections, seed)):
        write_voc_results(tmp_path, records, cases, class_names=NAMES, split="test", far_shift=far_shift)
        again = read_voc_results(tmp_path, records, class_names=NAMES, split="test", far_shift=far_shift)
        assert compute_metrics(records, again, class_names=NAMES) == compute_metrics(records, cases, class_names=NAMES)
        for found, read in zip(cases, again, strict=True):
            for label in range(1, len(NAMES) + 1):
                before, after = found.labels == label, read.labels == label
                assert np.array_equal(found.boxes[before], read.boxes[after])
                assert np.array_equal(found.scores[before], read.scores[after])


def test_the_files_have_the_format_of_the_kit(tmp_path):
    """A box from pixels 1, 3 to 10, 20 has the edges 0, 2, 10, 20. / and * in class names are replaced."""
    records = [make_record([], [], image_id="000004"), make_record([], [], image_id=17)]
    detections = [
        make_detections([[0, 2, 10, 20], [1.5, 2, 3.25, 4]], [0.75, 0.5], [1, 1]),
        make_detections([[7, 7, 8, 9]], [1], [2]),
    ]
    folder = tmp_path / "results" / "Main"
    write_voc_results(folder, records, detections, class_names=["car", "../a*", "red cell"], split="test")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "comp4_det_test_car.txt": "000004 0.75 1 3 10 20\n000004 0.5 2.5 3 3.25 4\n",
        "comp4_det_test_..%2Fa%2A.txt": "17 1 8 8 8 9\n",
        "comp4_det_test_red cell.txt": "",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    write_voc_results(folder, records, detections, class_names=["car", "b", "c"], split="v", far_shift=1)
    assert (folder / "comp4_det_v_car.txt").read_text() == "000004 0.75 1 3 11 21\n000004 0.5 2.5 3 4.25 5\n"


def test_different_names_have_different_files():
    names = ["a/b", "a%2Fb", "a\\b", "a b", "a_b", "é", "CON", ".", "", "a\nb"]
    files = [results_file_name("test", name) for name in names]
    assert len(set(files)) == len(names) and not any(set(file) & set('/\\:*?"<>|\n') for file in files)


def write_files(folder, texts, prefix="comp4_det_test_"):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{prefix}{name}.txt").write_text(text)


RECORDS = [make_record([], [], image_id=name) for name in ("a", "b", "b 2")]
GOOD = {"cup": "b .5 1 1 10 10\n", "tea cup": ""}


def read(folder, class_names=("cup", "tea cup")):
    return read_voc_results(folder, RECORDS, class_names=class_names, split="test")


def test_files_of_another_program(tmp_path):
    """Another competition, Windows lines, blank lines, an id with a space; best first, equal scores in file order."""
    cup = "b .5 1 1 10 10\r\n\r\nb 2 1e-1 3 3 4 4\r\nb .5 2 2 9 9\r\n b 0.9 1.5 1 2 2 \r\n"
    write_files(tmp_path, {"cup": cup, "tea cup": ""}, prefix="comp3_x_det_val_")
    first, second, third = read(tmp_path)
    assert first.boxes.shape == (0, 4) and first.labels.dtype == np.int64
    assert second.scores.tolist() == [0.9, 0.5, 0.5] and second.labels.tolist() == [1, 1, 1]
    assert second.boxes.tolist() == [[0.5, 0, 2, 2], [0, 0, 10, 10], [1, 1, 9, 9]]
    assert third.scores.tolist() == [0.1]

    write_files(tmp_path, {"cup": "", "tea cup": ""}, prefix="comp4_det_val_")
    with pytest.raises(DataError, match=r"several sets of results: comp3_x_det_val_\*, comp4_det_val_\*"):
        read(tmp_path)
    write_files(tmp_path, {"cup": "a 1 1 1 2 2", "tea cup": ""})  # the correct name
    assert [len(found.scores) for found in read(tmp_path)] == [1, 0, 0]


def test_the_class_is_everything_after_the_split(tmp_path):
    """Both files end in cup.txt, but the file of tea_cup is not a file of cup."""
    write_files(tmp_path, {"tea_cup": "a 1 1 1 2 2"})
    with pytest.raises(DataError, match="no file comp4_det_test_cup.txt; a class without detections needs an empty"):
        read(tmp_path, class_names=("cup", "tea_cup"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b 0.5 1 1 10", "has 5 columns, expected IMAGE_ID SCORE XMIN YMIN XMAX YMAX"),
        ("b 0.5 1 1 10 10 7", "has 7 columns"),
        ("c 0.5 1 1 10 10", "the dataset has no image 'c'"),
        ("b high 1 1 10 10", "'high' is not a finite number"),
        ("b 0.5 1 nan 10 10", "'nan' is not a finite number"),
        ("b 0.5 1 5 10 3", "the box 1 5 10 3 ends before it begins"),
    ],
)
def test_invalid_lines(line, message, tmp_path):
    write_files(tmp_path, {**GOOD, "tea cup": f"{GOOD['cup']}{line}\n"})
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path)
    assert f"{tmp_path / 'comp4_det_test_tea cup.txt'}, line 2: " in str(error.value)


def test_invalid_folders(tmp_path):
    with pytest.raises(DataError, match="none: no such folder"):
        read(tmp_path / "none")
    with pytest.raises(DataError, match=r"no file comp4_det_test_cup.txt, comp4_det_test_tea cup.txt; .*JSON"):
        read(tmp_path)
    write_files(tmp_path, GOOD)
    (tmp_path / "comp4_det_test_cup.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="comp4_det_test_cup.txt: cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("ids", [["a", "a"], [1, "1"], ["a\nb"], [" a"], [""]])
def test_ids_that_a_file_cannot_distinguish(ids, tmp_path):
    records = [make_record([], [], image_id=image_id) for image_id in ids]
    with pytest.raises(DataError, match="image id"):
        write_voc_results(tmp_path, records, [make_detections([], [], [])] * len(ids), class_names=["a"], split="test")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_old_files(tmp_path, monkeypatch):
    """The third file does not fit; the first two are not replaced either."""
    write_files(tmp_path, {name: "old" for name in "abc"})
    synced = []

    def fills_up(handle):
        synced.append(handle)
        if len(synced) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fills_up)
    records, nothing = [make_record([], [])], [make_detections([], [], [])]
    with pytest.raises(DataError, match="cannot write the VOC results: No space left"):
        write_voc_results(tmp_path, records, nothing, class_names=list("abc"), split="test")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"comp4_det_test_{name}.txt": "old" for name in "abc"
    }
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: cannot write"):
        write_voc_results(tmp_path / "file", records, nothing, class_names=["a"], split="test")


def test_non_finite_numbers_are_an_internal_error(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        write_voc_results(
            tmp_path,
            [make_record([], [])],
            [make_detections([[0, 0, 1, np.nan]], [1], [1])],
            class_names=["a"],
            split="test",
        )
