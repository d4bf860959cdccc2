"""`Run`: one run of a server, from its sockets to its end.

However a run is ended, and however often, one coroutine does it, `_end`: stop accepting, drain,
wait for the grace period, cut off, call `on_shutdown`, close. This file is longer than others,
since the start and the end share all fields.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain
from typing import NamedTuple, Protocol

from ehlo import paths
from ehlo.message import check_directory
from ehlo.net import Peer
from ehlo.passwords.file import PasswordFile
from ehlo.server.answer import Routes
from ehlo.server.doors import Doors
from ehlo.server.driver import Driver
from ehlo.server.gate import Gate
from ehlo.server.hooks import Hook, Hooks, hooks_of, timed
from ehlo.server.logins import Checks, with_logins
from ehlo.server.observing.failures import log_failure
from ehlo.server.observing.journal import about
from ehlo.server.observing.stats import Snapshot, snapshot
from ehlo.server.observing.views import Views
from ehlo.server.options.config import Options, certificates_of
from ehlo.server.options.files import Files
from ehlo.server.options.rules import (
    Rules,
    check_addresses,
    machine_name,
    per_listener,
    resolve,
    resolve_all,
)
from ehlo.server.options.target import callbacks_of, with_handler
from ehlo.server.pair import Pipe, connected
from ehlo.server.runtime import Ending, Runtime
from ehlo.server.streams import serve_streams
from ehlo.server.system import listener, privileges
from ehlo.server.system.threads import Threads
from ehlo.server.tls.certificates import FileContext

_LAST_WORDS = 1.0  # seconds to send the last replies, and for a cancelled hook to end
_LEAST_FOR_SHUTDOWN = 5.0  # seconds for `on_shutdown`, when less is left of the grace period

logger: logging.Logger = logging.getLogger("ehlo.server")


class Owner(Protocol):
    """A server, as its run sees it."""

    options: Options
    running: Run | None


class _Named(NamedTuple):
    """Names a hook that belongs to no session, for `Steps`."""

    names: tuple[str, str]


class Run:
    """Runs a server once: listens, serves, and ends.

    It is made in the loop that will serve, and is the server's `running` until it has ended.
    Raises `RuntimeError` if the server is running, `TypeError` and `ValueError` for its options.

    Example::

        run = Run(server)
        await run.listen()
        await run.closed.wait()
    """

    def __init__(self, server: Owner, salt_key: bytes = b"") -> None:
        """`salt_key` is that of `Files`, which all workers share."""
        if server.running is not None:
            raise RuntimeError("the server is already running; call shutdown() or close() first")
        self.options: Options = with_handler(server.options)
        options = server.options = self.options
        self._callbacks = callbacks_of(options)
        self._server = server
        self.files: Files = Files(salt_key)
        resolved = resolve_all(options, self._callbacks, self.files)
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._process = os.getpid()
        streams = self._callbacks.streams
        self.runtime: Runtime = Runtime(options, resolved[0].exempt, self.loop, streams=streams)
        if self._callbacks.measures is not None:
            self.runtime.stats.deliveries = self._callbacks.measures.counts
        self._hooks = hooks_of(self._callbacks)
        self._checks = Checks(self.runtime)
        self._hooks_by_file: dict[PasswordFile | None, Hooks] = {}
        self.services: list[Routes] = [self._service(each) for each in resolved]
        self._own = self.services[0] if not options.listeners else None
        self._listens = False
        self._bound: list[tuple[Routes, socket.socket]] = []  # and not served yet
        self._doors = Doors(self.loop, self.runtime.connections)
        self._paths: list[str] = []
        self._guests = 0  # clients over streams, and in memory
        self._pipes: set[Pipe] = set()  # the server's ends of those in memory
        self._vacant = asyncio.Event()  # no guest is left
        self._host: asyncio.Task[None] | None = None  # waits for that
        self._starting: asyncio.Task[SystemExit | None] | None = None  # calls `on_startup`
        self._ending: asyncio.Task[None] | None = None
        self._last_hook: asyncio.Task[SystemExit | None] | None = None  # calls `on_shutdown`
        self._end_by = math.inf  # when the grace period is over, by the loop's clock
        self._grace: asyncio.Timeout | None = None  # while `_ending` waits for it
        self._closing = False
        self.views: Views = Views(
            self, metrics=options.metrics, control=options.control, user=options.user
        )
        self.addresses: list[Peer] = []
        """Where it listens, with the real ports; empty once it ends."""
        self.closed: asyncio.Event = asyncio.Event()
        """Set when the run has ended."""
        server.running = self

    def _service(self, rules: Rules) -> Routes:
        self.runtime.heed(rules.times.command, rules.times.handler, rules.times.proxy)
        hooks = self._hooks_by_file.get(rules.passwords)
        if hooks is None:
            hooks = with_logins(self._hooks, rules.passwords, self.runtime, self._checks)
            self._hooks_by_file[rules.passwords] = hooks
        return Routes(rules, hooks, streams=self._callbacks.streams)

    # -- the start -------------------------------------------------------------------------------

    async def listen(self, sock: socket.socket | None = None) -> None:
        """Bind the addresses of the options, or take `sock`; then as `start`."""
        try:
            groups, paths = open_sockets(self.options, sock, self.views.bind)
        except BaseException:
            self._stop()
            raise
        await self.start(groups, paths=paths)

    async def start(self, groups: list[list[socket.socket]], *, paths: Sequence[str] = ()) -> None:
        """Serve on the listening sockets of each listener; `paths` are removed at the end.

        If the run is ended meanwhile, `addresses` is empty. Raises what `on_startup` raises.
        """
        self._listens = True
        self._bound = [
            (routes, sock)
            for routes, group in zip(self.services, groups, strict=True)
            for sock in group
        ]
        self._paths = list(paths)
        self.addresses = [listener.bound_address(sock) for _, sock in self._bound]
        try:
            await self._begin()
            while self._bound:
                routes, sock = self._bound.pop(0)
                await self._doors.open(sock, partial(self._protocol, routes))
            if not self.draining:
                await self.views.open()
        except BaseException:
            if self._starting is not None:
                self._starting.cancel()
            self.abandon()
            raise
        if self.draining:  # since a listener was made, or the views were opened
            self._stop_accepting()
        if self.closed.is_set():
            self.views.close()

    async def _begin(self) -> None:
        """Call `on_startup`, once. Does not wait for it once the run has ended."""
        if self._starting is None:
            if any(hook.is_async for hook in self._hooks.values()):
                self.runtime.watch()
            self._starting = self.loop.create_task(self._call(self._hooks.get("on_startup")))
            self.files.watch()
        closed = self.loop.create_task(self.closed.wait())
        try:
            await asyncio.wait({self._starting, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
        if self._starting.done() and not self._starting.cancelled():
            failure = self._starting.result()
            if failure is not None:
                raise failure

    # -- clients ---------------------------------------------------------------------------------

    def _protocol(self, routes: Routes) -> Driver | Gate:
        """Return the protocol for a client of a listener."""
        driver, rules = Driver(self.runtime, routes), routes.rules
        return Gate(self.runtime, rules, driver.take_over) if rules.proxies else driver

    def protocol(self) -> Driver | Gate:
        """Return the protocol for a client that the program accepted. Raises as `resolve` does."""
        return self._protocol(self._own_service())

    def new_driver(self) -> Driver:
        """Return the protocol for a client over streams. Raises as `resolve` does."""
        return Driver(self.runtime, self._own_service())

    def _own_service(self) -> Routes:
        """Return the routes of the clients that no listener accepts."""
        if self._own is None:
            self._own = self._service(resolve(self.options, self._callbacks, self.files))
            self.files.watch()
        return self._own

    async def serve_streams(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one client over streams. The last one ends a run that does not listen."""
        self._guests += 1
        try:
            check_spool(self.options)
            await self._begin()
            await serve_streams(self.new_driver(), reader, writer)
        finally:
            if self._guest_leaves():
                await self.shutdown()

    def _guest_leaves(self) -> bool:
        """Count a guest less; return whether it was the last one of a run that does not listen."""
        self._guests -= 1
        is_last = not self._guests and not self._listens
        if is_last:
            self._vacant.set()
        return is_last

    async def _wait_for_guests(self) -> None:
        """End the run when the last guest has left, or with the event loop.

        This task is there before the loop ends, which then cancels it: one that began later would
        be destroyed.
        """
        try:
            await self._vacant.wait()
        except asyncio.CancelledError:
            for pipe in self._pipes:
                pipe.set_protocol(asyncio.Protocol())  # the loop runs no hook any more
            self.abandon()
            raise
        self.begin_shutdown()

    async def connect_memory(
        self, listener: int | None, peer: Peer, local: Peer
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect a client in memory. The last one ends a run that does not listen.

        `listener` is an index of the listeners. Raises `IndexError` if there is none.
        """

        def leave() -> None:
            self._pipes.discard(transport)
            self._guest_leaves()

        self._guests += 1
        if self._host is None and not self._listens:
            self._host = self.loop.create_task(self._wait_for_guests())
        try:
            routes = self._own_service() if listener is None else self.services[listener]
            check_spool(self.options)
            await self._begin()
            driver = Driver(self.runtime, routes)
            transport, reader, writer = connected(self.loop, driver, (peer, local), leave)
        except BaseException:
            self._guest_leaves()
            raise
        self._pipes.add(transport)
        driver.begin(transport, peer, local)
        return reader, writer

    @property
    def ends_with_guests(self) -> bool:
        """Whether it is the end of the last guest that ends this run, and it is ending."""
        return self.draining and not self._listens

    # -- while it runs ---------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether the run is ending, or has ended."""
        return self.runtime.draining

    def reload(self) -> Future[bool]:
        """See `Server.reload`. May be called in any thread."""
        return self.files.reload()

    async def snapshot(self) -> Snapshot:
        """Return what has been counted, and the sessions, as plain data."""
        runtime, measures = self.runtime, self._callbacks.measures
        queue = {} if measures is None else await measures.levels()
        return snapshot(
            runtime.stats,
            [seen for each in runtime.drivers if (seen := each.seen()) is not None],
            queue,
            memory=(runtime.memory.held + runtime.small.held, runtime.max_memory),
            disk=(runtime.disk.held, runtime.disk.limit),
            uptime=runtime.uptime,
            draining=runtime.draining,
        )

    def unready(self) -> str:
        """Return why no client should be sent here now; empty if one may be."""
        return "draining" if self.draining else ""

    # -- the end ---------------------------------------------------------------------------------

    async def shutdown(self, grace: float | None = None) -> None:
        """Let transactions end, for `grace` seconds (by default the option's), and end the run.

        Returns when it has ended; at once if `on_shutdown` asks for it. Cancelling this does not
        stop the shutdown.
        """
        if self._last_hook is not None and asyncio.current_task() is self._last_hook:
            return
        await asyncio.shield(self.begin_shutdown(grace))

    def begin_shutdown(self, grace: float | None = None) -> asyncio.Task[None]:
        """Begin a shutdown, and return the task that ends the run; the shortest `grace` counts."""
        grace = self.options.grace if grace is None else grace
        self._end_by = min(self._end_by, self.loop.time() + grace)
        if self._grace is not None and not self._grace.expired():
            self._grace.reschedule(self._end_by)
        if self._ending is None:
            self._ending = self.loop.create_task(self._end())
        return self._ending

    def close(self) -> None:
        """End all sessions now, and the run as soon as their last hooks have ended.

        May be called in any thread.
        """
        if threading.get_ident() != self._thread:
            self.runtime.to_loop(self.close)
            return
        self._closing = True
        self._stop_accepting()
        self._end_sessions(Ending.ABORT)
        self.begin_shutdown(0.0)
        if self._last_hook is not None:
            self._last_hook.cancel()
            self._stop()

    def abandon(self) -> None:
        """End without any further hook."""
        self._stop_accepting()
        self._end_sessions(Ending.ABORT)
        self._stop()

    async def _end(self) -> None:
        """End the run. Nothing else does, except when `on_shutdown` or the loop is interrupted."""
        try:
            self._stop_accepting()
            await self._doors.all_served()
            self._end_sessions(Ending.DRAIN)
            if not await self._gone_in_grace():
                if not self._closing:
                    if self.runtime.drivers:  # otherwise the last one has ended just now
                        count = len(self.runtime.drivers)
                        what = "session was" if count == 1 else "sessions were"
                        logger.warning("%d %s cut off", count, what)
                    self._end_sessions(Ending.HANG_UP)
                    await self._gone_within(_LAST_WORDS)
                if not self._closing:  # otherwise they are, and call their last hooks
                    self._end_sessions(Ending.ABORT)
                await self._gone_within(_LAST_WORDS)
            if await self._has_started():
                await self._call_on_shutdown()
        finally:
            self._stop()

    async def _gone_in_grace(self) -> bool:
        """Wait until no session is left or the grace period is over; return whether none is."""
        try:
            async with asyncio.timeout_at(self._end_by) as self._grace:
                await self.runtime.all_gone()
        except TimeoutError:
            return False
        finally:
            self._grace = None
        return True

    async def _gone_within(self, seconds: float) -> None:
        """Wait until no session is left, for at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.runtime.all_gone(), seconds)

    def _end_sessions(self, how: Ending) -> None:
        """End each; the failure of one does not keep the others."""
        for each in list(self.runtime.drivers):
            try:
                each.end(how)
            except Exception as error:  # noqa: BLE001  it keeps no other from its end
                log = about(logger, each.session_id)
                log_failure(log, error, "the session could not be ended")

    async def _has_started(self) -> bool:
        """Return whether `on_startup` has returned; while it runs, it gets a moment to end."""
        starting = self._starting
        if starting is None:
            return False
        for _ in range(2):
            await asyncio.wait({starting}, timeout=_LAST_WORDS)
            if starting.done():
                return not starting.cancelled() and _failure_of(starting) is None
            starting.cancel()
        logger.warning("on_startup did not end when it was canceled")
        return False

    async def _call_on_shutdown(self) -> None:
        """Call `on_shutdown`, for what is left of the grace period."""
        hook = self._last_hook = self.loop.create_task(self._call(self._hooks.get("on_shutdown")))
        hook.add_done_callback(_log_failure)
        seconds = max(_LEAST_FOR_SHUTDOWN, self._end_by - self.loop.time())
        await asyncio.wait({hook}, timeout=seconds)
        if not hook.done():
            logger.warning("on_shutdown exceeded its deadline: the server ends without it")
            hook.cancel()
            await asyncio.wait({hook}, timeout=_LAST_WORDS)

    def _stop_accepting(self) -> None:
        self.runtime.draining = True
        self._doors.close()
        listener.give_back([sock for _, sock in self._bound], self._paths)
        self._bound, self._paths, self.addresses = [], [], []

    def _stop(self) -> None:
        """Let go of everything, once."""
        if self.closed.is_set():
            return
        self._stop_accepting()
        self.views.close()
        self.files.stop()
        self.runtime.stop()
        self._server.running = None
        self.closed.set()

    @property
    def is_over(self) -> bool:
        """Whether the run has no event loop any more, and was not ended.

        The loop was closed, or this process is a fork of the one that serves. A run whose loop was
        closed lets go of its sockets; those of a fork are its parent's.
        """
        if self._process != os.getpid():
            return True
        if not self.loop.is_closed():
            return False
        logger.warning("the event loop was closed before the server; call shutdown() first")
        for step in (self._stop_accepting, self.views.close, self.files.stop, self.runtime.stop):
            with contextlib.suppress(RuntimeError):  # that the loop is closed
                step()
        return True

    async def _call(self, hook: Hook | None) -> SystemExit | None:
        """Call a hook that belongs to no session.

        A `SystemExit` is returned: out of a task, it would end the loop.
        """
        try:
            if hook is not None and hook.is_async:
                await timed(hook.call(self._server), _Named((hook.name, "")), self.runtime.steps)
            elif hook is not None:
                threads = Threads(1, "ehlo-run")  # of its own: others may hang in sessions' hooks
                try:
                    await self.runtime.in_thread(partial(hook.call, self._server), threads)
                finally:
                    threads.stop()
        except SystemExit as error:
            return error
        return None


def abandon(server: Owner) -> None:
    """End the run of a server whose loop a signal has interrupted; the loop runs no more."""
    if server.running is not None:
        logger.warning("interrupted what blocked the event loop: closing at once")
        server.running.abandon()


def _failure_of(hook: asyncio.Task[SystemExit | None]) -> BaseException | None:
    return hook.exception() or hook.result()


def _log_failure(hook: asyncio.Task[SystemExit | None]) -> None:
    if not hook.cancelled() and (failure := _failure_of(hook)) is not None:
        log_failure(logger, failure, "on_shutdown failed", users=True)


# -- the sockets -----------------------------------------------------------------------------------


def open_sockets(
    options: Options, sock: socket.socket | None, bind_views: Callable[[], None]
) -> tuple[list[list[socket.socket]], list[str]]:
    """Bind, then drop root privileges.

    Returns the sockets by listener, and the paths to remove at the end. With `sock`, that is the
    only one. Raises `ValueError` for addresses that would be unsafe, `OSError` for those that
    cannot be bound, and `UnusableError` for what the user could not use afterwards.
    """
    check_addresses(options, None if sock is None else [listener.bound_address(sock)])
    if not all(each.hostname for each in per_listener(options)):
        _, problem = machine_name()
        if problem:
            logger.warning("%s", problem)
    account = privileges.find(options.user) if options.user else None
    listeners = per_listener(options)
    if sock is not None:
        groups, paths = [[sock]], []
    else:
        groups = listener.bind_all(
            (each.addr, listener.parse_mode(each.unix_mode)) for each in listeners
        )
        paths = [path for each in listeners for path in listener.unix_paths(each.addr)]
    try:
        for each, group in zip(listeners, groups, strict=True):
            check_addresses(each, map(listener.bound_address, group))
        bind_views()
        if account is not None:
            privileges.drop(account)
            privileges.check_readable(account, _files(listeners))
            privileges.check_imports(account, options.handler)
        check_spool(options)
    except BaseException:
        listener.give_back(chain.from_iterable(groups), paths)
        raise
    return groups, paths


def check_spool(options: Options) -> None:
    """Check that `spool_dir` can hold a body. Raises `UnusableError`."""
    if not options.spool_dir:
        return
    try:
        if paths.IS_POSIX:
            with paths.entry_of(f"{options.spool_dir}/.", follow=False):
                check_directory(options.spool_dir)
        else:
            check_directory(options.spool_dir)
    except OSError as error:
        reason = f"spool_dir: cannot write to {options.spool_dir}: {error.strerror}"
        raise privileges.UnusableError(reason) from error


def _files(listeners: Sequence[Options]) -> Iterator[str]:
    """Yield the files that a running server reads again."""
    for each in listeners:
        if each.auth_file is not None:
            yield each.auth_file
        yield from chain.from_iterable(certificates_of(each))
        if isinstance(each.tls_config, FileContext):
            for certificate in each.tls_config.certificates:
                yield from certificate.files
