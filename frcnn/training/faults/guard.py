"""The guard between the gradients and the weights. A step that is not finite must neither change the weights nor be
lost.
"""

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
    """The state at the start of one step, except for the weights."""

    step: int
    """Number of the step, from 1."""
    random: dict[str, Tensor | None]
    """State of torch's generators, which dropout uses."""
    buffers: dict[str, Tensor]
    """Copies of the buffers, because the forward pass already adds non-finite values to the statistics of batch norm.
    Empty if `Guard` does not check at once."""


class Guard:
    """Checks the loss and the gradients of every step before the weights change.

    A step is bad if the total loss of any rank, or the gradient, which is the same on all ranks, is not finite. With
    fp16, gradients overflow regularly and GradScaler skips such steps; then only the loss is checked. Every rank comes
    to the same result.

    With `at_once`, the result is read before the update, with one host sync per step. A bad step changes neither the
    weights nor the optimizer, and `take_back` restores the buffers.

    Otherwise the result is not read in the step. The first bad step is recorded on the device, and copies of trainable
    weights and of buffers follow the training until then. `bad_step` reads the record, and `before` returns the state
    before the bad step. The model must keep its tensors; only their values may change.
    """

    def __init__(self, model: nn.Module, world: World, *, at_once: bool, is_scaled: bool, memory: int) -> None:
        """
        Args:
            at_once: read the result of each step before the update, see `Guard`.
            is_scaled: gradients are scaled by the gradient scaler of fp16.
            memory: largest number of steps between two calls of `bad_step`.
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
        """Number of the last step if it was bad; only with `at_once`."""
        self.in_a_row = 0
        """Bad steps since the last good step; only with `at_once`."""

    def begin(self, step: int) -> None:
        """Record the state before step `step`. Without `at_once`, copy the weights too."""
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
        """Check the current step, using its losses and the gradients in the model.

        Returns:
            False if the weights must not change; always True if the result is read later.
        """
        step = self.recent[-1].step
        self.losses.append((step, {name: loss.detach() for name, loss in losses.items()}))
        evidence = total_loss(losses).detach().float()
        if not self.is_scaled:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            # The maximum norm, because the squares of valid float32 gradients could overflow.
            evidence = evidence + nn.utils.get_total_norm(gradients, norm_type=torch.inf)
        is_bad = ~mean_over_ranks(evidence, self.world).isfinite()
        if self.at_once:
            self.bad = step if is_bad else None  # host sync, on a GPU only if train.on_nonfinite is not stop
            self.in_a_row = self.in_a_row + 1 if self.bad else 0
            return self.bad is None
        self.first_bad = torch.where(is_bad & (self.first_bad < 0), step, self.first_bad)
        return True

    def bad_step(self, *, look: bool) -> int | None:
        """The last step if it was bad, with `at_once`; otherwise the first bad step, read if `look` (host sync)."""
        if self.at_once or not look:
            return self.bad
        step = int(self.first_bad)
        return step if step >= 0 else None

    def take_back(self) -> None:
        """Restore the buffers to their values before the last step; only with `at_once`."""
        for name, value in self.model.named_buffers():
            value.copy_(self.recent[-1].buffers[name])

    def before(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor | None], dict[str, float]]:
        """Weights and buffers before the bad step, the state of the generators, and this rank's losses in the step."""
        state = next(each for each in self.recent if each.step == step)
        weights = {name: value.detach().cpu() for name, value in (self.model.state_dict() | self.copies).items()}
        weights |= {name: value.cpu() for name, value in state.buffers.items() if name in weights}
        losses = next(values for number, values in self.losses if number == step)
        return weights, state.random, {name: float(loss) for name, loss in losses.items()}


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The state that a training step may change: all entries of the state dict except frozen parameters."""
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
    """State of torch's generators; the state of a GPU's generator is a CPU tensor."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }
