"""Work that threads do ahead of its consumer, in order and with a bounded number of results."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ahead(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int, depth: int
) -> Generator[Future[_Result], None, None]:
    """Yields futures of `work(item)`, in the items' order.

    Close the generator if it may not be exhausted: left to the garbage collector, it would wait
    for its threads in whichever thread collects it.

    Args:
        work: function that the threads call.
        items: its arguments, consumed one by one.
        threads: number of threads.
        depth: maximum number of results that are done or in progress before they are taken, so
            that memory does not grow with the number of items.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) == depth:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for future in waiting:
                future.cancel()
