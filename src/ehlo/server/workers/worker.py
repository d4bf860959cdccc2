"""A worker: one process of several, which serves on sockets that its parent has bound.

It is a new interpreter. It inherits the listening sockets and one end of a link (see `link`), and
takes its orders from there, so that a signal that a terminal or a service manager sends to all
processes at once is not a second one. When the parent is gone, the worker shuts down.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import logging
import os
import pickle
import signal
import socket
import sys
import traceback
from functools import partial
from typing import Final

from ehlo.server.observing.failures import log_failure
from ehlo.server.options.target import NotThereError, with_handler
from ehlo.server.places import Table
from ehlo.server.run import Owner, Run, abandon
from ehlo.server.system import loops, shared, signals
from ehlo.server.workers.link import INTERRUPT, WorkerLink, WorkerTask, read_task
from ehlo.server.workers.recipe import StartError, share_of

_SESSIONS_IN_A_LINE: Final = 100
_LONGEST_REASON: Final = 4096  # characters

logger: logging.Logger = logging.getLogger("ehlo.server")


def main(number: int) -> int:
    """Run a worker, whose end of the link is the open file `number`; return the exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is a handler for it
    sock = _inherited(number)
    task = read_task(sock)
    if task is None:
        return 1
    sys.argv[:] = task["argv"]
    try:
        server = pickle.loads(base64.b64decode(task["recipe"]))()  # noqa: S301  from the parent
        options = share_of(server.options, task["share"], task["number"])
        # What these three are for is the parent's
        options = dataclasses.replace(options, user="", metrics="", control="")
        server.options = with_handler(options)  # its module may run a loop when it is imported
        work = partial(_serve, server, sock, task)
        loops.run(work, options.loop, partial(abandon, server), tune_malloc=True)
    except BaseException as error:  # noqa: BLE001  whatever it is, the parent is told
        _report_failure(sock, error)
        return 1
    return 0


def _inherited(fd: int) -> socket.socket:
    """Return an open file of the parent's as a socket that no further process inherits."""
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    return sock


def _report_failure(sock: socket.socket, error: BaseException) -> None:
    """Log why this worker cannot start, and tell the parent."""
    if isinstance(error, StartError | NotThereError):
        reason = str(error)
        logger.error("this worker cannot start: %s", reason)
    else:  # a bug of the user's
        reason = "".join(traceback.format_exception_only(error)).strip()
        log_failure(logger, error, "this worker cannot start", users=True)
    with contextlib.suppress(OSError):  # the parent is gone, or the link was in use already
        sock.setblocking(True)
        sock.sendall(json.dumps({"failed": reason[:_LONGEST_REASON]}).encode() + b"\n")


async def _serve(server: Owner, sock: socket.socket, task: WorkerTask) -> None:
    """Serve until the parent orders the end, or is gone."""
    run = Run(server, bytes.fromhex(task["salt_key"]))
    alarm = signals.Alarm(run.runtime.steps.blocked, spared=0)
    run.runtime.steps.when_blocked = alarm.look
    ending = dict.fromkeys(signals.ENDING, run.begin_shutdown)
    heard = signals.heard({signal.SIGHUP: run.reload, **ending}, {INTERRUPT: lambda: None}, alarm)
    groups = [[_inherited(fd) for fd in fds] for fds in task["fds"]]
    run.runtime.connections.share(Table(shared.numbers(task["table"]), task["number"]))
    os.close(task["table"])
    with heard:
        await run.start(groups)
        if not run.draining:
            await _work(run, sock, task["report_every"])
        await run.closed.wait()


async def _work(run: Run, sock: socket.socket, report_every: float) -> None:
    """Report to the parent, and obey it, until the run has ended."""
    link = await WorkerLink.over(sock)
    link.send(ready=True)
    async with asyncio.TaskGroup() as group:
        working = (
            group.create_task(_obey(run, link)),
            group.create_task(_report(run, link, report_every)),
        )
        await run.closed.wait()
        for each in working:
            each.cancel()
    _send_counts(run, link)
    await link.close()


async def _obey(run: Run, link: WorkerLink) -> None:
    """Do what the parent orders; shut down once it is gone."""
    with contextlib.suppress(OSError):
        async for line in link.lines():
            match line["order"]:
                case "drain":
                    run.begin_shutdown()
                case "close":
                    run.close()
                case "reload":
                    reloaded = asyncio.wrap_future(run.reload())
                    reloaded.add_done_callback(lambda _: link.send(reloaded=True))
                case "snapshot":
                    await _send_snapshot(run, link)
    logger.warning("the parent process is gone: shutting down")
    run.begin_shutdown()


async def _report(run: Run, link: WorkerLink, every: float) -> None:
    """Send the counters as often as the parent wants them."""
    with contextlib.suppress(OSError):  # `_obey` sees that the parent is gone
        while True:
            _send_counts(run, link)
            await link.drain()
            await asyncio.sleep(every)


def _send_counts(run: Run, link: WorkerLink) -> None:
    link.send(counts=run.runtime.stats.plain(), draining=run.draining)


async def _send_snapshot(run: Run, link: WorkerLink) -> None:
    """Send a snapshot in lines that stay short."""
    snapshot = await run.snapshot()
    sessions = snapshot.pop("sessions")
    for start in range(0, len(sessions), _SESSIONS_IN_A_LINE):
        link.send(sessions=sessions[start : start + _SESSIONS_IN_A_LINE])
        await link.drain()
    link.send(snapshot=snapshot)
    await link.drain()
