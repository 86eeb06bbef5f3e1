"""Reading and preparing images in worker processes. Errors in a worker are reported by the main process."""

import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NamedTuple
from weakref import ReferenceType, ref

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from frcnn.data.augment.resize import resize_sample
from frcnn.data.augment.transforms import TrainTransform
from frcnn.data.batching import Sample, collate
from frcnn.data.dataset import DetectionDataset
from frcnn.data.sampler import Key, image_generator, image_seed
from frcnn.errors import ConfigError, DataError, TrainingError, UserError
from frcnn.structures import Batch

BEFORE_QUEUES = 100
"""Exit priority of `close`. Higher priorities run first, and the queues of multiprocessing have 10. A worker whose
queue is already closed does not receive the request to end, and PyTorch waits 5 s for it, twice."""


class Attempt(NamedTuple):
    """A sample or None, and the messages of images that could not be read before it.

    Errors are passed as values, because PyTorch rewrites the exceptions of a worker: their message becomes a traceback.
    """

    sample: Sample | None
    problems: tuple[str, ...]
    fault: TrainingError | ConfigError | None = None
    """The error that ended the attempt in a worker process, other than an unusable image."""


class Loaded(NamedTuple):
    """A batch, or None if none of its images could be read, and the messages of all its samples."""

    batch: Batch | None
    problems: tuple[str, ...]
    fault: TrainingError | ConfigError | None
    """The first fault of the samples."""


class TrainSamples(Dataset[Attempt]):
    """Training samples by (epoch, index). A broken image is replaced by the next one that can be read.

    A sample is a function of (seed, epoch, index) and the files. With `on_error: raise` the first broken image ends
    the search.
    """

    def __init__(self, dataset: DetectionDataset, transform: TrainTransform, *, seed: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __getitem__(self, key: Key) -> Attempt:
        epoch, wanted = key
        problems: list[str] = []
        for step in range(len(self.dataset)):
            index = (wanted + step) % len(self.dataset)
            generator = image_generator(seed=self.seed, epoch=epoch, index=index)
            seed = image_seed(seed=self.seed, epoch=epoch, index=index)
            try:
                sample = read_sample(self.dataset, index, partial(self.transform, generator=generator), seed=seed)
            except DataError as error:
                problems.append(str(error))
                if self.dataset.problems.on_error == "raise":
                    break
            else:
                return Attempt(sample, tuple(problems))
        return Attempt(None, tuple(problems))


class EvalSamples(Dataset[Attempt]):
    """Evaluation samples by (0, index). A broken image has no sample."""

    def __init__(self, dataset: DetectionDataset, *, short_side: int, long_side: int) -> None:
        self.dataset = dataset
        self.resize = partial(resize_sample, short_side=short_side, long_side=long_side)

    def __getitem__(self, key: Key) -> Attempt:
        try:
            return Attempt(read_sample(self.dataset, key[1], self.resize, seed=key[1]), ())
        except DataError as error:
            return Attempt(None, (str(error),))


def read_sample(dataset: DetectionDataset, index: int, transform: Callable[[Sample], Sample], *, seed: int) -> Sample:
    """Read image `index` with its annotation and transform it. `seed` is stored in the sample."""
    record = dataset.records[index]
    try:
        return transform(
            Sample(
                image=dataset.read_image(index),
                boxes=torch.from_numpy(record.boxes),
                labels=torch.from_numpy(record.labels),
                is_ignored=torch.from_numpy(record.is_ignored),
                original_size=torch.tensor([record.height, record.width]),
                index=index,
                seed=seed,
            )
        )
    except UserError:
        raise
    except Exception as error:
        if get_worker_info() is None:
            raise  # the traceback reaches the user complete, and says more than a message
        raise TrainingError(describe_fault(error, record.path or f"{dataset.name} {record.image_id}")) from error


def describe_fault(error: Exception, image: Path | str) -> str:
    """Name the image, the exception and the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = traceback.format_exception_only(error)[-1].strip()
    return (
        f"{image}: a loader process failed: {text} ({Path(last.filename).name}, line {last.lineno}, in "
        f"{last.name}); data.workers=0 shows the complete traceback"
    )


class FaultsAsValues(Dataset[Attempt]):
    """Samples that return the faults of a worker process in an attempt instead of raising them."""

    def __init__(self, samples: Dataset[Attempt]) -> None:
        self.samples = samples

    def __getitem__(self, key: Any) -> Attempt:
        try:
            return self.samples[key]
        except (TrainingError, ConfigError) as fault:
            return Attempt(None, (), fault)


def collate_attempts(attempts: list[Attempt]) -> Loaded:
    """Batch the samples that could be read."""
    samples = [attempt.sample for attempt in attempts if attempt.sample is not None]
    problems = tuple(message for attempt in attempts for message in attempt.problems)
    faults = [attempt.fault for attempt in attempts if attempt.fault is not None]
    return Loaded(collate(samples) if samples else None, problems, faults[0] if faults else None)


class BatchLoader(DataLoader):
    """A DataLoader of `Batch` that reports unusable images to the policy of the dataset when their batch arrives.

    In training, iteration never ends and every batch is full. In evaluation, broken images are missing from their
    batch, and a batch without images is None.
    """

    def __init__(
        self,
        samples: TrainSamples | EvalSamples,
        batches: Iterable[list[Key]],
        *,
        workers: int,
        prefetch: int,
        pin_memory: bool,
    ) -> None:
        super().__init__(
            FaultsAsValues(samples),
            batch_sampler=batches,
            collate_fn=collate_attempts,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            pin_memory=pin_memory,
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # otherwise every iteration would draw from the global one
        )
        self.samples = samples

    def __iter__(self) -> Iterator[Batch | None]:
        batches = self._batches()
        Finalize(batches, close, args=(ref(batches),), exitpriority=BEFORE_QUEUES)
        return batches

    def _batches(self) -> Generator[Batch | None, None, None]:
        dataset = self.samples.dataset
        for batch, problems, fault in received(super().__iter__()):
            if fault is not None:
                raise fault
            for message in problems:
                dataset.problems.report(message)
            if batch is None and isinstance(self.samples, TrainSamples):
                raise DataError(f"{dataset.name}: no image can be read; first: {problems[0]}")
            yield batch


def received(results: Iterable[Any]) -> Generator[Any, None, None]:
    """Yield the results of the workers.

    Raises:
        RuntimeError: a worker died, with PyTorch's message. This includes a worker that died while it sent a batch,
            which breaks the connection.
    """
    try:
        yield from results
    except (EOFError, ConnectionError) as error:
        time.sleep(5)  # interrupted by PyTorch's SIGCHLD handler, which raises the cause
        raise RuntimeError("DataLoader worker (pid unknown) exited unexpectedly") from error


def close(iteration: ReferenceType[Generator]) -> None:
    """End an iteration and its workers when the process exits.

    Otherwise Python would send each worker the SIGTERM that it ignores, and wait for it.
    """
    batches = iteration()
    if batches is not None:
        with suppress(ValueError):  # another thread is waiting for the next batch
            batches.close()


def start_worker(worker: int) -> None:
    """Use one thread per worker, and ignore Ctrl-C: the main process ends the workers in order.

    The first SIGTERM is ignored too, because batch systems send it to all processes at once. The second one ends the
    worker.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
