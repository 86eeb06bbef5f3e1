"""Reading and preparing images in worker processes, with what goes wrong there told in the main process."""

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

from frcnn.data.augment.transforms import TestTransform, TrainTransform
from frcnn.data.batching import Sample, collate
from frcnn.data.dataset import DetectionDataset
from frcnn.data.sampler import Key, image_generator, image_seed
from frcnn.errors import DataError, TrainingError
from frcnn.structures import Batch

BEFORE_QUEUES = 100
"""Exit priority of `close`. The queues of multiprocessing have 10, and what has more runs first: a worker whose queue
is closed already does not notice that it is told to end, and PyTorch waits 5 s for it, twice."""


class Attempt(NamedTuple):
    """A sample, or None, and the messages of images that could not be read on the way to it.

    Errors travel as values because the exceptions of a worker reach the main process rewritten, with a traceback in
    their message.
    """

    sample: Sample | None
    problems: tuple[str, ...]
    fault: str | None = None
    """What ended the attempt in a worker process, where it was no unusable image."""


class Loaded(NamedTuple):
    """A batch, or None where no image of it could be read, and the messages of all its samples."""

    batch: Batch | None
    problems: tuple[str, ...]
    fault: str | None
    """The first of the samples'."""


class TrainSamples(Dataset[Attempt]):
    """Training samples by (epoch, index); in place of a broken image stands the next that can be read.

    A sample is a function of (seed, epoch, index) and the files. With `on_error: raise` the search ends at the first
    problem.
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
            transform = partial(self.transform, generator=image_generator(seed=self.seed, epoch=epoch, index=index))
            seed = image_seed(seed=self.seed, epoch=epoch, index=index)
            try:
                sample = read_sample(self.dataset, index, transform, seed=seed)
            except DataError as error:
                problems.append(str(error))
                if self.dataset.problems.on_error == "raise":
                    break
            else:
                return Attempt(sample, tuple(problems))
        return Attempt(None, tuple(problems))


class EvalSamples(Dataset[Attempt]):
    """Evaluation samples by (0, index); a broken image gives none."""

    def __init__(self, dataset: DetectionDataset, transform: TestTransform) -> None:
        self.dataset = dataset
        self.transform = transform

    def __getitem__(self, key: Key) -> Attempt:
        try:
            return Attempt(read_sample(self.dataset, key[1], self.transform, seed=key[1]), ())
        except DataError as error:
            return Attempt(None, (str(error),))


def read_sample(dataset: DetectionDataset, index: int, transform: Callable, *, seed: int) -> Sample:
    """Read image `index` and its annotation, and apply `transform(image, boxes)`; `seed` goes into the sample."""
    record = dataset.records[index]
    try:
        image, boxes = transform(dataset.read_image(index), torch.from_numpy(record.boxes))
    except DataError:
        raise
    except Exception as error:
        if get_worker_info() is None:
            raise  # a traceback says more, and it reaches the user whole
        raise TrainingError(describe_fault(error, record.path or f"{dataset.name} {record.image_id}")) from error
    return Sample(
        image=image,
        boxes=boxes,
        labels=torch.from_numpy(record.labels),
        is_ignored=torch.from_numpy(record.is_ignored),
        original_size=torch.tensor([record.height, record.width]),
        index=index,
        seed=seed,
    )


def describe_fault(error: Exception, image: Path | str) -> str:
    """The image, the last line of the traceback and where it is from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = traceback.format_exception_only(error)[-1].strip()
    return (
        f"{image}: a process that reads images failed: {text} ({Path(last.filename).name}, line {last.lineno}, in "
        f"{last.name}); data.workers=0 shows the whole traceback"
    )


class FaultsAsValues(Dataset[Attempt]):
    """Samples whose faults in a worker process are attempts, not exceptions."""

    def __init__(self, samples: Dataset[Attempt]) -> None:
        self.samples = samples

    def __getitem__(self, key: Any) -> Attempt:
        try:
            return self.samples[key]
        except TrainingError as fault:
            return Attempt(None, (), str(fault))


def collate_attempts(attempts: list[Attempt]) -> Loaded:
    """Batch the samples that are there."""
    samples = [attempt.sample for attempt in attempts if attempt.sample is not None]
    problems = tuple(message for attempt in attempts for message in attempt.problems)
    faults = [attempt.fault for attempt in attempts if attempt.fault is not None]
    return Loaded(collate(samples) if samples else None, problems, faults[0] if faults else None)


class BatchLoader(DataLoader):
    """A DataLoader over Batch that reports unusable images to the data set's policy as their batch arrives.

    Training: iteration never ends and every batch is full. Evaluation: broken images are left out of their batch,
    and a batch of which nothing is left is None.
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
            generator=torch.Generator(),  # else every iteration would draw from, and so change, the global one
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
                raise TrainingError(fault)
            for message in problems:
                dataset.problems.report(message)
            if batch is None and isinstance(self.samples, TrainSamples):
                raise DataError(f"{dataset.name}: not one image can be read; first: {problems[0]}")
            yield batch


def received(results: Iterable[Any]) -> Generator[Any, None, None]:
    """Yield what the workers send.

    Raises:
        RuntimeError: PyTorch's report of a worker that died, also where it died while its batch was being received and
            its connection broke.
    """
    try:
        yield from results
    except (EOFError, ConnectionError) as error:
        time.sleep(5)  # PyTorch's handler of SIGCHLD interrupts it, and raises the cause
        raise RuntimeError("DataLoader worker (pid unknown) exited unexpectedly") from error


def close(iteration: ReferenceType[Generator]) -> None:
    """End an iteration that goes on as its process ends, and with it its workers.

    Else Python would send each worker a SIGTERM, the one that it ignores, and wait for it.
    """
    batches = iteration()
    if batches is not None:
        with suppress(ValueError):  # a thread waits for its next batch at this moment
            batches.close()


def start_worker(worker: int) -> None:
    """One thread a worker, and Ctrl-C is left to the main process, which ends the workers in order.

    So is a first SIGTERM, for a batch system sends it to every process at once. The second is obeyed.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
