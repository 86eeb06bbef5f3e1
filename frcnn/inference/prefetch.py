"""Run a function ahead of its use, in threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Result, None, None]:
    """Like `map(function, items)`, with threads that compute results ahead.

    Threads are enough if `function` spends its time in libraries that release the GIL, as decoders do.
    Closing the generator cancels calls that have not started.

    Args:
        workers: number of threads; 0 calls `function` when its result is requested.
        ahead: largest number of results, finished or not, that wait for their use.

    Yields:
        the results in the order of `items`. An exception of `function` is raised in place of its result.
    """
    if workers == 0:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="prefetch") as threads:
        try:
            for item in items:
                waiting.append(threads.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
