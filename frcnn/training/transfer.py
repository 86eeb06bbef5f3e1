"""Copies of batches from host memory to the device."""

from functools import cache

import torch

from frcnn.structures import Batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to the device; images are copied as uint8.

    On a GPU the copy uses its own stream. It starts while earlier steps still run, and overlaps with them as long as
    nothing makes the host wait. The batch must be in pinned memory, as the loader provides it.
    """
    if device.type != "cuda":
        return batch.to(device)
    stream, current = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        batch = batch.to(device, non_blocking=True)
    current.wait_stream(stream)
    for tensor in (*batch[:-1], *batch.ground_truth):
        tensor.record_stream(current)  # its memory is not reused before the step has finished with it
    return batch


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
