"""`Server`: its life, from the options to the end of the last session."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ehlo.handlers.base import Handler
from ehlo.handlers.functions import MessageFunction
from ehlo.protocol import reply as replies
from ehlo.server import config, listener, loops, tls
from ehlo.server.config import Options
from ehlo.server.dispatch import Dispatcher
from ehlo.server.driver import Driver
from ehlo.server.hooks import Hook, Hooks
from ehlo.server.runtime import Runtime
from ehlo.server.streams import serve_streams
from ehlo.session import Peer

__all__ = ["Server", "listen_and_serve", "listen_and_serve_tls"]

_LAST_WORDS = 1.0  # seconds for what was said at the end of the grace to leave

logger = logging.getLogger("ehlo.server")


@dataclass(eq=False, repr=False)
class Server(Options):
    """An SMTP server: `Server(handler, addr=..., ...)`, every option as a keyword.

    It blocks (`listen_and_serve`), or lives in a running loop (`async with server`), or runs in a
    thread beside synchronous code (`with server.in_thread()`). A server runs once at a time.

    Raises `TypeError` for a handler that is none, or one with functions beside it.
    """

    def __post_init__(self) -> None:
        config.as_handler(self)  # for its TypeErrors; what is set later is seen at the start
        self._life: _Life | None = None

    def configure_tls(
        self, cert_file: str, key_file: str, passphrase: str | bytes | None = None
    ) -> None:
        """Load a certificate chain and its key (PEM): TLS 1.2 at least, Python's defaults beyond.

        This offers STARTTLS; for implicit TLS set `tls_listener`, too. Raises `OSError` when a file
        cannot be read, `ssl.SSLError` when it is not what it should be.
        """
        self.tls_config = tls.server_context(cert_file, key_file, passphrase)

    @property
    def addresses(self) -> list[Peer]:
        """Where the server listens, with the real ports; empty when it does not."""
        return list(self._life.addresses) if self._life is not None else []

    # -- in a running loop -----------------------------------------------------------------------

    async def start(self, sock: socket.socket | None = None) -> None:
        """Listen, on `addr` or on a listening socket of yours, and serve in the running loop.

        Raises `ValueError` for options that would not be safe, `OSError` (which names address and
        reason) when an address cannot be had.
        """
        if self._life is not None:
            raise RuntimeError("the server is running already")
        life = self._life = _Life(self)
        try:
            await life.start([sock] if sock is not None else listener.bind(self.addr))
        except BaseException:
            self._life = None
            raise
        logger.info("listening on %s", ", ".join(map(str, life.addresses)))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.shutdown(None if exc_type is None else 0)

    async def wait_closed(self) -> None:
        """Return when the server has been closed, by whomever."""
        if self._life is not None:
            await self._life.closed.wait()

    async def shutdown(self, grace: float | None = None) -> None:
        """Stop accepting, let transactions end, answer `421 4.3.2` to the rest.

        Returns when all sessions are gone, or after `grace` seconds (by default the option's), when
        those that are left are cut off.
        """
        if self._life is not None:
            await self._life.shutdown(self.grace if grace is None else grace)

    def close(self) -> None:
        """Stop at once: sessions are cut off, and no message that is under way is acknowledged.

        May be called from any thread. `wait_closed` tells when it is done.
        """
        life = self._life
        if life is not None:
            loops.call_in(life.loop, life.close)

    async def serve_streams(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one client over a connected pair of streams, until it has gone.

        The server need not listen. Raises `ValueError` as `start` does.
        """
        own = self._life is None
        life = self._life or _Life(self)
        try:
            if own:
                await life.begin()
            await serve_streams(life.new_driver(), reader, writer)
        finally:
            if own:
                await life.shutdown(self.grace)

    def _ended(self, life: _Life) -> None:
        if self._life is life:
            self._life = None

    # -- blocking --------------------------------------------------------------------------------

    def listen_and_serve(self) -> None:
        """Listen and serve until `close`, SIGTERM or SIGINT; a second signal does not wait.

        Raises `ValueError` and `OSError` as `start` does.
        """
        loops.run(self._serve_until_signalled(None), self.loop)

    def serve(self, sock: socket.socket) -> None:
        """Serve on a listening socket of yours, otherwise as `listen_and_serve`."""
        sock.setblocking(False)
        loops.run(self._serve_until_signalled(sock), self.loop)

    async def _serve_until_signalled(self, sock: socket.socket | None) -> None:
        with _signals(self._on_signal):
            await self.start(sock)
            life = self._life
            if life is not None:
                await life.closed.wait()
                await self.shutdown()

    def _on_signal(self) -> None:
        life = self._life
        if life is None:
            return
        if life.runtime.draining:
            logger.warning("signalled again: closing at once")
            self.close()
        else:
            logger.info("signalled: shutting down")
            life.spawn(self.shutdown())

    # -- in a thread -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Serve in a thread of its own while the block runs; then shut down.

        The server listens when the block begins. Raises `ValueError` and `OSError` as `start` does.
        """
        thread = loops.LoopThread(self.loop, "ehlo-server")
        try:
            thread.call(self.start())
            try:
                yield self
            finally:
                thread.call(self.shutdown())
        finally:
            thread.stop()


class _Life:
    """One run of a server: what exists from its start to its end, and not beyond."""

    def __init__(self, server: Server) -> None:
        handler = config.as_handler(server)
        self._server = server
        self._rules = config.resolve(server, handler)
        self.loop = asyncio.get_running_loop()
        self._hooks = Hooks.of(handler)
        self._dispatcher = Dispatcher(self._hooks)
        self._listeners: list[asyncio.Server] = []
        self._paths: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.addresses: list[Peer] = []
        self.runtime = Runtime(server, self.loop)
        self.closed = asyncio.Event()
        self._ending = False

    def new_driver(self) -> Driver:
        """A protocol for one client."""
        return Driver(self.runtime, self._rules, self._dispatcher)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside; its failure is logged."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def begin(self) -> None:
        """Before the first client."""
        await self._tell(self._hooks.startup)

    async def start(self, sockets: list[socket.socket]) -> None:
        """Serve on listening sockets."""
        self.addresses = [listener.bound_address(sock) for sock in sockets]
        self._paths = [
            address.host.removeprefix("unix:") for address in self.addresses if address.is_unix
        ]
        try:
            await self.begin()
            for sock in sockets:
                make = self.loop.create_unix_server if _is_unix(sock) else self.loop.create_server
                self._listeners.append(await make(self.new_driver, sock=sock))
            if self.runtime.draining:  # closed while it was starting
                self._stop_accepting()
        except BaseException:
            for sock in sockets:
                sock.close()
            self._stop_accepting()
            self.runtime.stop()
            raise

    async def shutdown(self, grace: float) -> None:
        """See `Server.shutdown`."""
        self._stop_accepting()
        self.runtime.draining = True
        for driver in list(self.runtime.drivers):
            driver.drain()
        if not await self._gone_within(grace):
            await self._cut_off()
        await self._end()

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
            driver.cut()

    def close(self) -> None:
        """See `Server.close`."""
        self._stop_accepting()
        self.runtime.draining = True
        self._abort_all()
        if self._ending:
            self._stopped()
        else:
            self.spawn(self._end_soon())

    async def _end_soon(self) -> None:
        """Hooks that the end of a session calls have a moment."""
        await self._gone_within(_LAST_WORDS)
        await self._end()

    async def _end(self) -> None:
        """The last hook, once, whoever comes here first; its failure must not keep us up."""
        if self._ending:
            await self.closed.wait()
            return
        self._ending = True
        try:
            await self._tell(self._hooks.shutdown)
        except Exception:
            logger.exception("on_shutdown failed")
        finally:
            self._stopped()

    def _stop_accepting(self) -> None:
        for server in self._listeners:
            server.close()
        self._listeners = []
        self.addresses = []
        for path in self._paths:
            Path(path).unlink(missing_ok=True)
        self._paths = []

    def _stopped(self) -> None:
        self.runtime.stop()
        self._server._ended(self)  # noqa: SLF001  the other half of one class
        self.closed.set()

    async def _tell(self, hook: Hook | None) -> None:
        if hook is None:
            return
        if hook.is_async:
            await hook.call(self._server)
        else:
            await self.runtime.in_thread(partial(hook.call, self._server))


def _is_unix(sock: socket.socket) -> bool:
    return sock.family == socket.AF_UNIX


@contextlib.contextmanager
def _signals(react: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call `react`, where this is the thread that may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, react)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def listen_and_serve(
    addr: str,
    handler: Handler | MessageFunction,
    appname: str = "",
    hostname: str = "",
) -> None:
    """Serve mail on `addr` (`""` is `:25`) in plaintext, until SIGTERM or SIGINT.

    `handler` is called as `handler(remote_addr, mail_from, rcpt_tos, data)`; see `Server` for all
    options. Raises `OSError` when the address cannot be had.
    """
    Server(handler, addr=addr, appname=appname, hostname=hostname).listen_and_serve()


def listen_and_serve_tls(
    addr: str,
    cert_file: str,
    key_file: str,
    handler: Handler | MessageFunction,
    appname: str = "",
    hostname: str = "",
) -> None:
    """As `listen_and_serve`, and offer STARTTLS with a certificate chain and its key (PEM files).

    This is not implicit TLS: clients begin in plaintext, and may stay there. For a handshake at
    once set `tls_listener` on a `Server`, for no mail without TLS `tls_required`.
    """
    server = Server(handler, addr=addr, appname=appname, hostname=hostname)
    server.configure_tls(cert_file, key_file)
    server.listen_and_serve()
