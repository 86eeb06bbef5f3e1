"""Feed broken files to every reader: `python -m tests.fuzz.run --seconds 60 --seed 0 [--reader NAME] [--keep DIR]`.

A reader may give a result or raise a UserError. Anything else is a crash: another exception, more than ten seconds of
the processor, or, in this program, more memory than 4 GiB above what it starts with.
"""

import argparse
import faulthandler
import logging
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from frcnn.errors import UserError
from tests.fuzz.readers import Reader, build_readers

SECONDS_PER_INPUT = 10
MEMORY = 4 * 2**30


class TookTooLong(BaseException):
    """Not an Exception, so that no reader treats it as a fault of its file."""


class Crash(NamedTuple):
    reader: str
    what: str
    """The exception and the last of our own lines it came through."""
    content: bytes
    details: str


class Outcome:
    """The results of the inputs of one reader."""

    def __init__(self) -> None:
        self.read = 0
        self.seconds = 0.0
        self.slowest = 0.0
        self.errors: Counter[str] = Counter()
        self.crashes: dict[str, Crash] = {}

    @property
    def tried(self) -> int:
        return self.read + self.errors.total()


def fuzz(name: str, reader: Reader, rng: random.Random, outcome: Outcome, *, keep: Path | None = None) -> None:
    """Try one input."""
    content = rng.choice(reader.samples)
    for _ in range(rng.choice([1, 1, 1, 2])):
        content = _mutated(reader, rng, content)
    reader.path.write_bytes(content)
    if keep is not None:
        (keep / "current").write_bytes(content)  # the input that was read when the process died
    start = time.process_time()
    try:
        with _time_limit(SECONDS_PER_INPUT):
            reader.read(reader.path)
        outcome.read += 1
    except UserError as error:
        outcome.errors[type(error).__name__] += 1
    except (Exception, TookTooLong) as error:
        outcome.errors["crash"] += 1
        what = f"{type(error).__name__}: {_place(error)}"
        details = "".join(traceback.format_exception(error, limit=-12))
        outcome.crashes.setdefault(what, Crash(name, what, content, details))
    seconds = time.process_time() - start
    outcome.seconds += seconds
    outcome.slowest = max(outcome.slowest, seconds)


def _mutated(reader: Reader, rng: random.Random, content: bytes) -> bytes:
    try:
        return reader.mutate(rng, content)
    except Exception:  # input that is already broken may not allow this kind of change
        return content[: rng.randrange(len(content) + 1)]


def _place(error: BaseException) -> str:
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "/frcnn/" in each.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside of frcnn"


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # processor time, so that tests do not fail on a busy machine
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings that broken files cause."""
    logger = logging.getLogger("frcnn")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", help="only this one; may be given several times")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that crash a reader")
    options = parser.parse_args()
    faulthandler.enable()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, quiet():
        readers = {
            name: reader
            for name, reader in build_readers(Path(folder)).items()
            if not options.reader or name in options.reader
        }
        _limit_memory()
        outcomes = {name: Outcome() for name in readers}
        for name, reader in readers.items():
            rng = random.Random(f"{options.seed} {name}")
            end = time.monotonic() + options.seconds / len(readers)
            while time.monotonic() < end:
                fuzz(name, reader, rng, outcomes[name], keep=options.keep)
    return _report(outcomes, keep=options.keep)


def _report(outcomes: dict[str, Outcome], *, keep: Path | None) -> int:
    print(f"{'reader':14} {'inputs':>8} {'read':>8} {'refused':>8} {'crashes':>8} {'slowest':>8} {'seconds':>8}")
    for name, outcome in outcomes.items():
        crashes = outcome.errors["crash"]
        refused = outcome.errors.total() - crashes
        print(
            f"{name:14} {outcome.tried:8} {outcome.read:8} {refused:8} {crashes:8} {outcome.slowest:7.2f}s "
            f"{outcome.seconds:7.1f}s  {', '.join(f'{kind} {count}' for kind, count in outcome.errors.items())}"
        )
    crashes = [crash for outcome in outcomes.values() for crash in outcome.crashes.values()]
    for number, crash in enumerate(crashes):
        print(f"\n{crash.reader}: {crash.what}\n{crash.details}")
        if keep is not None:
            (keep / f"crash_{number}").write_bytes(crash.content)
    print(f"{sum(outcome.tried for outcome in outcomes.values())} inputs, {len(crashes)} different crashes")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
