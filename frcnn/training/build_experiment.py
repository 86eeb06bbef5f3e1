"""Build everything a training run needs from a config, and resolve all automatic settings."""

from dataclasses import dataclass
from functools import partial

import torch

from frcnn.config.schema import Config, TrainConfig
from frcnn.data.build_data import build_datasets, build_factors, train_canvases
from frcnn.data.dataset import DetectionDataset
from frcnn.data.sampler import epoch_size, steps_per_epoch
from frcnn.errors import ConfigError
from frcnn.model.build_detector import build_from_config
from frcnn.model.detector import FasterRCNN
from frcnn.model.speed.compiled import check_compiler
from frcnn.model.speed.device import set_tf32
from frcnn.model.speed.placement import place_for_training
from frcnn.model.sync_norm import synchronise_batch_norm
from frcnn.training.determinism import set_deterministic
from frcnn.training.distributed import World, mean_count
from frcnn.training.ema import WeightAverage
from frcnn.training.optimizer import optimizer_from_config
from frcnn.training.randomness import set_seed
from frcnn.training.schedule import lr_factor


@dataclass(frozen=True)
class Experiment:
    """The parts of a training run. Everything is counted in optimizer steps."""

    config: Config
    world: World
    train_set: DetectionDataset
    val_set: DetectionDataset
    model: FasterRCNN
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Gradient scaler of fp16; disabled in other precisions."""
    average: WeightAverage | None
    """None without train.ema_decay."""
    epoch_draws: int
    """Images in one pass with data.sampling, including those of the incomplete last batch."""
    steps_per_epoch: int
    length: int
    eval_every: int
    checkpoint_every: int

    def lr(self, step: int) -> float:
        """Learning rate of the next step after `step` steps."""
        train = self.config.train
        return train.peak_lr * lr_factor(step, length=self.length, **train.schedule.model_dump())

    @property
    def evaluated_model(self) -> FasterRCNN:
        """The detector that is evaluated and saved in best.pt: the averaged one if there is one."""
        return self.model if self.average is None else self.average.model

    def is_evaluation_step(self, step: int) -> bool:
        """True after every `eval_every` steps and at the end."""
        return step > 0 and (step % self.eval_every == 0 or step == self.length)

    def is_checkpoint_step(self, step: int) -> bool:
        """True after every `checkpoint_every` steps, before each evaluation and at the end."""
        return step > 0 and step % self.checkpoint_every == 0 or self.is_evaluation_step(step)


def build_experiment(config: Config, world: World, *, pretrained: bool = True) -> Experiment:
    """Read the datasets, build the model and its optimizer.

    The validation set uses the class names of the training set, so that labels mean the same.

    Args:
        pretrained: False if the weights come from a checkpoint.

    Raises:
        ConfigError, DataError, CheckpointError: the config, the data or a weight file cannot be used.
    """
    check_settings(config.train, world)
    set_deterministic(config, world.device)
    set_tf32(config.train.tf32)
    train_set, val_set = build_datasets(config.data)
    check_canvases(config, train_set)
    draws = epoch_size(len(train_set), build_factors(config.data, train_set))
    per_epoch = steps_per_epoch(draws, config.train.batch_size)
    if per_epoch == 0:
        raise ConfigError(
            f"train.batch_size {config.train.batch_size} is more than the {draws} images of {train_set.name}"
        )

    set_seed(config.train.seed, rank=0)  # new layers are the same on every rank
    model = build_from_config(
        config,
        num_classes=len(train_set.class_names),
        pretrained=pretrained,
        mean_count=partial(mean_count, world=world),
    )
    if config.model.backbone.norm == "sync_bn" and world.size > 1:
        synchronise_batch_norm(model)
    train = config.train
    place_for_training(model, world.device, channels_last=train.channels_last)
    return Experiment(
        config=config,
        world=world,
        train_set=train_set,
        val_set=val_set,
        model=model,
        optimizer=optimizer_from_config(config, model, lr=train.peak_lr),
        scaler=torch.amp.GradScaler(world.device.type, enabled=train.precision == "fp16"),
        average=None if train.ema_decay is None else WeightAverage(model, decay=train.ema_decay),
        epoch_draws=draws,
        steps_per_epoch=per_epoch,
        length=train.steps or (train.epochs or 0) * per_epoch,  # exactly one of the two is set
        eval_every=train.eval_every or per_epoch,
        checkpoint_every=train.checkpoint_every or per_epoch,
    )


def check_settings(train: TrainConfig, world: World) -> None:
    """Raise ConfigError if settings do not fit this machine."""
    parts = world.size * train.accumulate
    if train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size {train.batch_size} cannot be split evenly over {world.size} process(es) with "
            f"train.accumulate {train.accumulate}; make it a multiple of {parts}"
        )
    if train.precision == "fp16" and world.device.type != "cuda":
        raise ConfigError(f"train.precision: fp16 needs a GPU, not {world.device.type}; use bf16 or float32")
    if train.compile == "reduce-overhead" and (train.accumulate > 1 or world.size > 1):
        raise ConfigError(
            "train.compile: reduce-overhead needs train.accumulate=1 and a single process, because the next run of a "
            "CUDA graph overwrites its gradients. Use train.compile=true"
        )
    check_compiler(train.compile, world.device, setting="train.compile")


def check_canvases(config: Config, train_set: DetectionDataset) -> None:
    """Raise ConfigError if CUDA graphs are to be recorded and batches come in several canvases.

    Each canvas would need a graph with memory of its own, and there may be dozens.
    """
    if config.train.compile != "reduce-overhead":
        return
    canvases = sorted(train_canvases(config.data, train_set))
    if len(canvases) > 1:
        examples = " and ".join(f"{height}x{width}" for height, width in (canvases[0], canvases[-1]))
        raise ConfigError(
            f"train.compile: reduce-overhead records a CUDA graph for each canvas, and the images of {train_set.name} "
            f"need {len(canvases)} canvases, such as {examples}. It needs one data.short_side and images of one shape; "
            "otherwise set train.compile to true"
        )


def describe(experiment: Experiment) -> str:
    """Summarize the datasets, the model and the resolved settings, for the start of the log."""
    config, train_set, val_set = experiment.config, experiment.train_set, experiment.val_set
    parameters = [(p.numel(), p.requires_grad) for p in experiment.model.parameters()]
    trainable = sum(count for count, is_trainable in parameters if is_trainable)
    frozen = sum(count for count, is_trainable in parameters if not is_trainable)
    names = ", ".join(train_set.class_names[:10]) + (", ..." if len(train_set.class_names) > 10 else "")
    resolved = {
        "train.device": experiment.world.device,
        "train.lr": f"{config.train.peak_lr:g}" + scaling(config.train),
        "train.eval_every": experiment.eval_every,
        "train.checkpoint_every": experiment.checkpoint_every,
        "backbone.strides": list(experiment.model.backbone.strides),
        "data.test_short_side": config.data.test_sides[0],
        "data.test_long_side": config.data.test_sides[1],
    }
    return "\n".join(
        [
            f"train  {train_set.name}: {len(train_set)} images, {len(train_set.class_names)} classes ({names})",
            f"val    {val_set.name}: {len(val_set)} images",
            *[f"data   {note}" for note in dict.fromkeys([*train_set.notes, *val_set.notes])],
            f"length {experiment.length} steps of {config.train.batch_size} images, "
            f"{experiment.steps_per_epoch} steps per epoch, {experiment.world.size} process(es)"
            + (
                ""
                if config.data.sampling == "uniform"
                else f"; an epoch is {experiment.epoch_draws} draws of "
                f"{len(train_set)} images, data.sampling={config.data.sampling}"
            ),
            "auto   " + ", ".join(f"{key}={value}" for key, value in resolved.items()),
            f"model  {trainable / 1e6:.2f} M trainable parameters, {frozen / 1e6:.2f} M frozen"
            + ("" if experiment.average is None else "; the averaged weights (EMA) are evaluated and saved in best.pt"),
        ]
    )


def scaling(train: TrainConfig) -> str:
    """Explain how train.lr_per_images scaled train.lr; "" if it is not set."""
    if train.lr_per_images is None:
        return ""
    return f" (train.lr {train.lr:g} for {train.lr_per_images} images, scaled to {train.batch_size})"
