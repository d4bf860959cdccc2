"""Signals, as an event loop hears them, and as they are heard when it is blocked.

A loop calls its handlers of signals between two callbacks. An `Alarm` is called by the interpreter,
in the main thread, amid what blocks the loop: it may raise out of that, and does nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from types import FrameType

__all__ = ["Alarm", "Interrupted", "heard"]

_POKE = signal.SIGURG  # wakes the main thread; without a handler it is ignored
_BLOCKED = 1.0  # seconds in which a loop that is not blocked has heard a signal


class Interrupted(SystemExit):
    """Raised out of what blocks the event loop: the process ends, with 0."""


class Alarm:
    """Interrupts what blocks the loop, once it has been signalled more than `spared` times.

    `is_blocked` says whether a hook has kept the loop for too long; without one, a signal that the
    loop has not heard for so long shows it.
    """

    def __init__(self, is_blocked: Callable[[], object], *, spared: int) -> None:
        self._is_blocked = is_blocked
        self._left = spared
        self._unheard: float | None = None  # since when

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """A signal has come."""
        self._left -= 1
        if self._unheard is None:
            self._unheard = monotonic()
        if self._is_due():
            raise Interrupted(0)

    def heard(self) -> None:
        """The loop has heard of it: it is not blocked."""
        self._unheard = None

    def look(self, first: bool) -> None:
        """A hook blocks the loop, which was seen just now for the first time, or again.

        From another thread. A signal that came right before the hook began to wait has not been
        heard by anybody, so whatever has come by then is asked for once.
        """
        if (first or self._is_due()) and signal.getsignal(_POKE) == self._poked:
            main = threading.main_thread().ident
            assert main is not None  # noqa: S101  it has been started
            signal.pthread_kill(main, _POKE)

    def _poked(self, _number: int, _frame: FrameType | None) -> None:
        """After the handlers of all that has come."""
        if self._is_due():
            raise Interrupted(0)

    def _is_due(self) -> bool:
        if self._left >= 0:
            return False
        since = self._unheard
        return bool(self._is_blocked()) or (since is not None and monotonic() - since > _BLOCKED)

    def set_for(self, numbers: Sequence[int]) -> None:
        """Be called for these, for which the loop has handlers of its own, and goes on hearing."""
        for number in numbers:
            # Not restarted (siginterrupt): a call that the kernel begins anew would never end
            signal.signal(number, self)
        if signal.getsignal(_POKE) == signal.SIG_DFL:  # else somebody else has a use for it
            signal.signal(_POKE, self._poked)


@contextlib.contextmanager
def heard(
    reactions: Mapping[signal.Signals, Callable[[], None]],
    ending: Mapping[signal.Signals, Callable[[], None]],
    alarm: Alarm,
) -> Iterator[None]:
    """Signals call what is given for them, where this is the thread that may say so.

    Those that are `ending` are the alarm's, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (*reactions, *ending, _POKE)}
    for number, react in reactions.items():
        loop.add_signal_handler(number, react)
    for number, react in ending.items():
        loop.add_signal_handler(number, _both, alarm.heard, react)
    alarm.set_for(list(ending))
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            if handler is not None:  # one that was not set from Python cannot be set again
                signal.signal(number, handler)


def _both(first: Callable[[], None], second: Callable[[], None]) -> None:
    first()
    second()
