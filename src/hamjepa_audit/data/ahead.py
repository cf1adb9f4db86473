"""Work that threads do ahead of the one who takes it, in order and a bounded number of items."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ahead(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int, depth: int
) -> Generator[Future[_Result], None, None]:
    """Futures of `work(item)`, in the items' order.

    Close it where it may not be taken to its end: left to the garbage collector, it would wait for
    its threads in whichever thread collects it.

    Args:
        work: what the threads do.
        items: what they do it to; taken one by one.
        threads: how many of them.
        depth: at most this many results are done or being done before they are taken, so that
            memory does not grow with the number of items.
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
