import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import frcnn
from frcnn.cli.predict import main
from frcnn.data.images import read_image
from frcnn.errors import DataError
from frcnn.files.writing import save_picture, write_json
from frcnn.runs import predict, prediction_files
from frcnn.runs.predict import find_images, picture_paths
from tests.inference.trained import save_small_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(save_small_checkpoint(tmp_path_factory.mktemp("run") / "best.pt"))


def save_noise(path, size=(90, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_images_and_folders(checkpoint, tmp_path, capsys):
    photos = tmp_path / "photos"
    save_noise(photos / "a.png")
    save_noise(photos / "a.JPG")
    save_noise(photos / "deep" / "a.png")
    (photos / "notes.txt").write_text("no image")
    single = save_noise(tmp_path / "other" / "a.png", size=(70, 80))
    out = tmp_path / "out"
    arguments = [checkpoint, str(photos), str(single), str(photos / "a.png"), "--out", str(out)]
    assert main([*arguments, "--score-threshold", "0.0", "--device", "cpu"]) == 0
    results = json.loads((out / "predictions.json").read_text())
    assert [result["path"] for result in results] == [
        str(path) for path in (photos / "a.JPG", photos / "a.png", photos / "deep" / "a.png", single)
    ]
    pictures = [result["picture"] for result in results]
    assert pictures == [str(out / name) for name in ("a.jpg", "a_2.jpg", "deep/a.jpg", "a_3.jpg")]
    for result in results:
        assert Image.open(result["picture"]).size == (result["width"], result["height"])
        assert result["detections"] and set(result["detections"][0]) == {"class", "label", "score", "box"}
    assert f"objects in 4 images, written to {out}" in capsys.readouterr().out


def test_a_damaged_image_is_reported_and_skipped(checkpoint, tmp_path, capsys):
    good = save_noise(tmp_path / "photos" / "good.png")
    broken = save_noise(tmp_path / "photos" / "broken.jpg")
    broken.write_bytes(broken.read_bytes()[:500])
    out = tmp_path / "out"
    assert main([checkpoint, str(tmp_path / "photos"), str(tmp_path / "missing.png"), "--out", str(out)]) == 1
    errors = capsys.readouterr().err
    assert f"error: {broken}: cannot read image" in errors and "missing.png: image file not found" in errors
    assert "2 of 3 images could not be read" in errors and "Traceback" not in errors
    results = json.loads((out / "predictions.json").read_text())
    assert [result["path"] for result in results] == [str(good)]
    assert main([checkpoint, str(broken), "--out", str(tmp_path / "out2")]) == 2
    assert "none of the 1 images could be read" in capsys.readouterr().err


def test_unusable_arguments(checkpoint, tmp_path, capsys):
    image = str(save_noise(tmp_path / "photos" / "a.png"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for arguments, message in [
        ([checkpoint, str(tmp_path / "empty")], "no image in this folder"),
        ([str(tmp_path / "none.pt"), image], "no such run folder or checkpoint"),
        ([checkpoint, image, "--device", "gpu"], "'gpu' is not a device"),
        ([checkpoint, image, "--out", str(tmp_path / "file")], "Choose another path"),
    ]:
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    for arguments in ([checkpoint], [checkpoint, image, "--score-threshold", "1.5"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2


def test_pictures_do_not_replace_input_images(tmp_path):
    for name in ("a.jpg", "a_2.jpg", "b.png"):
        save_noise(tmp_path / name)
    images = find_images([tmp_path])
    pictures = [picture.name for _, picture in picture_paths(images, tmp_path)]
    assert pictures == ["a_3.jpg", "a_2_2.jpg", "b.jpg"]


def test_files_of_the_user_are_kept(checkpoint, tmp_path, capsys):
    image, photo = save_noise(tmp_path / "a.png"), save_noise(tmp_path / "a.jpg").read_bytes()
    arguments = [checkpoint, str(image), "--device", "cpu", "--out", str(tmp_path)]
    for name in ("predictions.json", "predict.json"):
        (tmp_path / name).write_text("{}")
        assert main(arguments) == 2
        assert f"{tmp_path}: holds {name}" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "{}"
        (tmp_path / name).unlink()
    for option in ([], ["--overwrite"]):
        assert main([*arguments, *option]) == 0
        assert [Path(result["picture"]).name for result in lines_of(tmp_path)] == ["a_2.jpg"]
        assert (tmp_path / "a.jpg").read_bytes() == photo
    assert not (tmp_path / "a_3.jpg").exists()


def test_overwrite_removes_the_pictures_of_the_earlier_run(checkpoint, photos, tmp_path):
    out = tmp_path / "out"
    arguments = [checkpoint, "--device", "cpu", "--out", str(out), "--overwrite"]
    assert main([*arguments, str(photos)]) == 1
    assert main([*arguments, str(photos / "0.png"), str(out / "1.jpg")]) == 0
    assert {path.name for path in out.glob("*.jpg")} == {"0.jpg", "1.jpg", "1_2.jpg"}


def test_hidden_depths(tmp_path):
    with pytest.raises(DataError, match="no image"):
        find_images([tmp_path])
    deep = save_noise(tmp_path / "x" / "y" / "z.webp")
    assert find_images([tmp_path, deep]) == [(deep, deep.relative_to(tmp_path))]


def lines_of(out):
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture
def photos(tmp_path):
    """Five images, one of them unreadable."""
    for number in range(5):
        save_noise(tmp_path / "photos" / f"{number}.png", size=(90, 60))
    (tmp_path / "photos" / "2.png").write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_and_workers_change_nothing(checkpoint, photos, tmp_path, workers, capsys):
    outs = [tmp_path / "one", tmp_path / "many"]
    arguments = [checkpoint, str(photos), "--score-threshold", "0.0", "--device", "cpu"]
    assert main([*arguments, "--out", str(outs[0]), "--workers", "0"]) == 1
    assert main([*arguments, "--out", str(outs[1]), "--batch-size", "3", "--workers", str(workers)]) == 1
    assert capsys.readouterr().err.count("2.png: cannot read image") == 2
    one, many = (json.loads((out / "predictions.json").read_text()) for out in outs)
    assert [result["path"] for result in many] == [str(photos / f"{number}.png") for number in (0, 1, 3, 4)]
    for mine, other in zip(many, one, strict=True):
        assert mine["path"] == other["path"] and len(mine["detections"]) == len(other["detections"]) > 0
        for left, right in zip(mine["detections"], other["detections"], strict=True):
            assert left["label"] == right["label"]
            assert left["box"] == pytest.approx(right["box"], abs=0.02)
            assert left["score"] == pytest.approx(right["score"], abs=2e-4)


def test_batches_are_padded_as_in_the_predictor(checkpoint, tmp_path):
    paths = [save_noise(tmp_path / f"{number}.png", size=(60 + 50 * number, 60)) for number in range(2)]
    out = tmp_path / "out"
    assert main([checkpoint, *map(str, paths), "--out", str(out), "--device", "cpu", "--batch-size", "2"]) == 0
    expected = frcnn.load(checkpoint, device="cpu").predict(paths, batch_size=2)
    assert [result["detections"] for result in lines_of(out)] == [each.to_dict()["detections"] for each in expected]


class Interrupted(BaseException):
    """Like a kill: no handler catches it."""


def interrupt(monkeypatch, *, after: int) -> None:
    """Interrupt the program after it has written `after` pictures."""
    saved = []

    def save(path, picture):
        if len(saved) == after:
            raise Interrupted
        saved.append(path)
        save_picture(path, picture)

    monkeypatch.setattr(predict, "save_picture", save)


def test_an_interrupted_run_keeps_its_results_and_continues(checkpoint, photos, tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = [checkpoint, str(photos), "--device", "cpu", "--batch-size", "2", "--score-threshold", "0.0"]
    assert main([*arguments, "--out", str(whole)]) == 1
    with monkeypatch.context() as patch:
        interrupt(patch, after=2)
        with pytest.raises(Interrupted):
            main([*arguments, "--out", str(out)])
    assert [result["path"] for result in lines_of(out)[:2]] == [str(photos / f"{number}.png") for number in (0, 1)]
    assert not (out / "predictions.json").exists()
    with open(out / "predictions.jsonl", "a") as file:
        file.write('{"path": "cut o')  # as after a power failure

    assert main([*arguments, "--out", str(out)]) == 2
    assert "--resume" in capsys.readouterr().err
    old = (out / "0.jpg").stat().st_mtime_ns
    assert main([*arguments, "--out", str(out), "--resume"]) == 1
    captured = capsys.readouterr()
    assert "in 4 images" in captured.out and "1 of 5 images could not be read" in captured.err
    assert (out / "0.jpg").stat().st_mtime_ns == old
    expected = json.loads((whole / "predictions.json").read_text().replace(f"{whole}/", f"{out}/"))
    assert json.loads((out / "predictions.json").read_text()) == expected == lines_of(out)

    assert main([*arguments, "--out", str(out), "--overwrite"]) == 1
    assert lines_of(out) == expected and (out / "0.jpg").stat().st_mtime_ns > old


def test_resume_refuses_other_settings(checkpoint, photos, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [checkpoint, str(photos), "--device", "cpu", "--out", str(out)]
    assert main(arguments) == 1
    assert main([*arguments, "--resume", "--score-threshold", "0.7"]) == 2
    assert "score_threshold" in capsys.readouterr().err
    other = str(save_small_checkpoint(tmp_path / "other.pt", step=9))
    assert main([other, *arguments[1:], "--resume"]) == 2
    assert "checkpoint" in capsys.readouterr().err
    (out / "predictions.jsonl").write_text('{"path": 3}\n')
    assert main([*arguments, "--resume"]) == 2
    assert "predictions.jsonl, line 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--resume", "--overwrite"])


def test_resume_with_other_images(checkpoint, photos, tmp_path, capsys):
    arguments = [checkpoint, "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main([*arguments, str(photos)]) == 1
    assert main([*arguments, str(photos / "0.png"), "--resume"]) == 0
    assert main([*arguments, str(save_noise(tmp_path / "new.png")), "--resume"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("in 4 images") == 2 and "in 5 images" in captured.out
    assert main([*arguments, str(photos / "2.png"), "--resume"]) == 1
    assert "1 of 6 images could not be read" in capsys.readouterr().err


def test_resume_in_another_working_folder_is_refused(checkpoint, tmp_path, monkeypatch, capsys):
    """Relative paths of the earlier results would name other files, so every image would be predicted again."""
    save_noise(tmp_path / "photos" / "0.png")
    arguments = [str(Path(checkpoint).resolve()), "--device", "cpu", "--out", str(tmp_path / "out")]
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "photos"]) == 0
    monkeypatch.chdir(tmp_path / "photos")
    assert main([*arguments, "../photos", "--resume"]) == 2
    assert "made with working folder" in capsys.readouterr().err
    assert len(lines_of(tmp_path / "out")) == 1


def test_a_kill_while_results_are_replaced_leaves_no_old_results(checkpoint, photos, tmp_path, monkeypatch):
    """Otherwise --resume would keep results with another threshold."""
    out = tmp_path / "out"
    arguments = [checkpoint, str(photos), "--device", "cpu", "--out", str(out)]
    assert main([*arguments, "--score-threshold", "0.0"]) == 1

    def fail(path, content):
        write_json(path, content)
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(prediction_files, "write_json", fail)
        with pytest.raises(Interrupted):
            main([*arguments, "--overwrite"])
    assert lines_of(out) == []


def test_pictures_of_the_interrupted_run_are_not_images(checkpoint, photos, monkeypatch):
    """The output folder may be the folder of the images."""
    arguments = [checkpoint, str(photos), "--device", "cpu", "--out", str(photos)]
    with monkeypatch.context() as patch:
        interrupt(patch, after=2)
        with pytest.raises(Interrupted):
            main(arguments)
    assert main([*arguments, "--resume"]) == 1
    assert [result["path"] for result in lines_of(photos)] == [str(photos / f"{n}.png") for n in (0, 1, 3, 4)]


def test_memory_stays_constant(checkpoint, tmp_path, monkeypatch):
    """The number of images read ahead depends on the batch size and the workers only."""
    for number in range(30):
        save_noise(tmp_path / "photos" / f"{number:02}.png", size=(32, 32))
    read, ahead = [], []
    monkeypatch.setattr(predict, "read_image", lambda path: read.append(path) or read_image(path))
    monkeypatch.setattr(
        predict,
        "save_picture",
        lambda path, picture: ahead.append(len(read) - len(ahead)),
    )
    arguments = [checkpoint, str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*arguments, "--batch-size", "4", "--workers", "2"]) == 0
    assert len(ahead) == 30 and max(ahead) <= 4 + 4 + 2 * 2 + 1
