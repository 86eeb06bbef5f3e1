import json

import numpy as np
import pytest
from PIL import Image

from frcnn.cli.predict import find_images, main, picture_paths
from frcnn.errors import DataError
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


def test_a_broken_image_is_reported_and_the_rest_goes_on(checkpoint, tmp_path, capsys):
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
        ([checkpoint, image, "--device", "gpu"], "'gpu' is no device"),
        ([checkpoint, image, "--out", str(tmp_path / "file")], "choose another folder by --out"),
    ]:
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    for arguments in ([checkpoint], [checkpoint, image, "--score-threshold", "1.5"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2


def test_pictures_never_replace_an_image_that_is_read(tmp_path):
    for name in ("a.jpg", "a_2.jpg", "b.png"):
        save_noise(tmp_path / name)
    images = find_images([tmp_path])
    pictures = [picture.name for _, picture in picture_paths(images, tmp_path)]
    assert pictures == ["a_3.jpg", "a_2_2.jpg", "b.jpg"]


def test_hidden_depths(tmp_path):
    with pytest.raises(DataError, match="no image"):
        find_images([tmp_path])
    deep = save_noise(tmp_path / "x" / "y" / "z.webp")
    assert find_images([tmp_path, deep]) == [(deep, deep.relative_to(tmp_path))]
