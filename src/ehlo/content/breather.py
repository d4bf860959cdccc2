"""Breather: long work on a message, in a thread, leaves the other threads their turns.

Python runs one thread at a time, and one that does not wait is interrupted every 5 ms. What an
event loop and a database do for one small mail needs ten turns, so that a thread that decodes a
large message would delay it by 50 ms. A thread with a `Breather` waits a moment after each half
millisecond instead, and the others take their turns then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

Rest = Callable[[], None]
"""Called by long work at least after each few thousand steps of Python."""
_BURST: Final = 0.000_5  # seconds of work
_BREAK: Final = 0.000_05  # seconds, in which another thread that waits takes its turn


def no_rest() -> None:
    """Do nothing: for short work, and for a thread that may take all the time."""


class Breather:
    r"""Rests now and then; give its method `rest` to what takes long. Each thread has its own.

    Example:

        >>> from ehlo.content import Breather, read_content
        >>> read_content(b"Subject: Lunch\r\n\r\nAt noon?\r\n", Breather().rest).text
        'At noon?\n'
    """

    def __init__(self) -> None:
        self._until = time.monotonic() + _BURST

    def rest(self) -> None:
        """Wait a moment if the last time is long enough ago."""
        if time.monotonic() >= self._until:
            time.sleep(_BREAK)
            self._until = time.monotonic() + _BURST
