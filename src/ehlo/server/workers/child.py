"""A worker as its parent sees it: a process, the link to it, and what it has reported.

Counts never go backwards: the most that a worker has reported stays when it hangs or has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from time import monotonic
from typing import Final

from ehlo.server.observing.stats import most
from ehlo.server.system import listener, systemd
from ehlo.server.workers.link import Line, WorkerLink, WorkerTask

REPORT_EVERY: Final = 1.0  # seconds between two reports of the counters
_PATIENCE: Final = 2.0  # seconds for an answer
_MOST_ASKED: Final = 8  # snapshots that a worker has not answered
_LAST_LINES: Final = 1.0  # seconds to read the last lines of a process that has ended
_TIME_TO_END: Final = 5.0  # seconds for a process that has closed its link

# sys.path must be the parent's before anything of ehlo can be imported
_BOOT: Final = (
    "import sys; number = int(sys.argv[1]); sys.path[:] = sys.argv[2:]; "
    "from ehlo.server.workers.worker import main; sys.exit(main(number))"
)

logger: logging.Logger = logging.getLogger("ehlo.server")


def spawn(fds: Iterable[int]) -> Child:
    """Start a worker process that inherits these open files. Raises `OSError`.

    The process is a new interpreter. A thread will wait for it: asyncio's own subprocesses need a
    child watcher, which the event loop policy of uvloop lacks with Python 3.13 and older.
    """
    ours, theirs = socket.socketpair()
    hidden = systemd.VARIABLES
    with theirs, listener.kept(ours):
        process = subprocess.Popen(  # noqa: S603  this interpreter, on ehlo's own text
            [sys.executable, "-c", _BOOT, str(theirs.fileno()), *sys.path],
            pass_fds=[theirs.fileno(), *fds],
            stdin=subprocess.DEVNULL,
            env={name: text for name, text in os.environ.items() if name not in hidden},
            process_group=0,  # Ctrl+C is for the parent, which passes it on
        )
    return Child(ours, process)


class Child:
    """Controls one worker process: sends it orders, and keeps what it reports."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self._sock = sock
        self._process = process
        self._link: WorkerLink | None = None
        self._asked: deque[asyncio.Future[Line | None]] = deque()
        self._sessions: list[Line] = []  # of the next snapshot
        self._draining = False
        self._heard_at = monotonic()
        self.pid: int = process.pid
        self.ready_at: float | None = None
        self.reason: str = ""
        """Why it could not start."""
        self.counts: Line = {}
        """The most that it has reported of anything."""
        self.reloads: int = 0
        """How many reloads it was ordered to do, and has not done yet."""
        self.leaving = False
        """The parent has told it to end, so its end is no failure."""

    # -- its life --------------------------------------------------------------------------------

    async def run(self, task: WorkerTask, on_news: Callable[[str], None], threads: Executor) -> int:
        """Give the worker its task and listen to it until its end; return the exit code.

        `on_news` is called with "ready" or "reloaded". `threads` must have a free thread, which
        waits for the process.
        """
        ended = asyncio.get_running_loop().run_in_executor(threads, self._process.wait)
        heard: asyncio.Future[None] = asyncio.create_task(self.listen(task, on_news))
        try:
            await asyncio.wait((ended, heard), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await asyncio.wait((ended,), timeout=_TIME_TO_END)
                self.kill()
            # A process that a hook has forked may keep the link open
            await asyncio.wait((heard,), timeout=_LAST_LINES)
            return await ended
        finally:
            heard.cancel()
            ended.cancel()

    async def listen(self, task: WorkerTask, on_news: Callable[[str], None]) -> None:
        """Send the task, then read the worker's lines until it closes its end."""
        self._link = link = await WorkerLink.over(self._sock)
        try:
            link.send(task=task)
            async for line in link.lines():
                self._heard_at = monotonic()
                self._take(line, on_news)
        except Exception:  # whatever one worker writes, the others go on
            logger.exception("process %d wrote a line that is not a report; killing it", self.pid)
            self.kill()
        finally:
            link.abort()
            self._link = None
            while self._asked:
                self._answer(None)

    def _take(self, line: Line, on_news: Callable[[str], None]) -> None:
        match line:
            case {"ready": _}:
                self.ready_at = self._heard_at
                for _ in range(self.reloads):
                    self.order("reload")
                if self.leaving:
                    self.order("drain")
                on_news("ready")
            case {"reloaded": _}:
                self.reloads -= 1
                on_news("reloaded")
            case {"failed": reason}:
                self.reason = reason
            case {"counts": counts, "draining": draining}:
                self._count(counts, draining)
            case {"sessions": some}:
                self._sessions += some
            case {"snapshot": snapshot}:
                self._count(snapshot["stats"], snapshot["draining"])
                sessions, self._sessions = self._sessions, []
                self._answer({**snapshot, "sessions": sessions})
            case _:
                raise ValueError("unknown line")

    # -- orders ----------------------------------------------------------------------------------

    def order(self, order: str) -> None:
        """Send an order; a worker that is not ready yet, or is gone, gets none."""
        if self._link is not None and self.ready_at is not None:
            self._link.send(order=order)

    def reload(self) -> None:
        """Order a reload; before the worker is ready this is kept for then.

        No more than two are under way: the second begins after everything that has changed by now.
        """
        if self.reloads < 2:
            self.reloads += 1
            self.order("reload")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the process a signal; do nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    # -- what it counts --------------------------------------------------------------------------

    def _count(self, counts: Line, draining: bool) -> None:
        self.counts = most([self.counts, counts]) if self.counts else counts
        self._draining = draining

    @property
    def served(self) -> float | None:
        """The seconds that it has served until now; `None` if it has not become ready."""
        return None if self.ready_at is None else monotonic() - self.ready_at

    @property
    def serves(self) -> bool:
        """Whether it answers, and accepts new clients."""
        is_late = self.is_silent(REPORT_EVERY + _PATIENCE)
        return self.ready_at is not None and not self._draining and not is_late

    def is_silent(self, seconds: float) -> bool:
        """Return whether it is ready, and has reported nothing for so long."""
        return self.ready_at is not None and monotonic() - self._heard_at > seconds

    async def snapshot(self) -> Line | None:
        """Ask the worker for a snapshot; return `None` if there is none in time."""
        if self._link is None or self.ready_at is None or len(self._asked) >= _MOST_ASKED:
            return None
        answer: asyncio.Future[Line | None] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self.order("snapshot")
        try:
            async with asyncio.timeout(_PATIENCE):
                return await answer
        except TimeoutError:
            return None

    def _answer(self, snapshot: Line | None) -> None:
        """Answer the oldest question. Its caller may have lost patience."""
        answer = self._asked.popleft()
        if not answer.done():
            answer.set_result(snapshot)
