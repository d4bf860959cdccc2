"""One process of several, as it is told by its parent: sockets, a server's recipe, and its share.

A worker is a new interpreter: it inherits listening sockets and one more that leads to the parent,
and nothing that is half made. Its orders come from there, so that a signal which a terminal or a
service manager sends to all processes at once is not taken for a second one. When the parent has
gone, it shuts down.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import pickle
import signal
import socket
import ssl
import sys
import traceback
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from ehlo.server.options import rules
from ehlo.server.options.config import Listener, Options
from ehlo.server.options.target import NotThereError
from ehlo.server.processes.collector import Reporter
from ehlo.server.run import Run
from ehlo.server.system import loops, signals
from ehlo.server.tls.certificates import (
    Certificate,
    FileContext,
    file_context,
    set_like,
    settings_of,
)

if TYPE_CHECKING:
    from ehlo.server.server import Server

__all__ = [
    "ALIVE",
    "CLOSE",
    "DRAIN",
    "FAILED",
    "INTERRUPT",
    "READY",
    "RELOAD",
    "RELOADED",
    "Recipe",
    "StartError",
    "Task",
    "check",
    "main",
    "received",
    "recipe",
]

Recipe: TypeAlias = "Callable[[], Server]"
"""Makes the server in a worker; it can be pickled."""


class StartError(RuntimeError):
    """A worker cannot start, or none of them could."""


# What interrupts a worker whose loop is blocked, beside `CLOSE`, which it does not hear
INTERRUPT = signal.SIGQUIT
# Orders to a worker, an octet each
DRAIN, CLOSE, RELOAD = b"d", b"c", b"r"
# News from it: an octet, and after FAILED the reason, to the end
READY, ALIVE, RELOADED, FAILED = b"R", b"A", b"L", b"F"

logger = logging.getLogger("ehlo.server")


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is told before anything else."""

    fds: Sequence[Sequence[int]]
    """The listening sockets, by listener."""
    window: int
    """The open file by which the parent asks what has been counted."""
    share: int
    """How many workers divide the totals."""
    alive_every: float | None
    """Seconds between two signs of life."""
    argv: Sequence[str]
    recipe: bytes


# -- in either process -------------------------------------------------------------------------


def received(control: socket.socket) -> bytes | None:
    """What the other one has sent; `None` for nothing yet, and nothing at all when it has gone."""
    try:
        return control.recv(65_536)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def divide(options: Options, workers: int) -> Options:
    """Return one worker's share of the totals, rounded up."""
    return dataclasses.replace(
        options,
        max_connections=-(-options.max_connections // workers),
        max_memory=-(-rules.memory_limit(options) // workers),
        workers=1,
    )


def check(options: Options) -> None:
    """Whether a worker could serve so. Raises what it would raise."""
    if options.workers < 1:
        raise ValueError(f"workers is {options.workers}; it must be more than 0")
    rules.check_addresses(options)
    worker = rules.with_handler(divide(options, options.workers))
    rules.resolve_all(worker, rules.callbacks_of(worker))


def recipe(options: Options) -> Recipe:
    """How a worker makes the same server. Raises `ValueError` for what it cannot be told."""
    if not isinstance(options.handler, str):
        raise ValueError(
            "workers need a handler that each of them can import: name it as 'module:attr'"
        )
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    tls = values.pop("tls_config")
    if not isinstance(tls, FileContext):
        values["tls_config"], tls = tls, None
    overrides = [each.overrides.items() for each in options.listeners]
    for name, value in chain(*overrides, values.items()):
        _check_portable(name, value)
    return partial(_remade, values, None if tls is None else (tls.certificates, settings_of(tls)))


def _check_portable(name: str, value: object) -> None:
    if isinstance(value, ssl.SSLContext):
        raise ValueError(
            f"workers cannot be handed a {name}: call configure_tls, or give a function"
        )
    try:
        octets = pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"workers cannot be handed {name}: {error}") from error
    if b"__main__" in octets:  # which is another module there
        raise ValueError(f"workers cannot import {name} from the program: put it into a module")


def _remade(
    values: dict[str, Any], tls: tuple[tuple[Certificate, ...], dict[str, Any]] | None
) -> Server:
    from ehlo.server.server import Server  # which imports this module

    if tls is not None:
        certificates, settings = tls
        values = {**values, "tls_config": set_like(file_context(certificates), settings)}
    return Server(**values)


# -- in a worker -------------------------------------------------------------------------------


def main(number: int) -> int:
    """Be a worker; `number` is the open file that leads to the parent. Returns the exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nobody listens to it yet
    parent = socket.socket(fileno=number)
    parent.set_inheritable(False)
    try:
        with parent.makefile("rb") as stream:
            task: Task = pickle.load(stream)  # noqa: S301  from our parent
    except EOFError:  # it has gone already
        return 1
    sys.argv[:] = task.argv
    try:
        server = pickle.loads(task.recipe)()  # noqa: S301  from our parent
        options = _on(divide(server.options, task.share), task.fds)
        # The user has been dropped already; the views are the parent's
        options = dataclasses.replace(options, user="", metrics="", control="")
        server.options = rules.with_handler(options)
        worker = Worker(server, parent, task)
        loops.run(worker.run(), options.loop, worker.abandon, tune_malloc=True)
    except BaseException as error:  # noqa: BLE001  whatever it is, the parent is told
        _tell_failure(parent, error)
        return 1
    return 0


def _on(options: Options, fds: Sequence[Sequence[int]]) -> Options:
    """Each listener gets the sockets that its parent has bound for it."""
    groups = [[f"fd:{fd}" for fd in group] for group in fds]
    if not options.listeners:
        (addr,) = groups
        return dataclasses.replace(options, addr=addr)
    listeners = zip(options.listeners, groups, strict=True)
    return dataclasses.replace(
        options, listeners=[Listener(addrs, **each.overrides) for each, addrs in listeners]
    )


def _tell_failure(parent: socket.socket, error: BaseException) -> None:
    """To the log of this process, and the reason to the parent."""
    if isinstance(error, StartError | NotThereError):
        reason, shown = str(error), None
    else:  # a bug of the user's
        reason, shown = "".join(traceback.format_exception_only(error)).strip(), error
    logger.error("this worker cannot start: %s", reason, exc_info=shown)
    with contextlib.suppress(OSError):
        parent.setblocking(True)
        parent.sendall(FAILED + reason.encode(errors="replace")[:4096])


class Worker:
    """A server that lives as long as its parent wants it to."""

    def __init__(self, server: Server, parent: socket.socket, task: Task) -> None:
        self._server = server
        self._parent = parent
        self._window = task.window
        self._alive_every = task.alive_every
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the end."""
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._drain)
        self._loop.add_signal_handler(signal.SIGHUP, self._server.reload)
        run = Run(self._server)
        self._set_alarm(run)
        await run.listen()
        if run.draining:  # while it was starting
            await run.closed.wait()
            return
        reporter = Reporter(run, self._window)
        await reporter.start()
        self._parent.setblocking(False)
        self._loop.add_reader(self._parent, self._heard)
        self._tell(READY)
        if self._alive_every is not None:
            self._live()
        await run.closed.wait()
        self._loop.remove_reader(self._parent)
        await reporter.close()

    def abandon(self) -> None:
        if self._server.running is not None:
            self._server.running.abandon()

    def _set_alarm(self, run: Run) -> None:
        """A second signal to the parent ends what blocks the loop; one to all of us does not."""
        alarm = signals.Alarm(run.steps.blocked, spared=0)
        run.steps.when_blocked = alarm.look
        self._loop.add_signal_handler(INTERRUPT, alarm.heard)
        alarm.set_for([INTERRUPT])

    def _heard(self) -> None:
        orders = received(self._parent)
        if orders is None:
            return
        if not orders:
            self._loop.remove_reader(self._parent)
            logger.warning("the parent process has gone: shutting down")
            self._drain()
        for order in orders:
            {DRAIN: self._drain, CLOSE: self._server.close, RELOAD: self._reload}[bytes([order])]()

    def _drain(self) -> None:
        """Told twice it drains once: a signal may come from the parent and beside it."""
        if not self._draining:
            self._draining = True
            self._spawn(self._server.shutdown())

    def _reload(self) -> None:
        """By order of the parent, which is told when it is done, whatever has come of it."""
        self._server.reload().add_done_callback(lambda _: self._tell(RELOADED))

    def _live(self) -> None:
        self._tell(ALIVE)
        self._loop.call_later(self._alive_every or 1.0, self._live)

    def _tell(self, news: bytes) -> None:
        with contextlib.suppress(OSError):  # a parent that has gone is seen by `_heard`
            self._parent.send(news)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
