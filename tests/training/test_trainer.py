import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from frcnn.config import parse_config
from frcnn.errors import CheckpointError, ConfigError, TrainingError
from frcnn.files.checkpoint import load_checkpoint
from frcnn.structures import Batch, GroundTruth, Losses, total_loss
from frcnn.training.build_experiment import build_experiment, describe
from frcnn.training.dry_run import dry_run
from frcnn.training.metrics import Clock, check_finite_weights
from frcnn.training.randomness import random_state
from frcnn.training.run_folder import RunFolder, prepare_folder
from frcnn.training.state import check_same_config, restore_state
from frcnn.training.trainer import train_experiment, train_loader, train_step
from frcnn.training.validation import validate
from tests.training.experiments import WORLD, differing, run, tiny_config, tiny_experiment, tiny_settings, weights

LOSSES = ("rpn_class", "rpn_box", "roi_class", "roi_box")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete run of two epochs, and the learning rate of its optimizer after each step."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    experiment, rates = tiny_experiment(), []
    prepare_folder(RunFolder(path), overwrite=False)
    train_experiment(
        experiment, RunFolder(path), on_step=lambda _: rates.append(experiment.optimizer.param_groups[0]["lr"])
    )
    return path, rates


def test_the_start_of_the_log_names_the_classes_that_are_skipped():
    settings = tiny_settings()
    assert "data.classes" not in describe(build_experiment(parse_config(settings, source="test"), WORLD))
    settings["data"]["classes"] = ["star"]
    lines = describe(build_experiment(parse_config(settings, source="test"), WORLD)).splitlines()
    assert [line[:18] for line in lines if "4 class(es) that data.classes does not list are skipped" in line] == [
        "data   shapes seed",
        "data   shapes seed",
    ]


def entries(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_a_complete_folder(finished):
    path, _ = finished
    names = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert names >= {
        "config.yaml",
        "env.json",
        "metrics.jsonl",
        "eval.json",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "images/step_000004_0.jpg",
        "images/step_000008_0.jpg",
    }
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if "tmp" in name]


def test_entries_contain_losses_speed_and_evaluations(finished):
    path, _ = finished
    steps = [entry for entry in entries(path) if "loss" in entry]
    evaluations = [entry for entry in entries(path) if "eval/AP" in entry]
    assert [entry["step"] for entry in steps] == [2, 4, 6, 8]
    assert [entry["epoch"] for entry in steps] == [0.5, 1, 1.5, 2]
    assert [entry["step"] for entry in evaluations] == [4, 8]
    expected = {"lr", "images_per_second", "memory_mib", *LOSSES}
    assert all(expected <= entry.keys() for entry in steps)
    for entry in steps:
        assert entry["loss"] == pytest.approx(sum(entry[name] for name in LOSSES), rel=1e-4)
    assert all({"eval/AP", "eval/AP50", "eval/voc_mAP"} <= entry.keys() for entry in evaluations)


def test_the_schedule_reaches_the_optimizer(finished):
    _, rates = finished
    experiment = tiny_experiment()
    assert rates == pytest.approx([experiment.lr(step) for step in range(8)])
    assert rates[0] == pytest.approx(0.002 * 0.001) and rates[3] == pytest.approx(0.002)


def test_checkpoints_load_and_eval_json_matches_the_best(finished):
    path, _ = finished
    last = load_checkpoint(path / "checkpoints" / "last.pt")
    best = load_checkpoint(path / "checkpoints" / "best.pt")
    assert (last["step"], last["trainer"]["evaluated_step"]) == (8, 8)
    assert best["step"] == last["trainer"]["best_step"] and "trainer" not in best
    assert best["class_names"] and len(best["category_ids"]) == len(best["class_names"])
    report = json.loads((path / "eval.json").read_text())
    assert report["coco"]["AP"] == pytest.approx(last["trainer"]["best_metric"])


def test_the_same_seed_gives_the_same_weights(finished, tmp_path):
    """Workers, evaluations, log entries and checkpoints do not change the weights."""
    path, _ = finished
    run(tmp_path / "run", data={"workers": 2}, eval_every=3, checkpoint_every=5, log_every=1)
    assert differing(path, tmp_path / "run") == []


def test_another_seed_gives_other_weights(finished, tmp_path):
    path, _ = finished
    run(tmp_path / "run", seed=1, steps=1, num_logged_images=0)
    assert "rpn" in "".join(differing(path, tmp_path / "run"))


def test_validation_restores_mode_weights_and_randomness():
    experiment = tiny_experiment()
    experiment.model.train()
    before = {name: value.clone() for name, value in experiment.model.state_dict().items()}
    modes = [module.training for module in experiment.model.modules()]
    state = random_state()
    report, detections = validate(experiment)
    assert sorted(detections) == [0, 1, 2] and "coco" in report
    assert [module.training for module in experiment.model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in experiment.model.state_dict().items())
    after = random_state()
    assert torch.equal(state.pop("torch"), after.pop("torch"))
    assert state == after


class MeanModel(nn.Module):
    """The gradient of its loss is the mean of the images of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, batch: Batch) -> Losses:
        loss = (batch.images.float().mean(dim=(0, 2, 3)) * self.weight).sum()
        return {"loss_of_the_test": loss}


def make_batch(images: torch.Tensor) -> Batch:
    count = len(images)
    empty = GroundTruth(*(torch.zeros(count, 0) for _ in range(4)))
    sizes = torch.zeros(count, 2, dtype=torch.int64)
    return Batch(images, sizes, sizes, torch.arange(count), torch.arange(count), empty)


@pytest.mark.parametrize("clip_grad_norm", [None, 0.5])
def test_accumulated_parts_add_up_to_the_whole_batch(clip_grad_norm):
    images = torch.rand(4, 3, 8, 8) * 255
    results = []
    for accumulate in (1, 2, 4):
        experiment = tiny_experiment(batch_size=4, accumulate=accumulate, clip_grad_norm=clip_grad_norm)
        model = MeanModel()
        optimizer = torch.optim.SGD([{"params": model.parameters(), "lr_factor": 1.0}], lr=1.0)
        experiment = replace(experiment, model=model, optimizer=optimizer)
        parts = iter([make_batch(part) for part in images.chunk(accumulate)])
        _, indices = train_step(model, parts, experiment, lr=1.0, clock=Clock())
        assert len(indices) == 4
        results.append(model.weight.detach())
    expected = -images.mean(dim=(0, 2, 3))
    if clip_grad_norm is not None:
        expected = expected / expected.norm() * clip_grad_norm
    for result in results:
        torch.testing.assert_close(result, expected)


def test_a_nan_loss_stops_the_run_and_keeps_valid_weights(tmp_path):
    experiment = tiny_experiment(checkpoint_every=1)

    def poison(step: int) -> None:
        if step == 2:
            next(experiment.model.rpn.parameters()).data.fill_(math.nan)

    prepare_folder(RunFolder(tmp_path), overwrite=False)
    with pytest.raises(TrainingError, match=r"loss of step 3 is not finite \(images: .*shapes"):
        train_experiment(experiment, RunFolder(tmp_path), on_step=poison)
    assert load_checkpoint(RunFolder(tmp_path).last)["step"] == 2
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def test_overflowing_weights_are_not_saved(tmp_path):
    """The loss of the first step is finite, but its update is not."""
    schedule = {"kind": "cosine", "warmup_steps": 0}
    with pytest.raises(TrainingError, match="after step 1 the weights are not finite.*train.lr"):
        run(tmp_path / "run", lr=3e38, weight_decay=1000.0, checkpoint_every=1, schedule=schedule)
    assert load_checkpoint(RunFolder(tmp_path / "run").last)["step"] == 0
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


@pytest.mark.parametrize("name", ["conv.weight", "norm.running_var"])
def test_the_message_names_the_non_finite_tensor(name):
    model = nn.ModuleDict({"conv": nn.Conv2d(3, 3, 1), "norm": nn.BatchNorm2d(3)})
    check_finite_weights(model, step=7)
    model.state_dict()[name].view(-1)[0] = math.inf
    with pytest.raises(TrainingError, match=rf"after step 7 .*1 tensors, the first is {name}"):
        check_finite_weights(model, step=7)


def test_a_missing_eval_json_does_not_fail_a_finished_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("frcnn.training.trainer.write_text", lambda *_: None)
    run(tmp_path / "run", steps=1, num_logged_images=0)
    assert "eval.json is missing" in capsys.readouterr().out


def test_bf16_trains_and_fp16_needs_a_gpu(tmp_path):
    run(tmp_path / "run", precision="bf16", steps=1, num_logged_images=0)
    assert weights(tmp_path / "run")["rpn.convs.0.weight"].dtype == torch.float32
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        tiny_experiment(precision="fp16")


def test_a_batch_must_fit_the_data_and_the_world():
    with pytest.raises(ConfigError, match="batch_size 9 is more than the 8 images"):
        tiny_experiment(batch_size=9)
    with pytest.raises(ConfigError, match=r"2 process.*accumulate 2; make it a multiple of 4"):
        tiny_experiment(accumulate=2, world=WORLD._replace(size=2))


def test_epochs_are_counted_in_steps():
    experiment = tiny_experiment(steps=None, epochs=3, batch_size=4)
    assert (experiment.steps_per_epoch, experiment.length, experiment.eval_every) == (2, 6, 2)
    assert [step for step in range(7) if experiment.is_evaluation_step(step)] == [2, 4, 6]
    every_five = tiny_experiment(steps=7, eval_every=5, checkpoint_every=3)
    assert [step for step in range(8) if every_five.is_evaluation_step(step)] == [5, 7]
    assert [step for step in range(8) if every_five.is_checkpoint_step(step)] == [3, 5, 6, 7]


def test_every_trainable_parameter_receives_a_gradient():
    experiment = tiny_experiment(batch_size=8)
    seen = {parameter for group in experiment.optimizer.param_groups for parameter in group["params"]}
    assert seen == {parameter for parameter in experiment.model.parameters() if parameter.requires_grad}
    losses = experiment.model(next(iter(train_loader(experiment, start_step=0))))
    total_loss(losses).backward()
    assert [name for name, p in experiment.model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_dry_run_reports_every_part():
    checked = "\n".join(dry_run(tiny_experiment()))
    assert all(word in checked for word in ("training", "evaluation", "checkpoint", "memory"))


def test_fused_is_not_restored_from_the_checkpoint(finished):
    path, _ = finished
    checkpoint = load_checkpoint(path / "checkpoints" / "last.pt")
    for group in checkpoint["trainer"]["optimizer"]["param_groups"]:
        group["fused"] = None  # as in an older checkpoint, or on a device without fused optimizers
    experiment = tiny_experiment()
    restore_state(checkpoint, experiment, source=path)
    assert [group["fused"] for group in experiment.optimizer.param_groups] == [True] * len(
        experiment.optimizer.param_groups
    )


def test_a_resumed_run_must_keep_its_config():
    then = tiny_config()
    check_same_config(tiny_config(data={"workers": 1}, log_every=7, steps=20), then, source=Path("last.pt"))
    with pytest.raises(ConfigError, match=r"train.lr: 0.002 in the run, 0.5 now"):
        check_same_config(tiny_config(lr=0.5), then, source=Path("last.pt"))


def test_a_checkpoint_of_another_run_is_refused(finished):
    path, _ = finished
    source = path / "checkpoints" / "last.pt"
    checkpoint = load_checkpoint(source)
    two = replace(tiny_experiment(), world=WORLD._replace(size=2))
    with pytest.raises(CheckpointError, match="written by 1 process.*there are 2 now"):
        restore_state(checkpoint, two, source=source)
    shorter = replace(tiny_experiment(), length=5)
    with pytest.raises(CheckpointError, match="is at step 8, beyond the requested length of 5 steps"):
        restore_state(checkpoint, shorter, source=source)
    with pytest.raises(CheckpointError, match="trained on the classes"):
        restore_state(checkpoint | {"class_names": ["cat"]}, tiny_experiment(), source=source)
    with pytest.raises(CheckpointError, match="weights only.*--init-from"):
        restore_state(load_checkpoint(path / "checkpoints" / "best.pt"), tiny_experiment(), source=source)
