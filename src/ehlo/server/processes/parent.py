"""The parent of several workers: it binds once, and keeps as many of them alive as it was told.

It serves nobody itself, and runs nothing of the user's after the start. It has no event loop but in
the thread of its views (see `collector`). One thing happens at a time: whatever comes (a signal,
news of a worker, the end of one, a moment that was waited for) wakes the one selector, and nothing
is done in a signal handler.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain
from types import FrameType
from typing import Final

from ehlo.net import Peer
from ehlo.server.opening import open_sockets
from ehlo.server.options.config import Options
from ehlo.server.options.files import reopen_logs
from ehlo.server.processes import workers
from ehlo.server.processes.collector import Collector, Window
from ehlo.server.processes.spawning import Place, Process, backoff, how, spawn
from ehlo.server.processes.workers import (
    CLOSE,
    DRAIN,
    FAILED,
    INTERRUPT,
    READY,
    RELOAD,
    RELOADED,
    Recipe,
    StartError,
    Task,
)
from ehlo.server.system import listener, systemd

__all__ = ["Parent"]

_PROVEN: Final = 10.0  # seconds that a worker has served, so that its end is no failure to start
_OVERTIME: Final = 30.0  # seconds beyond the grace, for the last hooks
_LAST_WORDS: Final = 5.0  # seconds to end at once
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

logger = logging.getLogger("ehlo.server")


class Parent:
    """`run` blocks until all workers have ended."""

    def __init__(self, server: Options, recipe: Recipe, *, reload: bool = False) -> None:
        self._server = server
        self._recipe = pickle.dumps(recipe)
        self._reload = reload
        self._places = [Place(number) for number in range(1, max(server.workers, 1) + 1)]
        self._groups: list[list[socket.socket]] = []  # by listener
        self._paths: list[str] = []
        self._collector = Collector(server, len(self._places))
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._ever_ready = False
        self._announced = False
        self._reloading = False
        self._end_by: float | None = None  # shutting down, since it is set
        self._closing = False
        self._ping_every: float | None = None
        self._ping_at = 0.0
        self.addresses: list[Peer] = []

    def run(self, sock: socket.socket | None = None) -> None:
        """Bind, start the workers, and see to them until the last has ended.

        Raises `ValueError` and `OSError` as `Server.start` does, and `RuntimeError` when no worker
        could start.
        """
        try:
            workers.check(self._server)
            interval = systemd.watchdog_interval()
            self._ping_every = interval / 2 if interval is not None else None
            bind_views = self._collector.bind
            self._groups, self._paths = open_sockets(self._server, sock, bind_views)
            self.addresses = [listener.bound_address(each) for each in chain(*self._groups)]
            with self._signals():
                self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
                self._collector.open()
                while self._turn():
                    pass
        finally:
            self._clean_up()

    def close(self) -> None:
        """End at once. May be called from any thread."""
        self._poke(bytes([signal.SIGTERM, signal.SIGTERM]))

    def reload(self) -> None:
        """Have the workers take anew what SIGHUP is for. May be called from any thread."""
        self._poke(bytes([signal.SIGHUP]))

    def changed(self) -> None:
        """The program has changed: new workers take the place of those that run. Any thread."""
        self._poke(b"\0")

    def _poke(self, octets: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self._waker.send(octets)

    def _clean_up(self) -> None:
        for place in self._places:
            if place.process is not None:
                place.process.popen.kill()
                self._forget(place.process)
        self._stop_listening()
        self._collector.close()
        self._wake.close()
        self._waker.close()
        self._selector.close()

    def _stop_listening(self) -> None:
        """Else clients would be connected to nobody until the last worker has ended."""
        listener.give_back(chain(*self._groups), self._paths)
        self._groups, self._paths, self.addresses = [], [], []

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals wake the selector, by their number, where this is the thread that may say so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        before = {number: signal.signal(number, _nothing) for number in _SIGNALS}
        fd = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(fd)
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    # -- one turn --------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Whether there will be another."""
        now = time.monotonic()
        self._start_due(now)
        self._ping(now)
        for key, _ in self._selector.select(self._until_next(now)):
            react: Callable[[], None] = key.data
            react()
        self._bury()
        self._see_reloaded()
        self._overtime(time.monotonic())
        self._give_up_hope()
        return self._end_by is None or any(place.process for place in self._places)

    def _until_next(self, now: float) -> float | None:
        moments = [
            place.start_at
            for place in self._places
            if place.process is None and place.start_at is not None and self._end_by is None
        ]
        if self._ping_every is not None:
            moments.append(self._ping_at)
        if self._end_by is not None:
            moments.append(self._end_by)
        return max(0.0, min(moments) - now) if moments else None

    def _woken(self) -> None:
        for number in self._wake.recv(64):
            match number:
                case 0:
                    self._replace_all()
                case signal.SIGTERM | signal.SIGINT:
                    self._asked_to_end(now=time.monotonic())
                case signal.SIGHUP:
                    self._tell_to_reload()

    def _asked_to_end(self, now: float) -> None:
        if self._end_by is None:
            self._collector.drain()  # before anybody can read that
            logger.info("received a signal: shutting down")
            systemd.stopping()
            self._end_by = now + self._server.grace + _OVERTIME
            self._stop_listening()
            self._tell(DRAIN)
        elif not self._closing:
            logger.warning("received a signal again: closing at once")
            self._closing = True
            self._end_by = now + _LAST_WORDS
            self._tell(CLOSE)

    def _tell_to_reload(self) -> None:
        """One that does not listen yet is told when it does.

        Not more than two are ever under way: the second begins after whatever has changed by now.
        """
        logger.info("received SIGHUP: reloading")
        reopen_logs()
        if self._announced and self._end_by is None:
            systemd.reloading()
            self._reloading = True
        for place in self._places:
            if place.process is not None and place.process.reloads < 2:
                place.process.reloads += 1
                if place.process.ready_at is not None:
                    place.process.order(RELOAD)

    def _see_reloaded(self) -> None:
        """The service manager is told when all workers have done it, or have ended.

        One that does not serve yet is not waited for: it does it before it serves anybody, or then.
        """
        serving = [p.process for p in self._places if p.process and p.process.ready_at is not None]
        if self._reloading and not any(process.reloads for process in serving):
            self._reloading = False
            if self._end_by is None:
                systemd.ready(f"Listening on {self._where()}")

    def _replace_all(self) -> None:
        if self._end_by is not None:
            return
        for place in self._places:
            place.failures = 0
            if place.process is None:
                place.start_at = 0.0
        self._tell(DRAIN)

    def _tell(self, order: bytes) -> None:
        """One that does not listen yet has no mail either, so that it may be ended by a signal."""
        for place in self._places:
            process = place.process
            if process is None:
                continue
            process.leaving = True
            if process.ready_at is None:
                process.popen.terminate()
            else:
                process.order(order)
                if order == CLOSE:
                    process.popen.send_signal(INTERRUPT)

    def _overtime(self, now: float) -> None:
        if self._end_by is None or now < self._end_by:
            return
        for place in self._places:
            if place.process is not None:
                logger.warning("%s did not end in time: killed", place)
                place.process.popen.kill()
        self._end_by = now + _LAST_WORDS

    # -- workers ---------------------------------------------------------------------------------

    def _start_due(self, now: float) -> None:
        for place in self._places:
            due = place.start_at is not None and place.start_at <= now
            if place.process is None and due and self._end_by is None:
                self._start(place)

    def _start(self, place: Place) -> None:
        ours, theirs = socket.socketpair()
        fds = [[sock.fileno() for sock in group] for group in self._groups]
        window = Window()
        number = window.theirs.fileno()
        with theirs, window.theirs:
            try:
                popen = spawn(theirs, [*chain(*fds), number])
            except OSError as error:  # no memory, no process left: those that run go on
                ours.close()
                window.close()
                place.failures += 1
                place.start_at = time.monotonic() + backoff(place.failures)
                place.reason = place.reason or str(error)
                logger.error("worker %d cannot be started: %s", place.number, error)
                return
        process = place.process = Process(popen, ours, window)
        place.start_at = None
        alive_every = self._ping_every / 2 if self._ping_every is not None else None
        task = Task(fds, number, len(self._places), alive_every, sys.argv, self._recipe)
        with contextlib.suppress(OSError):  # that it has died is seen as with any other
            ours.sendall(pickle.dumps(task))
        ours.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._news(place, process))

    def _news(self, place: Place, process: Process) -> None:
        news = workers.received(process.control)
        if news is None:
            return
        if not news:
            self._ended(place, process)
            return
        process.heard_at = time.monotonic()
        if process.reason or news.startswith(FAILED):
            process.reason += news
            return
        if READY in news:
            process.ready_at = process.heard_at
            self._became_ready(place, process)
        process.reloads -= news.count(RELOADED)

    def _became_ready(self, place: Place, process: Process) -> None:
        self._ever_ready = True
        logger.info("%s is ready", place)
        self._collector.add(process.window)
        if process.leaving:  # told to end before it could hear that
            process.order(DRAIN)
        process.order(RELOAD * process.reloads)
        processes = [each.process for each in self._places]
        if not self._announced and all(p is not None and p.ready_at is not None for p in processes):
            self._announced = True
            logger.info("listening on %s", self._where())
            systemd.ready(f"Listening on {self._where()}")

    def _where(self) -> str:
        where = ", ".join(map(str, self.addresses))
        return where if self._reload else f"{where} with {len(self._places)} workers"

    def _bury(self) -> None:
        """Those who have ended, although a child of theirs may hold the socket that leads here."""
        for place in self._places:
            if place.process is not None and place.process.popen.poll() is not None:
                self._ended(place, place.process)

    def _ended(self, place: Place, process: Process) -> None:
        if place.process is not process:
            return
        with contextlib.suppress(OSError):  # its last words
            left = process.control.recv(65_536)
            process.reason += left if process.reason or left.startswith(FAILED) else b""
        name = str(place)
        code = self._forget(process)
        place.process = None
        if process.leaving:
            place.start_at = 0.0
            logger.info("%s has ended", name)
            return
        self._failed(place, process)
        delay = None if place.start_at is None else place.start_at - time.monotonic()
        again = "" if delay is None else f"; another in {max(delay, 0):.0f} s"
        logger.error("%s %s%s", name, how(code), again)

    def _failed(self, place: Place, process: Process) -> None:
        now = time.monotonic()
        served = now - process.ready_at if process.ready_at is not None else 0.0
        place.failures = 0 if served >= _PROVEN else place.failures + 1
        place.start_at = now + backoff(place.failures)
        if process.ready_at is None:
            if place.reason is None:
                place.reason = process.reason.removeprefix(FAILED).decode(errors="replace")
            if self._reload:  # it will not start before somebody has changed something
                place.start_at = None

    def _forget(self, process: Process) -> int:
        """Reap it; its exit code. Who has closed the socket but does not end is ended."""
        self._selector.unregister(process.control)
        process.control.close()
        self._collector.remove(process.window)
        try:
            return process.popen.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            return process.popen.wait()

    def _give_up_hope(self) -> None:
        """When each of the first workers has failed to start, others would, too."""
        if self._ever_ready or self._reload or self._end_by is not None:
            return
        if all(place.reason is not None for place in self._places):
            reason = self._places[0].reason or "see the log"
            raise StartError(f"no worker could start: {reason}")

    # -- watchdog --------------------------------------------------------------------------------

    def _ping(self, now: float) -> None:
        """Tell the service manager that we live; who of the workers does not is ended."""
        if self._ping_every is None or now < self._ping_at:
            return
        self._ping_at = now + self._ping_every
        systemd.alive()
        for place in self._places:
            process = place.process
            if process is None or process.ready_at is None:
                continue
            if now - process.heard_at > 2 * self._ping_every:
                logger.error("%s gives no sign of life: killed", place)
                process.popen.kill()


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """The wake-up is enough."""
