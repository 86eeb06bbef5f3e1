"""Datasets and augmentations that a config names by import path."""

import pickle
import re
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import frcnn
from frcnn.annotations import ImageRecord
from frcnn.check.build_checks import check_config
from frcnn.cli.eval import main as evaluate
from frcnn.cli.predict import main as predict
from frcnn.cli.train import main as train
from frcnn.config import dump_config, load_config, override_config, parse_config, to_yaml
from frcnn.data import build_dataset, build_datasets, build_eval_loader, build_train_loader
from frcnn.data.formats.shapes import CLASS_NAMES
from frcnn.errors import ConfigError, DataError
from frcnn.files.code import ImportPath, import_code
from frcnn.runs.train import open_config
from frcnn.training.run_folder import RunFolder
from tests.inference.trained import raw_config, save_small_checkpoint
from tests.training.experiments import tiny_settings

OWN = "tests.data.own_code"
EXTEND = Path(__file__).parents[2] / "docs" / "extend.md"


def own(name="Drawn", **arguments):
    return {"format": "python", "dataset": f"{OWN}:{name}", "arguments": arguments}


@pytest.fixture
def load(tmp_path):
    """Callable: a config whose `data` section is in a file."""

    def write(**data):
        path = tmp_path / "config.yaml"
        path.write_text(
            yaml.safe_dump({"data": {"short_side": 40, "workers": 0, "train": own(), "val": own(), **data}})
        )
        return load_config(path)

    return write


def batches(data, count, **options):
    dataset = build_dataset(data, "train")
    loader = build_train_loader(
        data, dataset, **{"batch_size": 2, "accumulate": 1, "seed": 0, "start_step": 0, **options}
    )
    return list(islice(iter(loader), count))


def test_a_user_defined_dataset_class(load):
    data = load(train=own(count=3, level=7), val=own("make"), flip=0.0).data
    train_set, val_set = build_datasets(data)
    assert (train_set.name, len(train_set), len(val_set)) == ("drawn", 3, 2)
    assert train_set.class_names == val_set.class_names == ("cat", "dog") and train_set.category_ids == (1, 2)
    assert isinstance(train_set.records[2], ImageRecord) and train_set.records[2].boxes.tolist() == [[2, 3, 20, 32]]
    assert train_set.read_image(2).unique().tolist() == [14]
    [batch] = build_eval_loader(data, val_set, batch_size=2)
    assert batch.images[1, 0, 0, 0] == 10 and batch.image_sizes.tolist() == [[40, 60]] * 2


def test_classes_filter_and_empty_apply_to_a_dataset_class(load):
    data = load(classes=["dog"], empty="drop").data
    with pytest.raises(DataError, match="drawn: data.empty=drop"):
        build_dataset(data, "train")
    with pytest.raises(DataError, match="drawn: no category is named dogs; did you mean dog"):
        build_dataset(load(classes=["dogs"]).data, "train")


def test_the_check_reads_a_dataset_class(load):
    check = check_config(load(), most_images=None)
    assert [len(source.raw.images) for source in check.sources] == [4, 4]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (own("Gone"), ConfigError, f"data.train.dataset: {OWN}:Gone: the module has no attribute Gone"),
        (own("NUMBER"), ConfigError, "NUMBER is of type int, which cannot be called"),
        (own(size=3), ConfigError, "cannot be called as Drawn(size=...): got an unexpected keyword argument 'size'"),
        (own("one_argument"), ConfigError, "one_argument(sample) cannot be called as one_argument(): missing"),
        (own("make_a_list"), ConfigError, "make_a_list returned a list, expected a frcnn.data.DetectionDataset"),
        (own("Unready"), ConfigError, "Unready does not call DetectionDataset.__init__"),
        (own("bare_record"), DataError, "bare_record: record 0: is a tuple, expected a frcnn.annotations.ImageRecord"),
        (own("label_too_high"), DataError, "record 1: labels must be in 1..1, found [2]"),
        (own("short_labels"), DataError, "record 1: labels must be a numpy array of integers of shape (1,)"),
        (own("flat_boxes"), DataError, "record 1: boxes must be a numpy array of numbers of shape (4, 4)"),
        (own("no_size"), DataError, "record 1: height 0 and width 60 must be the size of an image in pixels"),
        (own("ignored"), DataError, "record 1: an object with is_ignored must also have is_crowd or is_difficult"),
        (own() | {"dataset": "tests.gone:X"}, ConfigError, "there is no module tests.gone; install its package"),
        (own() | {"dataset": "gone:X"}, ConfigError, "data.train.dataset: gone:X: there is no module gone"),
    ],
)
def test_a_dataset_that_does_not_fit(load, source, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        build_datasets(load(train=source).data)
    assert str(caught.value).startswith("data.train.dataset: ") and source["dataset"] in str(caught.value)


def test_the_key_of_a_dataset_in_a_list(load):
    with pytest.raises(ConfigError, match=r"^data\.train\.1\.dataset: "):
        build_datasets(load(train=[own(), own("make_a_list")]).data)


@pytest.mark.parametrize("text", ["my_module", "my-module:X", "a.b:c.d", ":x", "os.system('x'):y"])
def test_an_import_path_has_a_module_and_a_name(load, text):
    with pytest.raises(ConfigError, match=r"data\.transform: expected an import path such as my_package\.my_module"):
        load(transform=text)


def test_an_error_in_an_imported_module_keeps_its_traceback(load, tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_missing"):
        build_datasets(load(train=own() | {"dataset": "broken_module:X"}).data)


@pytest.mark.parametrize("workers", [0, 1])
def test_pixels_of_a_wrong_shape_are_an_error(load, workers):
    data = load(train=own("WrongPixels"), workers=workers).data
    message = r"drawn: read_image of image \d returned \(3, 40, 59\) uint8, expected \(3, 40, 60\) uint8"
    with pytest.raises(DataError, match=message):
        batches(data, 1)


def test_a_user_defined_augmentation_is_repeatable(load):
    """In workers, pickled as for a spawned worker, from the middle of a run, and beside the built-in draws."""
    plain, noisy = load().data, load(transform=[f"{OWN}:add_noise", f"{OWN}:crop"]).data
    whole = batches(noisy, 6)
    assert all(batch.image_sizes.tolist() == [[40, 52]] * 2 for batch in whole)
    for one, other in zip(whole, batches(plain, 6), strict=True):
        assert not torch.equal(one.images[:, :, :40, :52], other.images[:, :, :40, :52])
        assert torch.equal(one.ground_truth.boxes, other.ground_truth.boxes)
    for others in (batches(noisy.model_copy(update={"workers": 2}), 6), batches(noisy, 3, start_step=3)):
        for one, other in zip(whole[-len(others) :], others, strict=True):
            assert torch.equal(one.images, other.images) and torch.equal(one.index, other.index)
    dataset = build_dataset(noisy, "train")
    samples = build_train_loader(noisy, dataset, batch_size=2, accumulate=1, seed=0, start_step=0).samples
    again = pickle.loads(pickle.dumps(samples))
    assert torch.equal(again[0, 3].sample.image, samples[0, 3].sample.image)


def test_an_augmentation_may_drop_objects_and_does_not_change_evaluation(load):
    data = load(transform=f"{OWN}:drop_objects").data
    assert not batches(data, 1)[0].ground_truth.valid.any()
    assert next(iter(build_eval_loader(data, build_dataset(data, "val"), batch_size=1))).ground_truth.valid.any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "the module has no attribute gone"),
        ("one_argument", "one_argument(sample) cannot be called as one_argument(sample, generator): too many"),
        ("returns_none", "returned a value of type NoneType; expected a Sample"),
        ("returns_floats", "returned a Sample with image (3, 40, 60) float32"),
        ("forgets_labels", "boxes (0, 4) float32, labels (1,) int64"),
        ("flattens", "boxes are finite and have an area"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_augmentation_that_does_not_fit(load, name, message, workers):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        batches(load(transform=f"{OWN}:{name}", workers=workers).data, 1)
    assert str(caught.value).startswith(f"data.transform: {OWN}:{name}") and "Traceback" not in str(caught.value)


def test_only_code_that_the_user_names_is_imported(load):
    config = load(transform=f"{OWN}:crop")
    assert config == parse_config(dump_config(config), source="test")  # it loads, but ...
    with pytest.raises(ConfigError, match=rf"data\.train\.dataset: {OWN}:Drawn is not imported, because no config"):
        build_datasets(parse_config(dump_config(config), source="test").data)
    for path in (f"{OWN}:crop", ImportPath(f"{OWN}:crop")):
        with pytest.raises(ConfigError, match=r"If you trust this code, pass the override data\.transform="):
            import_code(path, key="data.transform")
    raw = dump_config(load(val=own("make")))
    data = override_config(raw, [f"data.val.dataset={OWN}:make"], source="last.pt").data
    assert len(build_dataset(data, "val", class_names=["cat", "dog"])) == 2
    with pytest.raises(ConfigError, match=r"data\.train\.dataset: .* is not imported"):
        build_dataset(data, "train", class_names=["cat", "dog"])


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A checkpoint that names a module, and the file that its import creates."""
    marker = tmp_path / "imported"
    (tmp_path / "trap_module.py").write_text(
        f"from tests.data.own_code import Drawn as Data, crop\nopen({str(marker)!r}, 'w').close()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    raw = raw_config()
    source = {"format": "python", "dataset": "trap_module:Data", "arguments": {"class_names": list(CLASS_NAMES)}}
    raw["data"] |= {"train": source, "val": source, "transform": "trap_module:crop"}
    config = dump_config(parse_config(raw, source="test"))
    monkeypatch.delitem(sys.modules, "trap_module", raising=False)
    return save_small_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt", config=config), marker


def test_a_checkpoint_cannot_have_code_imported(trap, tmp_path, capsys):
    checkpoint, marker = trap
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "image.png")
    assert evaluate([str(checkpoint)]) == 2
    assert "data.val.dataset: trap_module:Data is not imported" in capsys.readouterr().err
    assert evaluate([str(checkpoint.parents[1]), "data.val.arguments={count: 1}"]) == 2
    assert evaluate([str(checkpoint), "data.val={format: shapes, num_images: 2, height: 96, width: 96}"]) == 0
    assert predict([str(checkpoint), str(tmp_path / "image.png"), "--out", str(tmp_path / "out")]) == 0
    frcnn.load(checkpoint).predict([tmp_path / "image.png"])
    checkpoint.rename(checkpoint.with_name("last.pt"))
    capsys.readouterr()
    assert train(["--resume", "--out", str(checkpoint.parents[1])]) == 2
    assert "names code to import: trap_module:Data" in capsys.readouterr().err
    assert not marker.exists()


def test_evaluation_imports_the_code_that_an_override_names(trap):
    checkpoint, marker = trap
    assert evaluate([str(checkpoint), "data.val.dataset=trap_module:Data"]) == 0
    assert marker.exists()


def test_a_run_with_own_code_is_trained_and_resumed(tmp_path):
    settings = tiny_settings(steps=2, checkpoint_every=1)
    settings["data"] |= {"train": own(count=4), "val": own(count=2), "transform": f"{OWN}:add_noise"}
    path = tmp_path / "own.yaml"
    path.write_text(to_yaml(parse_config(settings, source="test")))
    run = str(tmp_path / "run")
    assert train([str(path), "train.device=cpu", "--out", run]) == 0
    assert train(["--resume", "--out", run, "train.steps=3"]) == 0


def test_the_examples_of_the_documentation(tmp_path, monkeypatch):
    """The modules of docs/extend.md are written to files and named by a config."""
    text = EXTEND.read_text(encoding="utf-8")
    modules = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in modules] == ["my_data.py", "my_augmentations.py"]
    for name, code in modules:
        (tmp_path / name).write_text(code)
    Image.fromarray(np.full((40, 60, 3), 80, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("file,width,height,label,x1,y1,x2,y2\na.png,60,40,dog,1,2,30,40\n")
    monkeypatch.syspath_prepend(tmp_path)
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    data = {**blocks[0]["data"], **blocks[1]["data"], "flip": 0.0, "short_side": 40, "workers": 0}
    data["train"]["arguments"] |= {"table": str(tmp_path / "train.csv"), "images": str(tmp_path)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {**data, "val": data["train"]}}))
    config = load_config(tmp_path / "config.yaml")
    pixels = {int(batch.images[0, 0, 0, 0]) for batch in batches(config.data, 60, batch_size=1)}
    assert pixels == {80, 175}
    [record] = build_dataset(config.data, "val").records
    assert record.labels.tolist() == [2] and record.boxes.tolist() == [[1, 2, 30, 40]]


def test_a_config_in_python_keeps_its_import_paths(load, tmp_path):

    config = load(transform=f"{OWN}:crop")
    opened, _ = open_config(config, RunFolder(tmp_path / "run"), ["train.lr=0.1"])
    assert len(build_datasets(opened.data)[0]) == 4 and opened.data.given_paths == config.data.import_paths
    untrusted, _ = open_config(parse_config(dump_config(config), source="test"), RunFolder(tmp_path / "run"), [])
    assert untrusted.data.given_paths == []
