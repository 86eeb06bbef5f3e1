"""Work that threads do ahead of the program."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Result, None, None]:
    """`map(function, items)` with threads that work ahead.

    Threads suffice where `function` spends its time in libraries that release Python's global lock, as decoders do.
    Close the generator to drop what has not begun.

    Args:
        workers: number of threads; 0 calls `function` when its result is asked for.
        ahead: the most results, finished or not, that are held besides the one that is taken.

    Yields:
        the results in the order of `items`. An exception of `function` is raised in the place of its result.
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
