import json

import numpy as np
import pytest
import torch

from frcnn.annotations import ImageDetections
from frcnn.cli.eval import main
from frcnn.cli.run import guarded
from frcnn.config import parse_config, to_yaml
from frcnn.data.build_data import build_dataset
from frcnn.data.formats.coco_results import write_results
from frcnn.data.formats.shapes import CLASS_NAMES
from frcnn.errors import TrainingError
from frcnn.files.checkpoint import load_checkpoint
from frcnn.runs.evaluate import file_name
from tests.inference.trained import raw_config, save_small_checkpoint


@pytest.fixture
def run_folder(tmp_path):
    save_small_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    return tmp_path / "run"


def read(path):
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in {path}"))


def test_a_run_folder_and_its_saved_detections(run_folder, tmp_path, capsys):
    assert main([str(run_folder), "--save-detections"]) == 0
    output = capsys.readouterr()
    assert "AP50" in output.out and output.err == ""
    report = read(run_folder / "eval.json")
    assert report["images"] == 3 and report["step"] == 7 and report["checkpoint"].endswith("best.pt")

    saved = run_folder / "detections.json"
    assert len(read(saved)) > 0
    (tmp_path / "config.yaml").write_text(to_yaml(parse_config(raw_config(), source="test")))
    for source in (run_folder, tmp_path / "config.yaml"):
        assert main([str(source), "--detections", str(saved)]) == 0
        again = read(run_folder / "detections_eval" / "eval.json")
        assert {key: again[key] for key in ("coco", "voc", "per_class", "images")} == {
            key: report[key] for key in ("coco", "voc", "per_class", "images")
        }
        assert again["detections"] == str(saved)


def test_voc_results_round_trip(run_folder, tmp_path, capsys):
    """COCO and VOC result files give the same metrics. VOC files are written on request only."""
    folder = tmp_path / "results" / "Main"
    assert main([str(run_folder), "--voc-results", str(folder)]) == 0
    report = read(run_folder / "eval.json")
    names = [f"comp4_det_shapes-seed-0_{name}.txt" for name in CLASS_NAMES]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert sum(len((folder / name).read_text().splitlines()) for name in names) > 0
    assert sorted(path.name for path in run_folder.iterdir()) == ["checkpoints", "eval.json"]

    (tmp_path / "config.yaml").write_text(to_yaml(parse_config(raw_config(), source="test")))
    again = tmp_path / "again"
    arguments = [str(tmp_path / "config.yaml"), "--detections", str(folder), "--voc-results", str(again)]
    assert main(arguments) == 0
    scored = read(tmp_path / "results" / "Main_eval" / "eval.json")
    assert scored["detections"] == str(folder)
    assert {key: scored[key] for key in ("coco", "voc", "per_class", "images")} == {
        key: report[key] for key in ("coco", "voc", "per_class", "images")
    }
    assert all((again / name).read_text() == (folder / name).read_text() for name in names)
    (folder / names[0]).unlink()
    assert main(arguments) == 2
    assert f"no file {names[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("coordinates", ["edges", "minus_one"])
def test_voc_results_use_the_pixels_of_voc_files(coordinates, tmp_path):
    """The split is part of the file names. A perfect detector writes the numbers of the annotation."""
    write_voc(tmp_path / "VOC")
    raw = raw_config()
    source = {"format": "voc", "root": str(tmp_path / "VOC"), "split": "test", "coordinates": coordinates}
    raw["data"] |= {"train": source, "val": source}
    config = parse_config(raw, source="test")
    dataset = build_dataset(config.data, "val")
    perfect = [ImageDetections(record.boxes, np.float32([0.5]), record.labels) for record in dataset.records]
    write_results(tmp_path / "found.json", dataset.records, perfect, category_ids=dataset.category_ids)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    arguments = [str(tmp_path / "config.yaml"), "--detections"]
    assert main([*arguments, str(tmp_path / "found.json"), "--voc-results", str(tmp_path / "Main")]) == 0
    assert (tmp_path / "Main" / "comp4_det_test_cat.txt").read_text() == "000001 0.5 11 6 40 30\n"
    assert main([*arguments, str(tmp_path / "Main")]) == 0
    assert read(tmp_path / "Main_eval" / "eval.json")["voc"]["mAP"] == 1


def write_voc(root):
    """One image of 64 x 48 with a cat at the pixels 11 to 40 and 6 to 30."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    (root / "ImageSets" / "Main" / "test.txt").write_text("000001\n")
    box = "<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>"
    size = "<size><width>64</width><height>48</height></size>"
    (root / "Annotations" / "000001.xml").write_text(
        f"<annotation>{size}<object><name>cat</name>{box}</object></annotation>"
    )


def test_perfect_detections_with_a_config_only(tmp_path, capsys):
    config = parse_config(raw_config(), source="test")
    dataset = build_dataset(config.data, "val")
    perfect = [ImageDetections(record.boxes, 1 - 0 * record.boxes[:, 0], record.labels) for record in dataset.records]
    write_results(tmp_path / "found.json", dataset.records, perfect, category_ids=dataset.category_ids)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert main([str(tmp_path / "config.yaml"), "--detections", str(tmp_path / "found.json")]) == 0
    report = read(tmp_path / "found_eval" / "eval.json")
    assert report["coco"]["AP"] == pytest.approx(1) and report["voc"]["mAP_11point"] == pytest.approx(1)


def test_listed_classes_filter_what_is_evaluated(tmp_path, capsys):
    """Detections of the other categories are skipped, as pycocotools does with catIds; unknown ones are an error."""
    config = parse_config(raw_config(), source="test")
    dataset = build_dataset(config.data, "val")
    found = [ImageDetections(record.boxes, 1 - 0 * record.boxes[:, 0], record.labels) for record in dataset.records]
    path = tmp_path / "found.json"
    write_results(path, dataset.records, found, category_ids=dataset.category_ids)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    name = dataset.class_names[int(dataset.records[0].labels[-1]) - 1]
    arguments = [str(tmp_path / "config.yaml"), f"data.classes=[{name}]", "--detections", str(path)]
    assert main(arguments) == 0
    report = read(tmp_path / "found_eval" / "eval.json")
    assert list(report["per_class"]) == [name] and report["coco"]["AP"] == pytest.approx(1)
    assert "that data.classes does not list are skipped" in capsys.readouterr().out
    entries = json.loads(path.read_text())
    path.write_text(json.dumps([*entries, entries[0] | {"category_id": 77}]))
    assert main(arguments) == 2
    assert "no category 77" in capsys.readouterr().err


def test_overrides_and_out(run_folder, tmp_path):
    last = save_small_checkpoint(run_folder / "checkpoints" / "last.pt")
    assert main([str(last), "data.val.num_images=2", "--out", str(tmp_path / "out"), "eval.batch_size=2"]) == 0
    assert read(tmp_path / "out" / "eval.json")["images"] == 2
    assert main([str(last)]) == 0
    assert read(run_folder / "checkpoints" / "last_eval" / "eval.json")["images"] == 3


def test_overrides_do_not_change_the_report_of_the_run(run_folder):
    assert main([str(run_folder)]) == 0
    own = (run_folder / "eval.json").read_text()
    assert main([str(run_folder), "data.val.num_images=2"]) == 0
    assert read(run_folder / "eval_data.val.num_images=2" / "eval.json")["images"] == 2
    assert (run_folder / "eval.json").read_text() == own


def test_overrides_as_a_folder_name():
    assert file_name(["data.val.images=../a b", "x=[1, 2]"]) == "data.val.images=..-a-b_x=-1-2-"
    first, second = (file_name(["data.val.annotations=" + "long/" * 99 + end]) for end in "ab")
    assert first != second and len(first) == len(second) == 89


def test_another_format_with_other_classes(run_folder, tmp_path, capsys):
    """The keys of the old format are dropped. Classes that the checkpoint does not have are an error."""
    annotations = tmp_path / "instances.json"
    categories = [{"id": 5, "name": "zebra"}]
    images = [{"id": 1, "file_name": "1.jpg", "height": 5, "width": 5}]
    annotations.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    overrides = ["data.val.format=coco", f"data.val.images={tmp_path}", f"data.val.annotations={annotations}"]
    assert main([str(run_folder), *overrides]) == 2
    message = capsys.readouterr().err
    assert "instances.json" in message and "best.pt was trained on the classes" in message and "zebra" in message
    assert main([str(run_folder), "data.classes=[zebra]"]) == 2
    assert "data.classes cannot be ['zebra']" in capsys.readouterr().err


def test_unusable_arguments(run_folder, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(to_yaml(parse_config(raw_config(), source="test")))
    (tmp_path / "file").write_text("")
    (tmp_path / "broken.json").write_text("[{")
    best = run_folder / "checkpoints" / "best.pt"
    for arguments, message in [
        ([tmp_path / "none"], "no such run folder or checkpoint"),
        ([tmp_path], "no checkpoint in this folder"),
        ([tmp_path / "file"], "truncated, damaged or written by another program"),
        ([tmp_path / "config.yaml"], "holds no weights"),
        ([run_folder, "data.vall.format=coco"], "data.vall"),
        ([run_folder, "train.device=gpu"], "'gpu' is not a device"),
        ([run_folder, "train.device=meta"], "PyTorch finds no meta on this machine"),
        (["x" * 300], "xxx: File name too long"),
        ([run_folder, "model.roi.head.channels=32"], "must not change layers"),
        ([run_folder, "--detections", tmp_path / "none.json"], "no such file"),
        ([run_folder, "--detections", tmp_path / "broken.json"], "not a JSON file"),
        ([best, "--out", tmp_path / "file"], "Choose another path"),
    ]:
        assert main([str(argument) for argument in arguments]) == 2
        output = capsys.readouterr()
        assert output.err.startswith("error: ") and message in output.err and "Traceback" not in output.err
    with pytest.raises(SystemExit) as stop:
        main([str(best), "--detections", "x.json", "--save-detections"])
    assert stop.value.code == 2


def test_evaluation_does_not_change_the_checkpoint(run_folder):
    best = run_folder / "checkpoints" / "best.pt"
    before = best.read_bytes()
    assert main([str(run_folder)]) == 0
    assert best.read_bytes() == before and load_checkpoint(best)["step"] == 7


def test_exit_status_and_message_of_each_error(capsys):
    def fail(error):
        def program():
            raise error

        return guarded(program)

    assert guarded(lambda: 0) == 0
    assert fail(TrainingError("the loss is NaN")) == 1
    assert capsys.readouterr().err == "error: the loss is NaN\n"
    assert fail(KeyboardInterrupt()) == 130
    assert fail(torch.OutOfMemoryError("CUDA out of memory. Tried ...")) == 1
    assert "error: out of memory: lower the batch size (eval.batch_size, --batch-size)" in capsys.readouterr().err
    assert fail(PermissionError(13, "Permission denied", "photos/a.jpg")) == 2
    assert capsys.readouterr().err == "error: photos/a.jpg: Permission denied\n"
    with pytest.raises(BrokenPipeError):
        fail(BrokenPipeError(32, "Broken pipe"))
    assert fail(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")) == 1
    message = capsys.readouterr().err
    assert "Lower data.workers" in message and "pid 7" in message
    with pytest.raises(RuntimeError, match="shapes"):
        fail(RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError())
