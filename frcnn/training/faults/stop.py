"""Ctrl-C and SIGTERM during training: every rank stops after the same step, and the state is saved."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist

from frcnn.training.distributed import World

REPEAT_SECONDS = 1.0
"""Signals within this time count as one, because torchrun forwards a signal that the process group may have received
already."""


class Stopped(Exception):
    """Training was stopped by a signal and has saved its state. `status` is the exit status, 128 + signal number."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Stop:
    """Whether a signal asks this process, or any other rank, to stop.

    The first signal is recorded, the second ends the process at once. All ranks learn of a recorded signal in the same
    call of `asked`, one call later: each call sends the rank's own signal and receives what the previous call sent, so
    that no rank waits. The exchange uses gloo between the hosts, without the GPU.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.received = 0
        self.received_at = 0.0
        self.sent: tuple[Any, torch.Tensor] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record SIGINT and SIGTERM in this context. Outside the main thread the handlers do not change."""
        before = {}
        with suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self.sent is not None:
                with suppress(RuntimeError):  # another rank has ended; that is reported elsewhere
                    self.sent[0].wait()

    def asked(self) -> int:
        """The number of the signal that asks to stop, the same on every rank; 0 if there is none.

        Every rank must call it equally often.
        """
        if self.world.size == 1:
            return self.received
        known = 0
        if self.sent is not None:
            work, flag = self.sent
            work.wait()
            known = int(flag)
        flag = torch.tensor(self.received)
        self.sent = dist.all_reduce(flag, op=dist.ReduceOp.MAX, async_op=True), flag
        return known

    def check(self, *, step: int, resume: str) -> None:
        """Obey the result of `asked`."""
        self.obey(self.asked(), step=step, resume=resume)

    def obey(self, number: int, *, step: int, resume: str) -> None:
        """Raise Stopped for the signal `number`, or SystemExit on ranks other than 0; do nothing for 0."""
        if not number:
            return
        status = 128 + number
        if not self.world.is_main:
            raise SystemExit(status)
        raise Stopped(f"stopped by {signal.Signals(number).name} at step {step}; continue with {resume}", status=status)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received and time.monotonic() - self.received_at > REPEAT_SECONDS:
            os.write(2, b"\nstopped at once; the steps after the last checkpoint are lost\n")
            os._exit(128 + number)
        if not self.received:
            self.received, self.received_at = number, time.monotonic()


class Watched:
    """An iterable that calls a function, which may raise, before each of its first items. It keeps its length."""

    def __init__(self, items: Any, before_item: Callable[[], None], *, count: int) -> None:
        self.items = items
        self.before_item = before_item
        self.count = count

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        for number, item in enumerate(self.items):
            if number < self.count:
                self.before_item()
            yield item
