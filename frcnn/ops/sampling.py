"""Random draws that keep no state and have a fixed number of slots."""

import torch
from torch import Tensor

WORD = 2**32 - 1
"""Mask of 32 bits."""


def random_keys(seed: Tensor, position: Tensor, *, purpose: int) -> Tensor:
    """Numbers that look random and are a pure function of (seed, position, purpose).

    1. Mix seed and purpose into 32 bits for each image, and the position into 32 bits for each candidate.
    2. Mix both together.

    The same numbers come out on every device, and whatever else a batch holds or was drawn before.

    Args:
        seed: (B,) int64, not negative.
        position: (N,) or (B, N) int64, not negative; candidates of different positions get unrelated keys.
        purpose: tells the draws of one image apart; at most 32 bits.

    Returns:
        (B, N) int64 in 0..2**32 - 1. Two keys of an image are equal once in four thousand million pairs.
    """
    of_image = _mix(_mix(_mix(seed & WORD) ^ (seed >> 32)) ^ purpose)
    of_position = _mix(_mix(position & WORD) ^ (position >> 32))
    return _mix(of_image[:, None] ^ of_position)


def _mix(value: Tensor) -> Tensor:
    """A bijection of 0..2**32 - 1 in which each bit of the argument changes half of the result's.

    Shifts and factors are those that C. Wellons found by search (github.com/skeeto/hash-prospector, two rounds). Both
    factors are below 2**31, so that no product leaves int64: nothing here depends on how a device overflows.
    """
    value = ((value ^ (value >> 16)) * 0x21F0AAAD) & WORD
    value = ((value ^ (value >> 15)) * 0x735A2D97) & WORD
    return value ^ (value >> 15)


@torch.no_grad()
def sample_balanced(label: Tensor, key: Tensor, *, num_samples: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw without replacement up to a share of positives, and fill up with negatives.

    1. Of the positives, the best `num_samples * positive_fraction` keys are taken.
    2. The keys of negatives are put below that of any positive taken.
    3. The best `num_samples` keys are the sample: positives first, then as many negatives as there is room for.

    Args:
        label: (B, N) integer; above 0 positive, 0 negative, below 0 neither.
        key: (B, N) int64 in 0..2**32 - 1, such as `random_keys`. Of equal ones the later is the better.
        num_samples: slots an image; more than N leaves slots empty.
        positive_fraction: in 0..1.

    Returns:
        index (B, num_samples) int64 into N, 0 in empty slots; valid (B, num_samples) bool.

    Fixed shapes, no host sync.
    """
    count = label.shape[1]
    slots = min(num_samples, count)
    quota = min(int(num_samples * positive_fraction), count)
    # No two are equal any more, so that what is drawn never hangs on how a device orders ties.
    key = key * count + torch.arange(count, device=key.device)
    positive_key = torch.where(label > 0, key, -1)
    if quota < count:
        # Positives outside the quota are not sampled at all.
        limit = positive_key.topk(quota + 1, dim=1).values[:, -1:]
        positive_key = torch.where(positive_key > limit, positive_key, -1)
    key = torch.where(positive_key >= 0, positive_key + 2**32 * count, torch.where(label == 0, key, -1))
    best_key, index = key.topk(slots, dim=1)
    valid = best_key >= 0
    index = torch.where(valid, index, 0)
    # Always, as a compiled graph would otherwise serve either small canvases or large ones.
    index = torch.nn.functional.pad(index, (0, num_samples - slots))
    valid = torch.nn.functional.pad(valid, (0, num_samples - slots))
    return index, valid
