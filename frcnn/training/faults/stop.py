"""Ctrl-C and SIGTERM in the middle of a training: every rank stops after the same step, and the state is kept."""

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
"""Signals this close together are one: torchrun passes on what the whole process group may have got already."""


class Stopped(Exception):
    """The training was asked to stop and did so in order; `status` is what a shell calls death by the signal."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Stop:
    """Whether a signal has asked this process, or any other of the world, to stop.

    The first signal is only noted, the second ends the process at once. What one rank has noted all know at the same
    call of `asked`, one call later: each call sends the own signal on its way and fetches what the last one sent, so
    that nobody waits. It travels by gloo between the hosts; no GPU is asked.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.received = 0
        self.received_at = 0.0
        self.sent: tuple[Any, torch.Tensor] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note SIGINT and SIGTERM inside; a thread other than the main one cannot, and leaves them as they are."""
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
                with suppress(RuntimeError):  # another rank is gone, and that is told elsewhere
                    self.sent[0].wait()

    def asked(self) -> int:
        """The number of the signal that asks to stop, on every rank alike; 0 where there is none.

        Every rank calls it equally often.
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
        """Obey what is `asked`."""
        self.obey(self.asked(), step=step, resume=resume)

    def obey(self, number: int, *, step: int, resume: str) -> None:
        """Raise Stopped by the signal `number`; on ranks other than 0, which have nothing to tell, SystemExit.

        0 is no signal.
        """
        if not number:
            return
        status = 128 + number
        if not self.world.is_main:
            raise SystemExit(status)
        raise Stopped(f"stopped by {signal.Signals(number).name} at step {step}; go on with {resume}", status=status)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received and time.monotonic() - self.received_at > REPEAT_SECONDS:
            os.write(2, b"\nstopped at once; what came after the last checkpoint is lost\n")
            os._exit(128 + number)
        if not self.received:
            self.received, self.received_at = number, time.monotonic()


class Watched:
    """An iterable with something done before each of its first items, such as leaving; it keeps its length."""

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
