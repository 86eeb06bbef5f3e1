"""The sections `train` and `eval`."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from frcnn.config.schema.section import Fraction, Section


class ScheduleConfig(Section):
    kind: Literal["multistep", "cosine", "constant"] = "multistep"
    milestones: list[Fraction] = [2 / 3, 8 / 9]
    """multistep: shares of the whole training at which lr is multiplied by gamma."""
    gamma: PositiveFloat = 0.1
    warmup_steps: NonNegativeInt = 0
    """Linear warm-up from lr * warmup_factor."""
    warmup_factor: Annotated[float, Field(ge=0, le=1)] = 0.001
    final_factor: Fraction = 0.0
    """cosine: lr at the end as a share of the peak."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(f"milestones {self.milestones} must ascend")
        return self


class EarlyStopConfig(Section):
    patience: PositiveInt
    """Evaluations in a row without a rise of train.best_metric after which the training ends."""
    min_delta: NonNegativeFloat = 0.0
    """A rise is more than this above the last one; best_metric is in 0..1."""


class TrainConfig(Section):
    epochs: PositiveInt | None = None
    """Length in passes over the data; exactly one of `epochs` and `steps` is set."""
    steps: PositiveInt | None = None
    """Length in optimiser steps."""
    batch_size: PositiveInt = 2
    """Images in one optimiser step, over all ranks and accumulated parts together."""
    accumulate: PositiveInt = 1
    """Parts a rank's share of the batch is split into, one backward pass each."""
    seed: NonNegativeInt = 0
    deterministic: bool = False
    """Use only operations that give the same bits whenever they are run on the same machine, and refuse to train where
    there is none. A CPU gives the same bits without it too; on a GPU it costs time."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.001
    lr_per_images: PositiveInt | None = None
    """The batch size `lr` is meant for: training runs with lr * batch_size / lr_per_images. null: with lr as it is."""
    momentum: Fraction = 0.9
    """sgd only."""
    weight_decay: NonNegativeFloat = 5e-4
    norm_weight_decay: NonNegativeFloat = 0.0
    """Decay of the affine parameters of norm layers."""
    bias_weight_decay: NonNegativeFloat = 0.0
    bias_lr_factor: PositiveFloat = 1.0
    """lr of biases as a multiple of lr (2 in the Caffe code of the paper)."""
    schedule: ScheduleConfig = ScheduleConfig()
    clip_grad_norm: PositiveFloat | None = None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Evaluate, and keep in best.pt, an exponential moving average of the weights instead of those of the last step: a
    step changes it by 1 - ema_decay, the first ones by more, as the decay is then (step - 1) / (step + 8). null: off"""
    on_nonfinite: Literal["stop", "skip", "rewind"] = "stop"
    """A step whose loss or gradients are not finite: ends the training; is left out, its batch lost and nothing
    changed; or sends the training back to its last checkpoint, to go on from there in another order. skip and rewind
    cost a host sync a step on a GPU."""
    nonfinite_limit: PositiveInt = 5
    """Steps left out in a row, or rewinds in all, after which the training ends all the same."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Autocast type; fp16 needs a GPU."""
    device: str = "auto"
    """auto is the GPU where there is one, else cpu."""
    compile: bool | Literal["reduce-overhead"] = False
    """Run the training step as compiled graphs (torch.compile), one for each number of ground-truth slots that occurs;
    compiling takes minutes. reduce-overhead also records CUDA graphs; it needs one canvas, so one data.short_side and
    images of one shape."""
    channels_last: bool = False
    """Convolutions in the memory layout NHWC: a gain on a GPU under autocast and for depthwise backbones on a CPU."""
    log_every: PositiveInt = 20
    """Steps between two entries of metrics.jsonl and TensorBoard."""
    eval_every: PositiveInt | None = None
    """Steps between evaluations; null is after each epoch."""
    checkpoint_every: PositiveInt | None = None
    """Steps between writes of last.pt; null is after each epoch."""
    best_metric: Literal["AP", "AP50", "voc_mAP"] = "AP"
    """What best.pt is chosen by: COCO AP, COCO AP50 or VOC mAP (area)."""
    early_stop: EarlyStopConfig | None = None
    """End before the length is reached where evaluations no longer get better; null trains to the end."""
    num_logged_images: NonNegativeInt = 4
    """Images drawn with detections and ground truth at each evaluation."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("set exactly one of epochs and steps")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} cannot be split into {self.accumulate} equal parts")
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError("precision 'fp16' needs a GPU; on the cpu take 'bf16' or 'float32'")
        return self

    @property
    def peak_lr(self) -> float:
        """The learning rate of this batch size, which the schedule starts from."""
        return self.lr if self.lr_per_images is None else self.lr * self.batch_size / self.lr_per_images


class EvalConfig(Section):
    batch_size: PositiveInt = 1
    """Images at a time on each rank."""
    loss: bool = False
    """Also measure the four losses on data.val at each evaluation of a training; costs another pass over it."""
    backend: Literal["auto", "faster", "pycocotools"] = "auto"
    """What computes COCO's numbers. auto: the project's own matching on arrays, pycocotools' numbers to the bit and the
    fastest. pycocotools, and faster (faster-coco-eval, extra `fast`; equal to about 1e-15): to check it by."""
