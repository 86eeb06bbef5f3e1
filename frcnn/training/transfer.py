"""From the host's memory to the device's."""

from functools import cache

import torch

from frcnn.structures import Batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device; images travel as uint8.

    On a GPU they do on a stream of their own. The host does not wait for the steps before, so the copy begins while
    they are still computed, and is hidden behind them wherever nothing makes the host wait. The batch must lie in
    pinned memory, as the loader leaves it.
    """
    if device.type != "cuda":
        return batch.to(device)
    stream, current = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        batch = batch.to(device, non_blocking=True)
    current.wait_stream(stream)
    for tensor in (*batch[:-1], *batch.ground_truth):
        tensor.record_stream(current)  # its memory is not used again before the step is done with it
    return batch


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
