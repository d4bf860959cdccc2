"""What a running server takes anew: contexts for TLS, files of passwords, and files of its log.

Files are read in a thread of its own, one after the other, so that a slow disk stalls no client.
What cannot be had anew leaves what was there in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from ehlo.passwords.file import PasswordFile
from ehlo.server.observing import journal
from ehlo.server.system.threads import Threads

if TYPE_CHECKING:
    from logging.handlers import WatchedFileHandler

    from ehlo.server.options.shared import Shared

__all__ = ["Reloader", "reopen_logs"]

LOOK_EVERY = 2.0  # seconds from one look at the files of certificates to the next

logger = logging.getLogger("ehlo.server")

Step = Callable[[], bool]
"""Takes something anew; whether that could be done. It does not raise for what may go wrong."""


class Reloader:
    """Takes anew what it is told to, and certificates also by itself when they have changed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, shared: Shared) -> None:
        self._loop = loop
        self._shared = shared
        self._threads = Threads(1, "ehlo-reload")
        self._timer: asyncio.TimerHandle | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def watch(self) -> None:
        """Look at files from now on, if there are any."""
        if self._timer is None and any(holder.is_watched for holder in self._shared.holders):
            self._look_later()

    def reload(self) -> Future[bool]:
        """Take everything anew. From any thread; the result is whether all could be taken."""
        steps: list[Step] = [reopen_logs]
        steps += [holder.renew for holder in self._shared.holders]
        steps += [partial(_renew_passwords, each) for each in self._shared.passwords]
        return self._run(steps)

    def stop(self) -> None:
        """Take nothing anew any more."""
        with self._lock:
            self._stopped = True
            self._threads.stop()
        if self._timer is not None:
            self._timer.cancel()

    def _look_later(self) -> None:
        if not self._stopped:
            self._timer = self._loop.call_later(LOOK_EVERY, self._look)

    def _look(self) -> None:
        def looked(_future: Future[bool]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._look_later)

        looks = [holder.look for holder in self._shared.holders]
        self._run(looks).add_done_callback(looked)

    def _run(self, steps: Sequence[Step]) -> Future[bool]:
        done: Future[bool] = Future()
        done.set_running_or_notify_cancel()  # it will be done, whoever waits for that
        with self._lock:
            if not self._stopped:
                self._threads.submit(partial(_take, steps), partial(_settle, done))
                return done
        done.set_result(False)
        return done


def _take(steps: Sequence[Step]) -> bool:
    return all([step() for step in steps])  # noqa: C419  one that fails does not end the others


def _settle(done: Future[bool], result: Any, error: BaseException | None) -> None:
    if error is not None:
        with contextlib.suppress(OSError):  # it may be the log itself that fails
            logger.error("taking files anew failed", exc_info=error)
    done.set_result(error is None and result)


def _renew_passwords(passwords: PasswordFile) -> bool:
    try:
        passwords.load()
    except ValueError as error:
        journal.reload_failed("passwords", str(error))
        return False
    journal.reloaded("passwords", file=passwords.path)
    return True


def reopen_logs() -> bool:
    """Open the log's files anew that were moved away; whether that could be done."""
    from logging.handlers import WatchedFileHandler  # what most never need

    files = [each for each in logging.getLogger().handlers if isinstance(each, WatchedFileHandler)]
    return all([_reopen(each) for each in files])  # noqa: C419  as above


def _reopen(handler: WatchedFileHandler) -> bool:
    handler.acquire()
    try:
        handler.reopenIfNeeded()
    except OSError as error:
        with contextlib.suppress(OSError):  # the line goes there, too
            journal.reload_failed("log", str(error))
        return False
    finally:
        handler.release()
    return True
