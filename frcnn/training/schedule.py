"""The learning rate as a pure function of the step, so that a resumed run needs only its step."""

import math
from collections.abc import Sequence
from typing import Literal


def lr_factor(
    step: int,
    *,
    length: int,
    kind: Literal["multistep", "cosine", "constant"],
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    warmup_steps: int = 0,
    warmup_factor: float = 0.0,
    final_factor: float = 0.0,
) -> float:
    """Factor of the peak learning rate for one optimizer step.

    1. multistep: gamma to the power of the number of milestones passed. Milestones are fractions of `length`, rounded
       to whole steps; 2/3 of 90,000 is step 60,000.
       cosine: half a cosine from 1 at the end of the warm-up to `final_factor` at `length`.
       constant: 1.
    2. During the warm-up the factor is multiplied by a linear ramp from `warmup_factor` at step 0 to 1 at step
       `warmup_steps`.

    Args:
        step: number of optimizer steps already done, 0 for the first step.
        length: number of optimizer steps of the whole run.
    """
    if kind == "multistep":
        factor = gamma ** sum(step >= round(share * length) for share in milestones)
    elif kind == "cosine":
        progress = (step - warmup_steps) / max(1, length - warmup_steps)
        progress = min(max(progress, 0.0), 1.0)
        factor = final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2
    else:
        factor = 1.0
    if step < warmup_steps:
        factor *= warmup_factor + (1 - warmup_factor) * step / warmup_steps
    return factor
