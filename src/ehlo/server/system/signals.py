"""Signals, as an event loop handles them, and as they interrupt a loop that is blocked.

A loop calls its signal handlers between two callbacks. The interpreter calls an `Alarm` in the main
thread, amid what blocks the loop: the alarm may raise out of that, and does nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from types import FrameType

ENDING = signal.SIGTERM, signal.SIGINT
RELOADING: tuple[signal.Signals, ...] = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
"""The signal that asks for a reload; Windows has none."""
# Wakes the main thread; without a handler it is ignored. Windows has none
_POKE: signal.Signals | None = getattr(signal, "SIGURG", None)
_BLOCKED = 1.0  # seconds; a loop that is not blocked handles a signal sooner


class Interrupted(KeyboardInterrupt):
    """Raised out of what blocks the event loop; `loops.run` ends the process with 0.

    No handler for a user's exceptions catches it: those take `SystemExit` for a failure.
    """


class Alarm:
    """Interrupts what blocks the loop, once more than `spared` signals have come.

    `is_blocked` returns whether a hook has kept the loop for too long. Without a hook, a signal
    that the loop has not handled for a second shows that something else blocks it.
    """

    def __init__(self, is_blocked: Callable[[], object], *, spared: int) -> None:
        self._is_blocked = is_blocked
        self._left = spared
        self._unhandled_since: float | None = None

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Called by the interpreter when a signal has come."""
        self._left -= 1
        if self._unhandled_since is None:
            self._unhandled_since = monotonic()
        self._raise_if_due()

    def heard(self) -> None:
        """Called by the loop when it handles a signal: it is not blocked."""
        self._unhandled_since = None

    def look(self, first: bool) -> None:
        """Called by a thread that sees a hook block the loop, for the `first` time or again.

        A signal that came right before the hook began to wait was handled by neither the loop nor
        the alarm, so the first look always asks for the signals that have come by then.
        """
        if _POKE is None:
            return
        if (first or self._is_due()) and signal.getsignal(_POKE) == self._poked:
            main = threading.main_thread().ident
            assert main is not None  # noqa: S101  it has been started
            signal.pthread_kill(main, _POKE)

    def _poked(self, _number: int, _frame: FrameType | None) -> None:
        """Called by the interpreter after the handlers of all signals that have come."""
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self._is_due():
            raise Interrupted

    def _is_due(self) -> bool:
        if self._left >= 0:
            return False
        since = self._unhandled_since
        return bool(self._is_blocked()) or (since is not None and monotonic() - since > _BLOCKED)

    def set_for(self, numbers: Sequence[int]) -> None:
        """Handle these signals, which the loop has handlers for and goes on handling."""
        for number in numbers:
            # Not restarted (siginterrupt): a call that the kernel restarts would never end
            signal.signal(number, self)
        # If it has a handler, the program uses it itself
        if _POKE is not None and signal.getsignal(_POKE) == signal.SIG_DFL:
            signal.signal(_POKE, self._poked)


@contextlib.contextmanager
def heard(
    reactions: Mapping[signal.Signals, Callable[[], object]],
    ending: Mapping[signal.Signals, Callable[[], object]] | None = None,
    alarm: Alarm | None = None,
) -> Iterator[None]:
    """Call reactions to signals in the running loop while the block runs.

    The `alarm` handles the `ending` signals, too. Only the main thread can handle signals; in
    another one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    handlers = {**reactions, **(ending or {})}
    touched = [*handlers, *([] if _POKE is None else [_POKE])]
    before = {number: signal.getsignal(number) for number in touched}
    try:
        for number, react in handlers.items():
            loop.add_signal_handler(number, react)
    except NotImplementedError:  # Windows
        with _heard_without_loop(loop, handlers):
            yield
        return
    if alarm is not None and ending is not None:
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


@contextlib.contextmanager
def _heard_without_loop(
    loop: asyncio.AbstractEventLoop, reactions: Mapping[signal.Signals, Callable[[], object]]
) -> Iterator[None]:
    """Call reactions to signals in a loop that handles none itself, while the block runs.

    Nothing interrupts what blocks the loop there.
    """

    def heard(number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(reactions[signal.Signals(number)])

    before = {number: signal.signal(number, heard) for number in reactions}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _both(first: Callable[[], object], second: Callable[[], object]) -> None:
    first()
    second()
