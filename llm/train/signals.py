"""A request to stop, held back until the training loop has kept its state."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def defer_signals() -> Iterator[list[int]]:
    """Gives a list into which a SIGTERM or Ctrl-C is noted; leaving the block in order does what it asked for.

    That is to exit with 143 after SIGTERM and a KeyboardInterrupt after Ctrl-C. A second Ctrl-C does not wait.
    """
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and number in came:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGTERM in came:
        sys.exit(128 + signal.SIGTERM)
    if came:
        raise KeyboardInterrupt
