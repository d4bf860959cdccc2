"""The parent of several workers: it binds once, and keeps the workers alive.

It serves no client, and runs none of the user's code after the start. It is one coroutine on
asyncio: a task for each worker starts it, listens to it and starts the next one. The signals, the
metrics and the control socket are served by the same loop.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import math
import os
import pickle
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from time import monotonic
from typing import Final

from ehlo.net import Peer
from ehlo.protocol.reply import CONNECT_TROUBLE
from ehlo.server.doors import Doors
from ehlo.server.observing.stats import Snapshot, Stats, merge, total
from ehlo.server.observing.views import Views
from ehlo.server.options.config import Options
from ehlo.server.options.files import reopen_logs
from ehlo.server.options.rules import per_listener
from ehlo.server.places import Connections, Table
from ehlo.server.run import open_sockets
from ehlo.server.streams import rejecting
from ehlo.server.system import listener, machine, shared, signals, systemd
from ehlo.server.workers.child import REPORT_EVERY, Child, spawn
from ehlo.server.workers.link import INTERRUPT, WorkerTask
from ehlo.server.workers.recipe import Recipe, StartError, check, share_of

MOST_DELAY: Final = 30.0  # seconds
_PROVEN: Final = 10.0  # seconds that a worker has served, so that its end is no failure to start
_OVERTIME: Final = 30.0  # seconds beyond the grace, for the last hooks
_TIME_TO_CLOSE: Final = 5.0  # seconds for workers that close at once
_NO_NUMBERS: Final = memoryview(b"").cast("I")

logger: logging.Logger = logging.getLogger("ehlo.server")


def backoff(failures: int) -> float:
    """Return the seconds until a worker is started again after so many failures in a row."""
    return min(2.0 ** min(failures - 1, 10), MOST_DELAY) if failures else 0.0


@dataclass(eq=False, slots=True)
class Place:
    """Is the place of one worker, and of the one that replaces it."""

    number: int
    child: Child | None = None
    reason: str | None = None
    """Why the first worker that could not start could not."""
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to end the wait for the next start."""

    def __str__(self) -> str:
        process = "" if self.child is None else f" (process {self.child.pid})"
        return f"worker {self.number}{process}"


class Parent:
    """Runs a server as several processes: `run` blocks until all of them have ended."""

    def __init__(self, options: Options, recipe: Recipe, *, reload: bool = False) -> None:
        self._options = options
        self._recipe = base64.b64encode(pickle.dumps(recipe)).decode()
        self._salt_key = secrets.token_hex(32)
        self._code_changes = reload
        self._places = [Place(number) for number in range(1, max(options.workers, 1) + 1)]
        self._views = Views(
            self, metrics=options.metrics, control=options.control, user=options.user
        )
        self._threads = ThreadPoolExecutor(len(self._places), "ehlo-wait")
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._groups: list[list[socket.socket]] = []  # by listener
        self._paths: list[str] = []
        self._table = -1  # an open file with the places for connections in all workers
        self._numbers = _NO_NUMBERS  # in the file
        self._past = Stats().plain()  # of workers that have ended
        self._began = monotonic()
        self._ever_ready = False
        self._announced = False
        self._reloading = False
        self._overtime: asyncio.TimerHandle | None = None  # set once the server shuts down
        self._closing = False
        self.addresses: list[Peer] = []

    def run(self, sock: socket.socket | None = None) -> None:
        """Bind, start the workers, and keep them alive until a shutdown has ended them.

        Raises `ValueError` and `OSError` as `Server.start` does, and `StartError` if no worker
        could start.
        """
        check(self._options)
        with self._threads:
            asyncio.run(self._serve(sock))

    def close(self) -> None:
        """Close all workers at once. May be called from any thread."""
        self._call(self._close)

    def reload(self) -> None:
        """Order all workers to reload. May be called from any thread."""
        self._call(self._reload)

    def replace_all(self) -> None:
        """Replace all workers, since the program has changed. May be called from any thread."""
        self._call(partial(self._dismiss, "drain"))

    def _call(self, function: Callable[[], None]) -> None:
        """Call a function in the loop, as soon as there is one; a parent has no `Runtime`."""

        def call(loop: Future[asyncio.AbstractEventLoop]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.result().call_soon_threadsafe(function)

        self._loop.add_done_callback(call)

    async def _serve(self, sock: socket.socket | None) -> None:
        loop = asyncio.get_running_loop()
        self._loop.set_result(loop)
        ending = {each: partial(self._signaled, each.name) for each in signals.ENDING}
        heard = signals.heard({signal.SIGHUP: self._hung_up, **ending})
        try:
            self._make_table()
            self._groups, self._paths = open_sockets(self._options, sock, self._views.bind)
            self.addresses = [listener.bound_address(each) for each in chain(*self._groups)]
            with heard, systemd.watchdog(loop):
                await self._views.open()
                await self._keep_all()
        finally:
            self._stop_listening()
            self._views.close()
            self._drop_table()

    def _stop_listening(self) -> None:
        """Close the sockets here, or clients would connect until the last worker has ended."""
        listener.give_back(chain(*self._groups), self._paths)
        self._groups, self._paths, self.addresses = [], [], []

    # -- workers ---------------------------------------------------------------------------------

    async def _keep_all(self) -> None:
        """Keep all workers alive until a shutdown. Leaves no process behind, whatever happens."""
        watching = asyncio.create_task(self._kill_the_silent())
        keeping = [asyncio.create_task(self._keep(place)) for place in self._places]
        try:
            await asyncio.gather(*keeping)
        finally:
            if self._overtime is not None:
                self._overtime.cancel()
            for task in (watching, *keeping):
                task.cancel()
            for child in self._children():
                child.kill()

    async def _keep(self, place: Place) -> None:
        """Keep one worker alive until a shutdown. Raises `StartError` if none could ever start."""
        failures = 0  # in a row
        while self._overtime is None:
            place.stirred.clear()
            served: float | None = 0.0
            try:
                inherited = [sock.fileno() for sock in chain(*self._groups)]
                child = place.child = spawn([*inherited, self._table])
            except OSError as error:  # no memory, no process left: the other workers go on
                name, how, reason = str(place), f"cannot be started: {error}", str(error)
            else:
                table = self._table_of(place)
                task = self._task(place)
                code = await child.run(task, partial(self._heard, place), self._threads)
                table.take(0)  # or its connections would be counted for ever
                name, how, reason = str(place), _how(code), child.reason
                served, place.child = child.served, None
                self._past = total([self._past, child.counts])
                self._see_reloaded()
                if child.leaving:
                    logger.info("%s has ended", name)
                    continue
            failures = 0 if served is not None and served >= _PROVEN else failures + 1
            delay = None if served is None and self._code_changes else backoff(failures)
            again = "clients get 421 until a file changes"
            if delay is not None:
                again = f"restarting in {delay:.0f} s"
            logger.error("%s %s; %s", name, how, again)
            if not served and place.reason is None:
                place.reason = reason
            self._give_up()
            async with self._rejecting() if delay is None else contextlib.nullcontext():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await place.stirred.wait()
                        failures = 0

    @contextlib.asynccontextmanager
    async def _rejecting(self) -> AsyncIterator[None]:
        """Reject the clients here, since no worker can serve them, while the block runs."""
        most = self._options.max_connections
        doors = Doors(asyncio.get_running_loop(), Connections(most, most))
        try:
            for options, group in zip(per_listener(self._options), self._groups, strict=True):
                for sock in group:
                    await doors.open(sock.dup(), partial(rejecting, options, CONNECT_TROUBLE))
            yield
        finally:
            doors.close()

    def _make_table(self) -> None:
        """Make the table of all workers, before any of them can be full."""
        self._table = shared.create(2 * len(self._places))
        self._numbers = shared.numbers(self._table)
        for place in self._places:
            self._table_of(place)

    def _drop_table(self) -> None:
        if self._table >= 0:
            os.close(self._table)
        self._table, self._numbers = -1, _NO_NUMBERS

    def _table_of(self, place: Place) -> Table:
        """Return the table in which a worker counts its connections; none is counted yet."""
        number = place.number - 1
        table = Table(self._numbers, number)
        table.open(share_of(self._options, len(self._places), number).max_connections)
        return table

    def _task(self, place: Place) -> WorkerTask:
        interval = systemd.watchdog_interval() or math.inf
        return {
            "fds": [[sock.fileno() for sock in group] for group in self._groups],
            "table": self._table,
            "number": place.number - 1,
            "share": len(self._places),
            "report_every": min(REPORT_EVERY, interval / 4),
            "argv": sys.argv,
            "salt_key": self._salt_key,
            "recipe": self._recipe,
        }

    def _children(self) -> list[Child]:
        return [place.child for place in self._places if place.child is not None]

    def _heard(self, place: Place, news: str) -> None:
        """Called when a worker is ready or has reloaded."""
        if news == "ready":
            logger.info("%s is ready", place)
            self._ever_ready = True
        children = self._children()
        all_ready = all(child.ready_at is not None for child in children)
        if not self._announced and all_ready and len(children) == len(self._places):
            self._announced = True
            logger.info("listening on %s", self._where())
            machine.say_where(self._where())
            systemd.ready(f"Listening on {self._where()}")
        self._see_reloaded()

    def _where(self) -> str:
        where = ", ".join(map(str, self.addresses))
        return where if self._code_changes else f"{where} with {len(self._places)} workers"

    def _give_up(self) -> None:
        """Raise `StartError` if each of the first workers has failed to start."""
        if self._ever_ready or self._code_changes or self._overtime is not None:
            return
        if all(place.reason is not None for place in self._places):
            raise StartError(f"no worker could start: {self._places[0].reason or 'see the log'}")

    async def _kill_the_silent(self) -> None:
        """Kill workers that have reported nothing for an interval of the watchdog."""
        interval = systemd.watchdog_interval()
        while interval is not None:
            await asyncio.sleep(interval / 2)
            for place in self._places:
                if place.child is not None and place.child.is_silent(interval):
                    logger.error("%s did not report in time and was killed", place)
                    place.child.kill()

    # -- signals ---------------------------------------------------------------------------------

    def _signaled(self, name: str) -> None:
        if self._overtime is None:
            logger.info("received %s: shutting down", name)
            self._end("drain", within=self._options.grace + _OVERTIME)
        elif not self._closing:
            logger.warning("received %s again: closing at once", name)
            self._close()

    def _close(self) -> None:
        self._closing = True
        self._end("close", within=_TIME_TO_CLOSE)

    def _end(self, order: str, within: float) -> None:
        """Order all workers to end, and kill those that have not within so many seconds."""
        if self._overtime is None:
            systemd.stopping()
            self._stop_listening()
        else:
            self._overtime.cancel()
        self._overtime = asyncio.get_running_loop().call_later(within, self._kill_all)
        self._dismiss(order)

    def _kill_all(self) -> None:
        for place in self._places:
            if place.child is not None:
                logger.warning("%s did not end in time and was killed", place)
                place.child.kill()

    def _dismiss(self, order: str) -> None:
        """Order the workers to end; one that is not ready has no mail, so a signal may end it."""
        for place in self._places:
            place.stirred.set()
            child = place.child
            if child is None:
                continue
            child.leaving = True
            if child.ready_at is None:
                child.kill(signal.SIGTERM)
            else:
                child.order(order)
                if order == "close":
                    child.kill(INTERRUPT)

    def _hung_up(self) -> None:
        logger.info("received SIGHUP: reloading")
        self._reload()

    def _reload(self) -> None:
        reopen_logs()
        if self._announced and self._overtime is None:
            systemd.reloading()
            self._reloading = True
        for child in self._children():
            child.reload()

    def _see_reloaded(self) -> None:
        """Tell the service manager when all workers that serve have reloaded, or have ended.

        A worker that does not serve yet is not waited for: it reloads before it serves, or then.
        """
        serving = [child for child in self._children() if child.ready_at is not None]
        if self._reloading and not any(child.reloads for child in serving):
            self._reloading = False
            if self._overtime is None:
                systemd.ready(f"Listening on {self._where()}")

    # -- what the metrics and the control socket show ------------------------------------------

    async def snapshot(self) -> Snapshot:
        """Return a snapshot as of one server; workers that do not answer are left out."""
        asked = await asyncio.gather(*(child.snapshot() for child in self._children()))
        answers = [answer for answer in asked if answer is not None]
        return {
            **merge(answers),
            "uptime": monotonic() - self._began,
            "draining": self._overtime is not None,
            "workers": {"wanted": len(self._places), "answered": len(answers)},
            "stats": total([self._past, *(child.counts for child in self._children())]),
        }

    def unready(self) -> str:
        """Return why no client should be sent here now; empty if one should."""
        if self._overtime is not None:
            return "draining"
        return "" if any(child.serves for child in self._children()) else "no worker serves"


def _how(code: int) -> str:
    """Return how a process has ended, by its exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # most real-time signals have no name
        return f"was killed by signal {-code}"
