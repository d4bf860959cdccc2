"""What several workers have counted, and hold now, as that of one server.

Each worker answers questions over a socket pair of its own, a line of JSON each; nothing of it is
on the file system. A sum never goes backwards: what a worker has told stays in it when the worker
hangs or has died. It is asked once a second, whoever looks, so that no more than that is lost with
one that is killed; who ends in order tells all at last.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ehlo.server.observing.stats import Stats, merge, most, total
from ehlo.server.observing.views import Views
from ehlo.server.options.config import Options
from ehlo.server.system.loops import LoopThread

if TYPE_CHECKING:
    from ehlo.server.run import Run

__all__ = ["Collector", "Reporter", "Window"]

_EVERY: Final = 1.0  # seconds between two questions for the counts
_PATIENCE: Final = 2.0  # seconds for an answer
_MOST_ASKED: Final = 8  # questions that a worker has not answered
_LAST_WORDS: Final = 1.0  # seconds
_LONGEST: Final = 2**30  # octets of an answer, which is our own


class Window:
    """A worker as its counts and sessions are seen, through the socket that leads there."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._writer: asyncio.StreamWriter | None = None
        self._asked: deque[asyncio.Future[dict[str, Any] | None]] = deque()
        self.counts: dict[str, Any] = {}
        """The most that it has told of anything."""
        self.serves = True
        """It answers, and takes new clients."""

    def close(self) -> None:
        """Without having been followed."""
        self._ours.close()

    async def open(self) -> None:
        """From here on questions reach the worker."""
        self._reader, self._writer = await asyncio.open_unix_connection(
            sock=self._ours, limit=_LONGEST
        )

    async def follow(self) -> None:
        """Hear what the worker tells, until its end."""
        try:
            with contextlib.suppress(OSError):
                while (line := await self._reader.readline()).endswith(
                    b"\n"
                ):  # else its end cut it
                    self._heard(json.loads(line))
        finally:
            if self._writer is not None:
                self._writer.close()
            self._writer = None
            while self._asked:
                self._answer(None)

    def _heard(self, told: dict[str, Any]) -> None:
        self.counts = most([self.counts, told["stats"]]) if self.counts else told["stats"]
        self.serves = not told["draining"]
        if self._asked and not told.get("last"):
            self._answer(told)

    def _answer(self, told: dict[str, Any] | None) -> None:
        """The oldest question has this answer. Who has asked may have lost patience."""
        answer = self._asked.popleft()
        if not answer.done():
            answer.set_result(told)

    async def ask(self, what: str) -> dict[str, Any] | None:
        """Its answer; `None` when there is none in time."""
        if self._writer is None or len(self._asked) >= _MOST_ASKED:
            return None
        answer: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._writer.write(what.encode() + b"\n")
        try:
            async with asyncio.timeout(_PATIENCE):
                return await answer
        except TimeoutError:
            self.serves = False  # until it is heard again
            return None


class Collector:
    """All of them, and the views on them, in a thread of its own beside the parent's.

    Where no view is wanted there is no thread, and nothing is asked. The methods without `async`
    are the parent's; a worker is added when it serves, and removed when it has ended.
    """

    def __init__(self, options: Options, workers: int) -> None:
        self._wanted = workers
        self._options = options
        self._thread: LoopThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._views = Views(
            self, metrics=options.metrics, control=options.control, user=options.user
        )
        self._windows: dict[Window, asyncio.Task[None]] = {}
        self._poll: asyncio.Task[None] | None = None
        self._past = Stats().plain()  # of workers that have ended
        self._draining = False
        self._began = time.monotonic()

    def bind(self) -> None:
        """Raises `OSError` when an address of a view cannot be had."""
        self._views.bind()

    def open(self) -> None:
        """From here on who looks is answered."""
        if self._options.metrics or self._options.control:
            self._thread = LoopThread("asyncio", "ehlo-collector")
            self._thread.call(self._open())

    async def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._views.open()
        self._poll = self._loop.create_task(self._keep_up())

    def add(self, window: Window) -> None:
        """A worker serves."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin, window)

    def remove(self, window: Window) -> None:
        """It has ended; what it has told last may still be on its way."""
        if self._loop is None:
            window.close()
        else:
            self._loop.call_soon_threadsafe(self._end, window)

    def drain(self) -> None:
        """The server shuts down."""
        self._draining = True

    def close(self) -> None:
        """Nobody can look any more."""
        if self._thread is not None:
            self._thread.call(self._close())
            self._thread.stop()
        else:
            self._views.close()

    # -- in the thread ---------------------------------------------------------------------------

    def _begin(self, window: Window) -> None:
        self._windows[window] = asyncio.get_running_loop().create_task(self._follow(window))

    async def _follow(self, window: Window) -> None:
        try:
            await window.open()
            await window.follow()
        finally:
            del self._windows[window]
            self._past = total([self._past, window.counts])

    def _end(self, window: Window) -> None:
        task = self._windows.get(window)
        if task is None:
            window.close()
        else:  # a child of the worker's may keep the socket open
            asyncio.get_running_loop().call_later(_LAST_WORDS, task.cancel)

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            await self._ask("counts")

    async def _ask(self, what: str) -> list[dict[str, Any]]:
        answers = await asyncio.gather(*(window.ask(what) for window in self._windows))
        return [answer for answer in answers if answer is not None]

    async def snapshot(self) -> dict[str, Any]:
        """As `stats.snapshot` makes it; of sessions and memory, as far as workers answer."""
        told = await self._ask("snapshot")
        return {
            **merge(told),
            "uptime": time.monotonic() - self._began,
            "draining": self._draining,
            "workers": {"wanted": self._wanted, "answered": len(told)},
            "stats": total([self._past, *(window.counts for window in self._windows)]),
        }

    def unready(self) -> str:
        """Why no client should be sent here now; empty where one should."""
        if self._draining:
            return "draining"
        return "" if any(window.serves for window in self._windows) else "no worker serves"

    async def _close(self) -> None:
        self._views.close()
        for task in (*self._windows.values(), *([self._poll] if self._poll is not None else [])):
            task.cancel()


class Reporter:
    """In a worker: who answers its parent's questions."""

    def __init__(self, run: Run, number: int) -> None:
        self._run = run
        self._sock = socket.socket(fileno=number)
        self._sock.set_inheritable(False)

    async def start(self) -> None:
        """From here on there are answers."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)
        self._task = asyncio.get_running_loop().create_task(self._report(reader))

    async def _report(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):  # the parent has gone
            while question := await reader.readline():
                whole = question == b"snapshot\n"
                self._tell(await self._run.snapshot() if whole else self._run.counts())
                await self._writer.drain()

    def _tell(self, told: dict[str, Any]) -> None:
        self._writer.write(json.dumps(told).encode() + b"\n")

    async def close(self) -> None:
        """The last counts, when nothing will be counted any more."""
        self._task.cancel()
        self._tell({**self._run.counts(), "last": True})
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), _LAST_WORDS)
