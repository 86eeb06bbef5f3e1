"""The guard between the gradients and the weights: a step that is not finite must not reach them, nor be lost."""

# pyright: reportPrivateImportUsage=false
# (torch has no public name for its operators on lists of tensors, torch._foreach_*)

from collections import defaultdict, deque
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from frcnn.structures import Losses, total_loss
from frcnn.training.distributed import World, mean_over_ranks

INTEGER_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer type by bytes of an element."""


class StateBefore(NamedTuple):
    """What one step began with, beside the weights."""

    step: int
    """Its number, from 1."""
    random: dict[str, Tensor | None]
    """State of torch's generators: dropout draws from them."""
    buffers: dict[str, Tensor]
    """Copies of the buffers: statistics of batch norm take up what is not finite in the forward pass already. Empty
    where `Guard` looks later."""


class Guard:
    """Looks at the loss and the gradients of every step before the weights change.

    A step is bad where the total loss of any rank, or a gradient, of which all ranks have the same, is not finite.
    (With fp16 gradients overflow as a matter of course and GradScaler leaves such steps out; there the loss alone
    counts.) Every rank comes to the same verdict.

    At once: the verdict is read before the update, which costs a host sync a step. A bad step changes nothing: neither
    weights nor optimiser, and `take_back` puts the buffers back.

    Later: nothing is read, the first bad step is noted on the device, and copies of trainable weights and of buffers
    follow the training until then: `bad_step` reads the note, and `before` gives what the bad step began with. The
    model must keep its tensors; only their values may change.
    """

    def __init__(self, model: nn.Module, world: World, *, at_once: bool, is_scaled: bool, memory: int) -> None:
        """
        Args:
            is_scaled: gradients are those of fp16's scaler.
            memory: steps that may pass until somebody calls `bad_step`.
        """
        self.model = model
        self.world = world
        self.at_once = at_once
        self.is_scaled = is_scaled
        self.recent: deque[StateBefore] = deque(maxlen=1 if at_once else memory)
        self.losses: deque[tuple[int, Losses]] = deque(maxlen=1 if at_once else memory)
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=world.device)
        values = {} if at_once else trained_state(model)
        self.copies = {name: value.clone() for name, value in values.items()}
        self.bits = list(zip(bits(self.copies), bits(values), strict=True))
        self.bad: int | None = None
        """The step just judged where it is bad; at once only."""
        self.in_a_row = 0
        """Bad steps since the last good one; at once only."""

    def begin(self, step: int) -> None:
        """Remember what step `step` begins with. Where the verdict comes later, copy the weights too."""
        buffers = {name: value.clone() for name, value in self.model.named_buffers()} if self.at_once else {}
        self.recent.append(StateBefore(step, torch_random_state(), buffers))
        is_sound = self.first_bad < 0
        for copies, current in self.bits:
            # copy += (current - copy) * is_sound, in a few launches for all tensors. Integers wrap around, so the sum
            # is exact, and a nan in the weights does not survive a multiplication by 0.
            change = torch._foreach_sub(current, copies)
            torch._foreach_mul_(change, is_sound.to(copies[0].dtype))
            torch._foreach_add_(copies, change)

    @torch.no_grad()
    def allows(self, losses: Losses) -> bool:
        """Judge the step that has begun, by its losses and the gradients that lie in the model.

        Returns:
            False where the weights must not be changed; always True where the verdict comes later.
        """
        step = self.recent[-1].step
        self.losses.append((step, {name: loss.detach() for name, loss in losses.items()}))
        evidence = total_loss(losses).detach().float()
        if not self.is_scaled:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            # The largest, for the squares of sound float32 gradients could overflow.
            evidence = evidence + nn.utils.get_total_norm(gradients, norm_type=torch.inf)
        is_bad = ~mean_over_ranks(evidence, self.world).isfinite()
        if self.at_once:
            self.bad = step if is_bad else None  # host sync, on a GPU where train.on_nonfinite asks for it
            self.in_a_row = self.in_a_row + 1 if self.bad else 0
            return self.bad is None
        self.first_bad = torch.where(is_bad & (self.first_bad < 0), step, self.first_bad)
        return True

    def bad_step(self, *, look: bool) -> int | None:
        """The number of the bad step: at once of the one just judged; later of the first, by a host sync, if `look`."""
        if self.at_once or not look:
            return self.bad
        step = int(self.first_bad)
        return step if step >= 0 else None

    def take_back(self) -> None:
        """Put the buffers back to where the step just judged found them; at once only."""
        for name, value in self.model.named_buffers():
            value.copy_(self.recent[-1].buffers[name])

    def before(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor | None], dict[str, float]]:
        """Of the bad step: weights and buffers it began with, the generators' state, and its losses on this rank."""
        state = next(each for each in self.recent if each.step == step)
        weights = {name: value.detach().cpu() for name, value in (self.model.state_dict() | self.copies).items()}
        weights |= {name: value.cpu() for name, value in state.buffers.items() if name in weights}
        losses = next(values for number, values in self.losses if number == step)
        return weights, state.random, {name: float(loss) for name, loss in losses.items()}


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What a training step may change: the entries of the state dict that are not frozen parameters."""
    state = model.state_dict(keep_vars=True).items()
    return {name: value.detach() for name, value in state if value.requires_grad or not isinstance(value, nn.Parameter)}


def bits(tensors: Mapping[str, Tensor]) -> list[list[Tensor]]:
    """Views of tensors as integers, a list for each type: `torch._foreach_*` is fast for tensors of one type."""
    views: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    for tensor in tensors.values():
        view = tensor.view(INTEGER_OF_SIZE[tensor.element_size()])
        views[view.dtype].append(view)
    return list(views.values())


def torch_random_state() -> dict[str, Tensor | None]:
    """State of torch's generators; that of a GPU lies on the host."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }
