"""The sections `train` and `eval`."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from frcnn.config.schema.section import Fraction, Section


class ScheduleConfig(Section):
    """Learning-rate schedule."""

    kind: Literal["multistep", "cosine", "constant"] = "multistep"
    """multistep multiplies the learning rate by gamma at each milestone; cosine decays it to final_factor; constant
    keeps it."""
    milestones: list[Fraction] = [2 / 3, 8 / 9]
    """multistep: shares of the run at which the learning rate is multiplied by gamma."""
    gamma: PositiveFloat = 0.1
    """multistep: factor at each milestone."""
    warmup_steps: NonNegativeInt = 0
    """Number of steps of linear warm-up; 0 turns it off."""
    warmup_factor: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Learning rate at the start of the warm-up, as a share of lr."""
    final_factor: Fraction = 0.0
    """cosine: learning rate at the end, as a share of the peak."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(f"milestones {self.milestones} must be ascending")
        return self


class EarlyStopConfig(Section):
    """End a run whose evaluations stop improving."""

    patience: PositiveInt
    """Number of consecutive evaluations without an improvement of train.best_metric after which training ends."""
    min_delta: NonNegativeFloat = 0.0
    """An evaluation counts as an improvement if it is more than this above the last improvement; best_metric is in
    0..1."""


class TrainConfig(Section):
    """Training."""

    epochs: PositiveInt | None = None
    """Length of the run in passes over the data. Set exactly one of epochs and steps."""
    steps: PositiveInt | None = None
    """Length of the run in optimizer steps."""
    batch_size: PositiveInt = 2
    """Number of images per optimizer step, over all ranks and accumulated parts."""
    accumulate: PositiveInt = 1
    """Number of parts a rank's share of the batch is split into, each with its own backward pass."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights, the order of the images, augmentation and sampling."""
    deterministic: bool = False
    """Use only deterministic operations, so that runs on one machine are equal to the bit. Training stops with an error
    at operations without a deterministic implementation. CPUs are deterministic without this key; on a GPU it costs
    time."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimization algorithm."""
    lr: PositiveFloat = 0.001
    """Learning rate, before the schedule."""
    lr_per_images: PositiveInt | None = None
    """Batch size that lr is meant for: training uses lr * batch_size / lr_per_images. null uses lr unchanged."""
    momentum: Fraction = 0.9
    """Momentum of sgd."""
    weight_decay: NonNegativeFloat = 5e-4
    """Weight decay of weights."""
    norm_weight_decay: NonNegativeFloat = 0.0
    """Weight decay of the affine parameters of norm layers."""
    bias_weight_decay: NonNegativeFloat = 0.0
    """Weight decay of biases."""
    bias_lr_factor: PositiveFloat = 1.0
    """Learning rate of biases as a multiple of lr (2 in the Caffe code of the paper)."""
    schedule: ScheduleConfig = ScheduleConfig()
    clip_grad_norm: PositiveFloat | None = None
    """Maximum norm of all gradients together; null turns clipping off."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which is evaluated and kept in best.pt instead of the last
    weights. In step s the decay is at most (s - 1) / (s + 8). null turns it off."""
    on_nonfinite: Literal["stop", "skip", "rewind"] = "stop"
    """What to do when a loss or gradient is not finite: stop ends training; skip drops the batch and changes nothing;
    rewind returns to the last checkpoint and continues with another order. skip and rewind cost one host sync per step
    on a GPU."""
    nonfinite_limit: PositiveInt = 5
    """Number of consecutive skipped steps, or total number of rewinds, after which training ends anyway."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Autocast type; fp16 needs a GPU."""
    tf32: bool = True
    """Compute float32 convolutions in TensorFloat-32 on a CUDA device, in training and with the checkpoint afterwards.
    It rounds inputs to 10 bits of mantissa. Linear layers always use full float32."""
    device: str = "auto"
    """Device: auto (a GPU if there is one, else the CPU), cpu, cuda or cuda:N."""
    compile: bool | Literal["reduce-overhead"] = False
    """Compile the training step with torch.compile, one graph for each number of ground-truth slots that occurs;
    compiling takes minutes. reduce-overhead also records CUDA graphs. It needs a single canvas: one data.short_side and
    images of one shape."""
    channels_last: bool = False
    """Use the memory layout NHWC for convolutions. It is faster on a GPU under autocast and for depthwise backbones on
    a CPU."""
    log_every: PositiveInt = 20
    """Number of steps between two entries of metrics.jsonl and TensorBoard."""
    eval_every: PositiveInt | None = None
    """Number of steps between evaluations; null evaluates after each epoch."""
    checkpoint_every: PositiveInt | None = None
    """Number of steps between writes of last.pt; null writes after each epoch."""
    best_metric: Literal["AP", "AP50", "voc_mAP"] = "AP"
    """Metric that selects best.pt: COCO AP, COCO AP50 or VOC mAP (area)."""
    early_stop: EarlyStopConfig | None = None
    """End training when evaluations stop improving; null trains for the whole length."""
    num_logged_images: NonNegativeInt = 4
    """Number of images drawn with detections and ground truth at each evaluation."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("set exactly one of epochs and steps")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not divisible by accumulate {self.accumulate}")
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError("precision 'fp16' needs a GPU; use 'bf16' or 'float32' on the CPU")
        return self

    @property
    def peak_lr(self) -> float:
        """Learning rate scaled to the batch size, before the schedule."""
        return self.lr if self.lr_per_images is None else self.lr * self.batch_size / self.lr_per_images


class EvalConfig(Section):
    """Evaluation."""

    batch_size: PositiveInt = 1
    """Number of images per batch on each rank."""
    loss: bool = False
    """Also measure the four losses on data.val at each evaluation in training, which takes another pass over it."""
    backend: Literal["auto", "faster", "pycocotools"] = "auto"
    """Implementation of the COCO metrics. auto: the implementation of frcnn, which is the fastest and equals
    pycocotools to the bit. pycocotools and faster (faster-coco-eval, extra `fast`, equal to about 1e-15) are for
    comparison."""
