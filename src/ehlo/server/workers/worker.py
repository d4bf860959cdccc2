"""A worker: one process of several, which serves on sockets that its parent has bound.

It is a new interpreter. It inherits the listening sockets and one end of a link (see `link`), and
takes its orders from there, so that a signal that a terminal or a service manager sends to all
processes at once is not a second one. When the parent is gone, it shuts down.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import pickle
import signal
import socket
import sys
import traceback
from typing import TYPE_CHECKING, Final

from ehlo.server.options import rules
from ehlo.server.options.config import Listener
from ehlo.server.options.target import NotThereError
from ehlo.server.system import loops, signals
from ehlo.server.workers.link import INTERRUPT, Link, WorkerTask, read_task
from ehlo.server.workers.recipe import StartError, divide

if TYPE_CHECKING:
    from ehlo.server.life import Life
    from ehlo.server.server import Server

__all__ = ["main"]

_MOST_IN_A_LINE: Final = 100  # sessions
_MOST_REASON: Final = 4096  # characters

logger = logging.getLogger("ehlo.server")


def main(number: int) -> int:
    """Run a worker; return the exit code. `number` is the open file of its end of the link."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is a handler for it
    sock = socket.socket(fileno=number)
    sock.set_inheritable(False)
    task = read_task(sock)
    if task is None:
        return 1
    sys.argv[:] = task["argv"]
    try:
        server = pickle.loads(base64.b64decode(task["recipe"]))()  # noqa: S301  from the parent
        divide(server, task["share"])
        server.user = server.metrics = server.control = ""  # the parent's
        rules.make_handler(server)
        worker = Worker(server, sock, task)
        loops.run(worker.run(), server.loop, server._abandon)
    except BaseException as error:  # noqa: BLE001  whatever it is, the parent is told
        _tell_failure(sock, error)
        return 1
    return 0


def _tell_failure(sock: socket.socket, error: BaseException) -> None:
    """Log why this worker cannot start, and tell the parent."""
    if isinstance(error, StartError | NotThereError):
        reason, shown = str(error), None
    else:  # a bug of the user's
        reason, shown = "".join(traceback.format_exception_only(error)).strip(), error
    logger.error("this worker cannot start: %s", reason, exc_info=shown)
    with contextlib.suppress(OSError):
        sock.setblocking(True)
        sock.sendall(json.dumps({"failed": reason[:_MOST_REASON]}).encode() + b"\n")


class Worker:
    """Runs a server until its parent tells it to end, or is gone."""

    def __init__(self, server: Server, sock: socket.socket, task: WorkerTask) -> None:
        self._server = server
        self._sock = sock
        self._task = task

    async def run(self) -> None:
        """Serve until the end."""
        server = self._server
        if server.listeners:
            server.listeners = [
                Listener([f"fd:{fd}" for fd in fds], **each.overrides)
                for each, fds in zip(server.listeners, self._task["fds"], strict=True)
            ]
        else:
            server.addr = [f"fd:{fd}" for fd in self._task["fds"][0]]
        loop = asyncio.get_running_loop()
        steps = server._steps
        alarm = signals.Alarm(steps.blocked, spared=0)
        steps.when_blocked = alarm.look
        self._draining = False

        def drain():
            if not self._draining:
                self._draining = True
                self._life = loop.create_task(server.shutdown())

        self._drain = drain
        reactions = {
            signal.SIGTERM: drain,
            signal.SIGINT: drain,
            signal.SIGHUP: server.reload,
        }
        with signals.heard(reactions, {INTERRUPT: lambda: None}, alarm):
            await self._server.start()
            run = server._life
            if run and not run.is_ending():
                await self._serve(run)
            await server.wait_closed()

    async def _serve(self, run: Life) -> None:
        """Report to the parent and obey it until the server is closed."""
        link = await Link.over(self._sock)
        link.send(ready=True)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(work) for work in (self._obey(run, link), self._report(run, link))
            ]
            await run.closed.wait()
            for task in tasks:
                task.cancel()
        _send_counts(run, link)
        await link.close()

    async def _obey(self, run: Life, link: Link) -> None:
        """Do what the parent orders, and shut down when it is gone."""
        with contextlib.suppress(OSError):
            async for line in link.lines():
                match line["order"]:
                    case "drain":
                        self._drain()
                    case "close":
                        run.close()
                    case "reload":
                        reloaded = asyncio.wrap_future(run.reload())
                        reloaded.add_done_callback(lambda _: link.send(reloaded=True))
                    case "snapshot":
                        await _send_snapshot(run, link)
        logger.warning("the parent process is gone: shutting down")
        self._drain()

    async def _report(self, run: Life, link: Link) -> None:
        """Send the counters as often as the parent wants them."""
        every = self._task["report_every"]
        with contextlib.suppress(OSError):  # `_obey` sees that the parent is gone
            while every is not None:
                _send_counts(run, link)
                await link.drain()
                await asyncio.sleep(every)


def _send_counts(run: Life, link: Link) -> None:
    counts = run.counts()
    link.send(counts=counts["stats"], draining=counts["draining"])


async def _send_snapshot(run: Life, link: Link) -> None:
    snapshot = await run.snapshot()
    sessions = snapshot.pop("sessions")
    for start in range(0, len(sessions), _MOST_IN_A_LINE):
        link.send(sessions=sessions[start : start + _MOST_IN_A_LINE])
        await link.drain()
    link.send(snapshot=snapshot)
    await link.drain()
