"""Stateless random sampling into a fixed number of slots."""

import torch
from torch import Tensor

WORD = 2**32 - 1
"""Mask of 32 bits."""
ANCHORS, REGIONS = 1, 2
"""Values of `purpose` in `random_keys`."""


def random_keys(seed: Tensor, position: Tensor, *, purpose: int) -> Tensor:
    """Pseudo-random numbers that are a pure function of (seed, position, purpose).

    1. Mix seed and purpose into 32 bits for each image, and the position into 32 bits for each candidate.
    2. Mix both.

    The numbers are the same on every device, and do not depend on other images or on earlier calls.

    Args:
        seed: (B,) int64, at least 0.
        position: (N,) or (B, N) int64, at least 0; candidates of different positions have unrelated keys.
        purpose: distinguishes the draws of one image; at most 32 bits.

    Returns:
        (B, N) int64 in 0..2**32 - 1. The probability that two keys of an image are equal is 2**-32.
    """
    of_image = _mix(_mix(_mix(seed & WORD) ^ (seed >> 32)) ^ purpose)
    of_position = _mix(_mix(position & WORD) ^ (position >> 32))
    return _mix(of_image[:, None] ^ of_position)


def _mix(value: Tensor) -> Tensor:
    """A bijection of 0..2**32 - 1 in which each bit of the argument changes half of the bits of the result.

    Shifts and factors are from github.com/skeeto/hash-prospector (C. Wellons, two rounds). Both factors are below
    2**31, so products fit into int64 and the result does not depend on how a device handles overflow.
    """
    value = ((value ^ (value >> 16)) * 0x21F0AAAD) & WORD
    value = ((value ^ (value >> 15)) * 0x735A2D97) & WORD
    return value ^ (value >> 15)


@torch.no_grad()
def sample_balanced(label: Tensor, key: Tensor, *, num_samples: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Sample without replacement: positives up to a share, then negatives.

    1. Take the positives with the `num_samples * positive_fraction` highest keys.
    2. Rank all negatives below these positives.
    3. Take the `num_samples` best candidates: positives first, then negatives in the remaining slots.

    Args:
        label: (B, N) integer; above 0 for positive, 0 for negative, below 0 for neither.
        key: (B, N) int64 in 0..2**32 - 1, such as `random_keys`. If two keys are equal, the later candidate is better.
        num_samples: slots per image. Slots stay empty if it is more than N.
        positive_fraction: in 0..1.

    Returns:
        index (B, num_samples) int64 into N, 0 in empty slots; valid (B, num_samples) bool.

    Fixed shapes, no host sync.
    """
    count = label.shape[1]
    slots = min(num_samples, count)
    quota = min(int(num_samples * positive_fraction), count)
    # Make keys unique, so that the sample does not depend on how a device orders ties.
    key = key * count + torch.arange(count, device=key.device)
    positive_key = torch.where(label > 0, key, -1)
    if quota < count:
        # Positives outside the quota are not sampled.
        limit = positive_key.topk(quota + 1, dim=1).values[:, -1:]
        positive_key = torch.where(positive_key > limit, positive_key, -1)
    key = torch.where(positive_key >= 0, positive_key + 2**32 * count, torch.where(label == 0, key, -1))
    best_key, index = key.topk(slots, dim=1)
    valid = best_key >= 0
    index = torch.where(valid, index, 0)
    # Unconditional: with a branch, a compiled graph would serve either small canvases or large ones.
    index = torch.nn.functional.pad(index, (0, num_samples - slots))
    valid = torch.nn.functional.pad(valid, (0, num_samples - slots))
    return index, valid
