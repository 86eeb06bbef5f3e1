"""A training run depends only on its config, not on workers, ranks or the parts of a batch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from frcnn.config import parse_config
from frcnn.errors import ConfigError
from frcnn.model.losses.losses import RoiLoss, RpnLoss
from frcnn.structures import AnchorLabels, RoiSamples, RpnOutput
from frcnn.training.batches import train_loader
from frcnn.training.build_experiment import build_experiment
from frcnn.training.determinism import explained
from frcnn.training.distributed import World, join_world, mean_count, mean_over_ranks
from frcnn.training.metrics import Clock
from frcnn.training.step import prepared, train_step
from tests.training.experiments import WORLD, differing, run, tiny_experiment, tiny_settings
from tests.training.ranks import spawn_ranks

STEPS = 20
FULL = {"rpn_samples": 64, "roi_samples": 16}
"""Samples per image that are always available, so that all images have the same count."""
PARTIAL = {"rpn_samples": 4000, "roi_samples": 200}
"""More samples than available, so that each image has its own count."""


@pytest.fixture(autouse=True)
def as_before():
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def train_steps(
    world: World, *, accumulate: int = 1, steps: int = STEPS, rpn_samples: int, roi_samples: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses (steps, 4) of the global batch of 4 images and the final weights; images of one size, no dropout."""
    sizes = {"short_side": 64, "jitter": {"brightness": 0.2}}
    settings = tiny_settings(data=sizes, batch_size=4, accumulate=accumulate, steps=steps, lr=0.005)
    # Trainable batch norm uses the whole batch; fixed statistics do not.
    settings["model"]["backbone"]["norm"] = "frozen_bn"
    settings["model"]["rpn"]["samples_per_image"] = rpn_samples
    settings["model"]["roi"]["samples_per_image"] = roi_samples
    experiment = build_experiment(parse_config(settings, source="test"), world, pretrained=False)
    torch.manual_seed(world.rank)  # draws from the global state differ between the ranks
    # In float32, rounding soon changes a close decision of NMS, and runs diverge slowly: docs/determinism.md.
    experiment.model.double()
    model = prepared(experiment).train()
    batches = iter(train_loader(experiment, start_step=0))
    losses = [
        torch.stack([*train_step(model, batches, experiment, lr=experiment.lr(step), clock=Clock())[0].values()])
        for step in range(steps)
    ]
    return mean_over_ranks(torch.stack(losses).detach(), world), experiment.model.state_dict()


def train_on_ranks(rank: int, folder: Path, cases: dict[str, dict[str, int]]) -> None:
    with join_world("cpu") as world:
        count = torch.tensor(3 * rank)
        assert mean_count(count, world) == 1.5
        with torch.no_grad():  # ranks evaluate different numbers of batches; no rank waits
            assert all(mean_count(count, world) == count for _ in range(2 - rank))
        for name, case in cases.items():
            result = train_steps(world, **case)
            if rank == 0:
                torch.save(result, folder / f"{name}.pt")


def difference(result: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> dict[str, float]:
    """The largest differences: of a loss relative to the loss, of a weight tensor relative to its norm."""
    losses = ((result[0] - other[0]).abs() / other[0].abs()).max()
    floats = {name: value for name, value in other[1].items() if value.is_floating_point()}
    weights = max((result[1][name] - value).norm() / value.norm().clamp(min=1e-3) for name, value in floats.items())
    return {"losses": float(losses), "weights": float(weights)}


@pytest.mark.heavy
def test_ranks_and_parts_train_as_one_process(tmp_path):
    """20 steps on 4 images in one process, on two ranks and in two parts: equal except for the order of additions.

    If the counts of the images differ, each rank needs the counts of the others to equal one process.
    """
    cases = {"full": FULL, "partial": PARTIAL | {"steps": 3}}
    spawn_ranks(train_on_ranks, tmp_path, cases)
    full, partial = train_steps(WORLD, **FULL), train_steps(WORLD, **cases["partial"])
    assert full[0][-1].sum() < full[0][0].sum()
    found = {
        "ranks": difference(torch.load(tmp_path / "full.pt"), full),
        "parts": difference(train_steps(WORLD, accumulate=2, **FULL), full),
        "ranks, counts differ": difference(torch.load(tmp_path / "partial.pt"), partial),
    }
    assert all(each["losses"] < 1e-10 and each["weights"] < 1e-10 for each in found.values()), found


def test_parts_with_different_counts_are_close(tmp_path):
    """Each part is divided by its own counts, because those of later parts are unknown. The results are only close."""
    whole = train_steps(WORLD, steps=1, **PARTIAL)
    parts = train_steps(WORLD, steps=1, accumulate=2, **PARTIAL)
    losses = difference(parts, whole)["losses"]
    assert 1e-4 < losses < 0.1


def rpn_case(num_images: int):
    """Random RPN outputs; each image has another number of samples."""
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(40, 2, generator=generator) * 50
    anchors = torch.cat([corner, corner + 20], dim=1)
    label = torch.randint(-1, 2, (num_images, 40), generator=generator).to(torch.int8)
    output = RpnOutput(
        torch.randn(num_images, 40, generator=generator), torch.randn(num_images, 40, 4, generator=generator)
    )
    valid = torch.rand(num_images, 12, generator=generator) < torch.linspace(0.1, 1, num_images)[:, None]
    index = torch.stack([torch.randperm(40, generator=generator)[:12] for _ in range(num_images)])
    gt_boxes = torch.tensor([[5.0, 5, 40, 30]]).expand(num_images, 1, 4)
    return anchors, [*output, label, torch.zeros_like(label, dtype=torch.int64), gt_boxes, index, valid]


def test_losses_divided_by_the_mean_count_average_to_the_whole_batch():
    anchors, tensors = rpn_case(4)

    def rpn(objectness, deltas, label, matched, gt_boxes, index, valid, **count):
        sampled, labels = RpnOutput(objectness, deltas).at(index), AnchorLabels(label, matched)
        loss = RpnLoss(smooth_l1_beta=1, normaliser="sampled", **count)
        return torch.stack([*loss(sampled, anchors, labels, gt_boxes, index, valid).values()])

    generator = torch.Generator().manual_seed(4)
    corner = torch.rand(4, 6, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 20], dim=2)
    regions = [
        torch.randn(4, 6, 3, generator=generator),
        torch.randn(4, 6, 2, 4, generator=generator),
        boxes,
        torch.randint(3, (4, 6), generator=generator),
        boxes + 3,
        torch.tensor([[True] * 6, [True] * 6, [True] + [False] * 5, [False] * 6]),
    ]

    def roi(class_logits, deltas, *samples, **count):
        loss = RoiLoss(box_weights=(1, 1, 1, 1), smooth_l1_beta=1, **count)
        return torch.stack([*loss(class_logits, deltas, RoiSamples(*samples)).values()])

    for losses, arguments in ((rpn, tensors), (roi, regions)):
        valid = arguments[-1]
        whole = losses(*arguments)
        shares = [[tensor[:2] for tensor in arguments], [tensor[2:] for tensor in arguments]]
        mean = torch.stack([losses(*share, mean_count=lambda _, v=valid: v.sum() / 2) for share in shares]).mean(dim=0)
        own = torch.stack([losses(*share) for share in shares]).mean(dim=0)
        torch.testing.assert_close(mean, whole)
        assert not torch.isclose(own, whole).all(), "counts of their own weigh samples differently"
        nothing = [*arguments[:-1], torch.zeros_like(valid)]
        assert losses(*nothing).tolist() == [0, 0]


def test_workers_do_not_change_a_deterministic_run(tmp_path):
    settings = {"deterministic": True, "steps": 3, "num_logged_images": 0}
    run(tmp_path / "alone", data={"workers": 0}, **settings)
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    run(tmp_path / "helped", data={"workers": 2}, **settings)
    assert differing(tmp_path / "alone", tmp_path / "helped") == []
    tiny_experiment()
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic


@pytest.mark.slow
@pytest.mark.parametrize("pooling", [{}, {"sampling_ratio": 0}, {"kind": "roi_pool"}])
def test_four_workers_do_not_change_a_run_with_any_pooling(tmp_path, monkeypatch, pooling):
    from tests.training import experiments

    def with_pooling(**settings):
        settings = tiny_settings(**settings)
        settings["model"]["roi"]["pooling"] = pooling
        return parse_config(settings, source="test")

    monkeypatch.setattr(experiments, "tiny_config", with_pooling)
    settings = {"deterministic": True, "steps": 20, "num_logged_images": 0}
    run(tmp_path / "alone", data={"workers": 0}, **settings)
    run(tmp_path / "helped", data={"workers": 4}, **settings)
    assert differing(tmp_path / "alone", tmp_path / "helped") == []


def test_nondeterministic_settings_are_refused():
    from frcnn.training.determinism import check_deterministic

    settings = tiny_settings(deterministic=True)
    settings["model"]["roi"]["pooling"] = {"kind": "roi_pool"}
    config = parse_config(settings, source="test")
    check_deterministic(config, torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"train.deterministic: .*roi_pool is not deterministic on cuda"):
        check_deterministic(config, torch.device("cuda"))


def test_an_error_of_pytorch_is_explained():
    torch.use_deterministic_algorithms(True)
    with (
        pytest.raises(
            ConfigError, match=r"^train.deterministic: put_ does not have .*implementation.*=false"
        ) as caught,
        explained(),
    ):
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="shape"), explained():
        torch.zeros(3).view(2)
