"""Random draws with a fixed number of slots."""

import torch
from torch import Tensor


@torch.no_grad()
def sample_balanced(label: Tensor, *, num_samples: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw at random, without replacement, up to a share of positives, and fill up with negatives.

    1. Each positive gets a random key; the best `num_samples * positive_fraction` are taken.
    2. Each negative gets a random key, below that of any positive taken.
    3. The best `num_samples` keys are the sample: positives first, then as many negatives as there is room for.

    Args:
        label: (B, N) integer; above 0 positive, 0 negative, below 0 neither.
        num_samples: slots an image; more than N leaves slots empty.
        positive_fraction: in 0..1.

    Returns:
        index (B, num_samples) int64 into N, 0 in empty slots; valid (B, num_samples) bool.

    Uses the global random state of the device. Fixed shapes, no host sync.
    """
    count = label.shape[1]
    slots = min(num_samples, count)
    quota = min(int(num_samples * positive_fraction), count)
    key = torch.rand(label.shape, device=label.device)
    positive_key = torch.where(label > 0, key, -1)
    if quota < count:
        # Positives outside the quota are not sampled at all.
        best_key, best = positive_key.topk(quota, dim=1)
        positive_key = torch.full_like(positive_key, -1).scatter(1, best, best_key)
    key = torch.where(positive_key >= 0, positive_key + 1, torch.where(label == 0, key, -1))
    best_key, index = key.topk(slots, dim=1)
    valid = best_key >= 0
    index = torch.where(valid, index, 0)
    if slots < num_samples:
        index = torch.nn.functional.pad(index, (0, num_samples - slots))
        valid = torch.nn.functional.pad(valid, (0, num_samples - slots))
    return index, valid
