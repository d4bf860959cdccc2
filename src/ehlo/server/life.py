"""One run of a server: its listeners, its sessions, and the ways in which all that ends."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from ehlo.net import Peer
from ehlo.passwords.file import PasswordFile
from ehlo.protocol import reply as replies
from ehlo.server.dispatch import Dispatcher
from ehlo.server.driver import Driver
from ehlo.server.gate import Gate
from ehlo.server.hooks.hooks import Hook, Hooks
from ehlo.server.hooks.passwords import with_logins
from ehlo.server.hooks.steps import Steps, timed
from ehlo.server.observing.journal import about
from ehlo.server.observing.stats import snapshot
from ehlo.server.observing.views import Views
from ehlo.server.options import rules
from ehlo.server.options.reload import Reloader
from ehlo.server.options.shared import Shared
from ehlo.server.runtime import Runtime
from ehlo.server.system import listener
from ehlo.server.system.threads import Threads

if TYPE_CHECKING:
    from ehlo.server.server import Server

__all__ = ["Life"]

# asyncio takes its backlog for that, too. Without file descriptors each try is in vain, and logged
_ACCEPTED_AT_ONCE = 16
_LAST_WORDS = 1.0  # seconds for what was said at the end of the grace to leave
_LEAST_FOR_SHUTDOWN = 5.0  # seconds for `on_shutdown`, when less than that is left of the grace

logger = logging.getLogger("ehlo.server")


class Service(NamedTuple):
    """What the connections of one listener are served by."""

    rules: rules.Rules
    dispatcher: Dispatcher


class _Told(NamedTuple):
    """A hook that is of no session, and how `steps` knows it."""

    names: tuple[str, str]


class Life:
    """One run of a server: what exists from its start to its end, and not beyond."""

    def __init__(self, server: Server, ended: Callable[[Life], None], steps: Steps) -> None:
        self._callbacks = rules.as_callbacks(server)
        self._server = server
        self._tell_ended = ended
        self._shared = Shared()
        resolved = rules.resolve_all(server, self._callbacks, self._shared)
        self.loop = asyncio.get_running_loop()
        self.runtime = Runtime(server, resolved[0].exempt, self.loop)
        self.runtime.steps = steps
        self._reloader = Reloader(self.loop, self._shared)
        self._hooks = Hooks.of(self._callbacks)
        self._hooks_by_file: dict[PasswordFile | None, Hooks] = {}
        self._services = [self._service(each) for each in resolved]
        self._own = self._services[0] if not server.listeners else None
        self._listeners: list[asyncio.Server] = []
        self._paths: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._begun: asyncio.Task[None] | None = None
        self._shutting: asyncio.Task[None] | None = None
        self._ender: asyncio.Task[Any] | None = None  # that has the last hook called
        self._over = asyncio.Event()  # the grace is
        self._end_by = math.inf  # by the loop's clock, when the shortest grace is over
        self._graces: list[asyncio.TimerHandle] = []
        self.views = Views(self, metrics=server.metrics, control=server.control, user=server.user)
        self.addresses: list[Peer] = []
        self.closed = asyncio.Event()
        self.listens = False
        self.guests = 0  # clients over streams

    def _service(self, resolved: rules.Rules) -> Service:
        self.runtime.heed(
            resolved.command_timeout, resolved.handler_timeout, resolved.proxy_timeout
        )
        hooks = self._hooks_by_file.get(resolved.passwords)
        if hooks is None:  # one for each file: it counts the checks under way
            hooks = with_logins(self._hooks, resolved.passwords, self.runtime)
            self._hooks_by_file[resolved.passwords] = hooks
        dispatcher = Dispatcher(
            hooks,
            streams=self._callbacks.streams,
            counts_recipients=bool(self.runtime.recipient_rate),
        )
        return Service(resolved, dispatcher)

    def new_driver(self) -> Driver:
        """A protocol for one client that did not come by a listener. Raises as `resolve` does."""
        if self._own is None:
            self._own = self._service(rules.resolve(self._server, self._callbacks, self._shared))
            self._reloader.watch()
        return self._driver(self._own)

    def _driver(self, service: Service) -> Driver:
        return Driver(self.runtime, service.rules, service.dispatcher)

    def _protocol(self, service: Service) -> Driver | Gate:
        """What asyncio talks to when somebody has connected to a listener."""
        if service.rules.proxies:
            return Gate(self.runtime, service.rules, partial(self._driver, service))
        return self._driver(service)

    def reload(self) -> Future[bool]:
        """See `Server.reload`. From any thread."""
        return self._reloader.reload()

    async def snapshot(self) -> dict[str, Any]:
        """What has been counted, and what is there now: plain data."""
        runtime = self.runtime
        return snapshot(
            runtime.stats,
            [found for each in runtime.drivers if (found := each.seen()) is not None],
            memory=(runtime.memory.held, runtime.memory.limit),
            uptime=runtime.uptime,
            draining=runtime.draining,
        )

    def counts(self) -> dict[str, Any]:
        """Of a snapshot what is cheap however many sessions there are."""
        return {"draining": self.runtime.draining, "stats": self.runtime.stats.plain()}

    def unready(self) -> str:
        """Why no client should be sent here now; empty where one should."""
        return "draining" if self.runtime.draining else ""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside; its failure is logged."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("the server's end failed", exc_info=task.exception())

    async def begin(self) -> None:
        """Before the first client, once. Who ends the server meanwhile does not wait for it."""
        if self._begun is None:
            if any(hook is not None and hook.is_async for hook in self._hooks):
                self.runtime.watch()  # what has no such hook can be blocked by none
            self._begun = self.loop.create_task(self._tell(self._hooks.startup))
            self._reloader.watch()
        closed = self.loop.create_task(self.closed.wait())
        try:
            await asyncio.wait({self._begun, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
        if self._begun.done() and not self._begun.cancelled():
            self._begun.result()

    async def _has_begun(self) -> bool:
        """Whether the first hook has returned; one that is under way has a moment for that."""
        begun = self._begun
        if begun is None:
            return False
        for _ in range(2):
            await asyncio.wait({begun}, timeout=_LAST_WORDS)
            if begun.done():
                return not begun.cancelled() and begun.exception() is None
            begun.cancel()
        logger.warning("on_startup did not end when it was cancelled")
        return False

    async def start(self, groups: list[list[socket.socket]], *, paths: list[str]) -> None:
        """Serve on the listening sockets of each listener; `paths` are removed at the end.

        The views are bound already.
        """
        self.listens = True
        sockets = list(chain.from_iterable(groups))
        self.addresses = [listener.bound_address(sock) for sock in sockets]
        self._paths = paths
        try:
            await self.begin()
            if self.is_ending():  # while it was starting
                listener.give_back(sockets, [])
                return
            for service, group in zip(self._services, groups, strict=True):
                for sock in group:
                    listening = await self._listen(sock, service)
                    self._listeners.append(listening)  # `close` may have made a new list meanwhile
            await self.views.open()
            if self.is_ending():
                self._stop_accepting()
            if self.closed.is_set():
                self.views.close()
        except BaseException:
            if self._begun is not None:
                self._begun.cancel()
            for sock in sockets:
                sock.close()
            self._stop_accepting()
            self.views.close()
            self._reloader.stop()
            self.runtime.stop()
            raise

    def is_ending(self) -> bool:
        """Whether somebody has asked for the end."""
        return self.runtime.draining

    async def _listen(self, sock: socket.socket, service: Service) -> asyncio.Server:
        listening = await self._serve_on(sock, service)
        sock.listen(listener.BACKLOG)  # for the loop has listened anew, with `_ACCEPTED_AT_ONCE`
        return listening

    async def _serve_on(self, sock: socket.socket, service: Service) -> asyncio.Server:
        protocol = partial(self._protocol, service)
        given: dict[str, Any] = {"sock": sock, "backlog": _ACCEPTED_AT_ONCE}
        if sock.family != socket.AF_UNIX:
            return await self.loop.create_server(protocol, **given)
        if sys.version_info >= (3, 13):  # which would unlink the path, and it may not be ours
            given["cleanup_socket"] = False
        return await self.loop.create_unix_server(protocol, **given)

    async def shutdown(self, grace: float) -> None:
        """See `Server.shutdown`. One task does it, and goes on when who asked is cancelled."""
        if self._ender is not None and asyncio.current_task() is self._ender:
            return  # the last hook asks for what is being done
        self._end_by = min(self._end_by, self.loop.time() + grace)
        self._graces.append(self.loop.call_later(grace, self._over.set))
        if self._shutting is None:
            self._shutting = self.loop.create_task(self._shut_down())
        await asyncio.shield(self._shutting)

    async def _shut_down(self) -> None:
        self._stop_accepting()
        self.runtime.draining = True
        for driver in list(self.runtime.drivers):
            driver.drain()
        if not await self._gone_in_time():
            await self._cut_off()
        await self._end()

    async def _gone_in_time(self) -> bool:
        """Wait until all sessions have gone or the shortest grace is over; whether they have."""
        gone = self.loop.create_task(self.runtime.all_gone())
        over = self.loop.create_task(self._over.wait())
        try:
            await asyncio.wait({gone, over}, return_when=asyncio.FIRST_COMPLETED)
            return gone.done()
        finally:
            gone.cancel()
            over.cancel()

    async def _cut_off(self) -> None:
        """The grace is over: a last word, and the connections end."""
        left = list(self.runtime.drivers)
        if left:
            logger.warning("%d sessions were cut off", len(left))
        for driver in left:
            driver.hang_up(replies.DRAINING)
        await self._gone_within(_LAST_WORDS)
        self._abort_all()
        await self._gone_within(_LAST_WORDS)

    async def _gone_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self.runtime.all_gone(), seconds)
        except TimeoutError:
            return False
        return True

    def _abort_all(self) -> None:
        for driver in list(self.runtime.drivers):
            try:
                driver.cut()
            except Exception:  # one session's trouble must not keep the others, and us, up
                log = about(logger, driver.session_id)
                log.exception("could not be ended")

    def close(self) -> None:
        """See `Server.close`."""
        self._end_by = self.loop.time()
        self._stop_accepting()
        self.runtime.draining = True
        self._abort_all()
        if self._ender is not None:
            self._stopped()
        else:
            self.spawn(self._end_soon())

    def abandon(self) -> None:
        """End without any more hooks: the loop was interrupted, and runs for the clean-up alone."""
        logger.warning("signalled again: what blocked the event loop was interrupted")
        self._stop_accepting()
        self.runtime.draining = True
        self._abort_all()
        self._stopped()

    async def _end_soon(self) -> None:
        """Hooks that the end of a session calls have a moment."""
        await self._gone_within(_LAST_WORDS)
        await self._end()

    async def _end(self) -> None:
        """The last hook, once, whoever comes here first; its failure must not keep us up."""
        if self._ender is not None:
            await self.closed.wait()
            return
        self._ender = asyncio.current_task()
        try:
            if await self._has_begun():
                await self._tell_of_the_end()
        except Exception:
            logger.exception("on_shutdown failed")
        finally:
            self._stopped()

    async def _tell_of_the_end(self) -> None:
        """The last hook, for what is left of the grace. Raises what it raises."""
        telling = self._ender = self.loop.create_task(self._tell(self._hooks.shutdown))
        try:
            await asyncio.wait({telling}, timeout=self._time_for_shutdown())
            if telling.done():
                telling.result()
                return
            logger.warning("on_shutdown is over its deadline: the server ends without it")
        finally:
            telling.cancel()
        await asyncio.wait({telling}, timeout=_LAST_WORDS)
        telling.add_done_callback(_forget)

    def _time_for_shutdown(self) -> float:
        return max(_LEAST_FOR_SHUTDOWN, self._end_by - self.loop.time())

    def _stop_accepting(self) -> None:
        for server in self._listeners:
            server.close()
        self._listeners = []
        self.addresses = []
        listener.remove(self._paths)
        self._paths = []

    def _stopped(self) -> None:
        self.views.close()
        self._reloader.stop()
        self.runtime.stop()
        for grace in self._graces:
            grace.cancel()
        self._tell_ended(self)
        self.closed.set()

    async def _tell(self, hook: Hook | None) -> None:
        if hook is None:
            return
        if hook.is_async:
            named = _Told((hook.name, ""))
            await timed(hook.call(self._server), named, self.runtime.steps)
        else:
            # A thread of its own: hooks of sessions that hang may have all the others
            threads = Threads(1, "ehlo-life")
            try:
                await self.runtime.in_thread(partial(hook.call, self._server), threads)
            finally:
                threads.stop()


def _forget(task: asyncio.Task[None]) -> None:
    """Nobody waits for it any more; what it raises is told all the same."""
    if not task.cancelled() and task.exception() is not None:
        logger.error("on_shutdown failed", exc_info=task.exception())
