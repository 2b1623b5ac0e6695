"""Map a function over items on threads that do not delay Ctrl-C; limit how long OpenMP's threads spin.

Python handles signals only in its main thread and between two bytecodes, so a long call of a library there delays them.
The threads of `concurrent.futures` do too, because they are joined at exit.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable
from threading import Thread
from typing import TypeVar

# Iterations before a waiting thread of OpenMP sleeps. Measured by bench/neighbours.py; the default is about 300,000.
# Beside another busy process the thread that the others wait for gets no core while they spin.
SPIN = {"GOMP_SPINCOUNT": "5000"}
Item = TypeVar("Item")
Result = TypeVar("Result")


def limit_spinning() -> None:
    """Set the spin count unless the user has set it; before torch is imported, which loads OpenMP."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ.update(SPIN)


def set_torch_defaults() -> None:
    """Set what torch reads when it is imported: the spin count, and that the CPU does what a GPU of Apple lacks."""
    limit_spinning()
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item], n_threads: int) -> list[Result]:
    """Return the results in the order of the items; the first error that an item raises ends the work.

    On KeyboardInterrupt no further item is begun, and no running call is waited for: its thread is a daemon.

    >>> map_in_threads(len, ["a", "bb", ""], n_threads=2)
    [1, 2, 0]
    """
    waiting = deque(enumerate(items))
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def work() -> None:
        while True:
            try:
                number, item = waiting.popleft()
            except IndexError:
                return
            try:
                results[number] = function(item)
            except BaseException as error:  # raised in the main thread
                waiting.clear()
                errors.append(error)

    threads = [Thread(target=work, daemon=True) for _ in range(min(n_threads, len(waiting)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        waiting.clear()
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(results))]
