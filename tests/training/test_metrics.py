import json
import math

import pytest
import torch

from frcnn.structures import Losses
from frcnn.training.distributed import World
from frcnn.training.log import TrainingLog
from frcnn.training.metrics import LossMeter, mean_losses
from frcnn.training.run_folder import RunFolder, prepare_folder

WORLD = World(rank=0, size=1, device=torch.device("cpu"))


NAMES = ("rpn_class", "rpn_box", "roi_class", "roi_box")


def make_losses(*values: float) -> Losses:
    return dict(zip(NAMES, torch.tensor(values, dtype=torch.float32), strict=True))


def make_meter() -> LossMeter:
    return LossMeter(WORLD.device)


def test_means_are_over_the_steps_since_the_last_reading():
    meter = make_meter()
    meter.add(make_losses(9, 9, 9, 9))
    meter.read(WORLD)
    meter.add(make_losses(1, 2, 3, 4))
    meter.add(make_losses(3, 4, 5, 6))
    assert meter.num_steps == 2
    expected = {"rpn_class": 2, "rpn_box": 3, "roi_class": 4, "roi_box": 5, "loss": 14}
    assert meter.read(WORLD) == pytest.approx(expected)


def test_the_mean_without_steps_is_nan():
    assert all(map(math.isnan, make_meter().read(WORLD).values()))


def test_a_loss_of_any_name_is_averaged_and_added_to_the_total():
    meter = make_meter()
    meter.add(make_losses(1, 1, 1, 1) | {"mask": torch.tensor(2.0)})
    assert meter.read(WORLD) == dict.fromkeys(NAMES, 1.0) | {"mask": 2.0, "loss": 6.0}
    meter.add(make_losses(1, 1, 1, 1) | {"mask": torch.tensor(4.0)})
    assert meter.read(WORLD)["mask"] == 4.0


def test_the_losses_of_accumulated_parts_are_averaged():
    mean = mean_losses([make_losses(1, 2, 3, 4), make_losses(3, 2, 1, 0)])
    assert [value.item() for value in mean.values()] == [2, 2, 2, 2]


def test_entries_are_lines_of_json_and_nan_is_null(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    prepare_folder(folder, overwrite=False)
    log = TrainingLog(folder, world=WORLD, length=10, step=0)
    log.entry(1, {"loss": 0.123456789, "eval/AP": math.nan})
    losses = dict.fromkeys(NAMES, 1.0)
    values = losses | {"loss": 4.0, "lr": 1e-3, "epoch": 0.5, "images_per_second": 3.0}
    log.progress(5, values | {"memory_mib": 100.0}, losses=losses, seconds_per_step=12.0)
    log.message("hello")
    log.close()
    assert json.loads(folder.metrics.read_text()) == {"step": 1, "loss": 0.1234568, "eval/AP": None}
    assert list(tmp_path.glob("events.out.tfevents.*"))
    output = capsys.readouterr()
    assert output.out == "hello\n"
    assert output.err.count("\n") == 1
    assert "step 5/10" in output.err and "ETA 0:01:00" in output.err


def test_other_ranks_are_silent(tmp_path, capsys):
    log = TrainingLog(RunFolder(tmp_path), world=WORLD._replace(rank=1), length=10, step=0)
    log.entry(1, {"loss": 1.0})
    log.message("hello")
    log.advance()
    log.close()
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
