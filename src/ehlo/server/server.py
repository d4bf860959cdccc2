"""`Server`: its life, from the options to the end of the last session."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from ehlo.functions import MessageFunction
from ehlo.handler import Handler
from ehlo.net import Peer
from ehlo.server.hooks.steps import Steps
from ehlo.server.life import Life
from ehlo.server.options import rules
from ehlo.server.options.config import Options
from ehlo.server.processes import workers
from ehlo.server.streams import serve_streams
from ehlo.server.system import listener, loops, signals, systemd
from ehlo.server.tls.certificates import Certificate, FileContext, file_context, with_another

if TYPE_CHECKING:
    from ehlo.server.processes.parent import Parent

__all__ = ["Server", "listen_and_serve", "listen_and_serve_tls"]

logger = logging.getLogger("ehlo.server")


@dataclass(eq=False, repr=False)
class Server(Options):
    """An SMTP server: `Server(handler, addr=..., ...)`, every option as a keyword.

    It blocks (`listen_and_serve`), or lives in a running loop (`async with server`), or runs in a
    thread beside synchronous code (`with server.in_thread()`). A server runs once at a time.

    Raises `TypeError` for a handler that is none, or one with functions beside it.
    """

    def __post_init__(self) -> None:
        named = isinstance(self.handler, str) and ":" in self.handler
        if not named and not self.factory:
            rules.as_callbacks(self)  # for its TypeErrors; what is set later is seen at the start
        self._life: Life | None = None
        self._steps = Steps()
        self._parent: Parent | None = None

    def configure_tls(
        self,
        cert_file: str,
        key_file: str,
        passphrase: str | bytes | None = None,
        client_ca: str | None = None,
        client_certs: Literal["optional", "required"] = "optional",
    ) -> None:
        """Load a certificate chain and its key (PEM): TLS 1.2 at least, Python's defaults beyond.

        This offers STARTTLS; for implicit TLS set `tls_listener`, too. Called again, it adds a
        certificate: the first is the default, the others are for clients that ask for one of their
        DNS names (SNI); the same `cert_file` again takes the place of what was said of it. A
        running server takes the files anew when they change.

        With `client_ca`, a PEM file of authorities, a client may show a certificate, which must be
        one of theirs, or has to (`client_certs="required"`); that holds for all certificates.
        EXTERNAL logs in by it.

        Raises `OSError` when a file cannot be read, `ssl.SSLError` when it is not what it should
        be, `ValueError` for a further certificate without a DNS name. Nothing has changed then.
        """
        new = Certificate(cert_file, key_file, passphrase, client_ca, client_certs)
        given = self.tls_config
        if isinstance(given, FileContext):
            self.tls_config = with_another(given, new)
        else:
            self.tls_config = file_context((new,))

    @property
    def addresses(self) -> list[Peer]:
        """Where the server listens, with the real ports; empty when it does not."""
        running = self._life or self._parent
        return list(running.addresses) if running is not None else []

    # -- in a running loop -----------------------------------------------------------------------

    async def start(self, sock: socket.socket | None = None) -> None:
        """Listen, on `addr` or on a listening socket of yours, and serve in the running loop.

        Raises `ValueError` for options that would not be safe, `OSError` (which names address and
        reason) when an address cannot be had.
        """
        if self._life is not None:
            raise RuntimeError("the server is running already")
        if self.workers > 1:
            raise ValueError("workers are started by listen_and_serve and serve only")
        where = None if sock is None else [listener.bound_address(sock)]
        rules.check_addresses(self, where)
        rules.make_handler(self)
        life = self._life = Life(self, self._ended, self._steps)
        try:
            groups, paths = workers.open_sockets(self, sock, life.views.bind)
            await life.start(groups, paths=paths)
        except BaseException:
            self._life = None
            life.views.close()
            raise
        if life.addresses:  # else it was ended while it was starting
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
        elif self._parent is not None:
            self._parent.close()

    def reload(self) -> Future[bool]:
        """Take certificates, passwords and log files anew, as SIGHUP does in the blocking forms.

        New handshakes then use what is new; connections are left alone. What cannot be loaded
        leaves the old in use, and the log says so. A context of yours in `tls_config` stays; a
        function there is called again. Of the log's files those are opened anew that a
        `WatchedFileHandler` of the root logger writes to.

        May be called from any thread, and does not wait. The result, when it is there, is whether
        all could be taken; the parent of workers only passes the word on. Who waits for it in a
        loop does so by `asyncio.wrap_future`.
        """
        if self._life is not None:
            return self._life.reload()
        if self._parent is not None:
            self._parent.reload()
        nothing: Future[bool] = Future()
        nothing.set_result(self._parent is not None)
        return nothing

    async def serve_streams(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one client over a connected pair of streams, until it has gone.

        It comes without a PROXY header: whoever has the streams knows who is there. The server
        need not listen: it is up then from the first of such clients to the last. Raises
        `ValueError` as `start` does.
        """
        if self._life is None:
            rules.make_handler(self)
            workers.check_spool(self)
            self._life = Life(self, self._ended, self._steps)
        life = self._life
        life.guests += 1
        try:
            await life.begin()
            await serve_streams(life.new_driver(), reader, writer)
        finally:
            life.guests -= 1
            if not life.guests and not life.listens:
                await life.shutdown(self.grace)

    def _ended(self, life: Life) -> None:
        if self._life is life:
            self._life = None

    # -- blocking --------------------------------------------------------------------------------

    def listen_and_serve(self, *, tune_malloc: bool = False) -> None:
        """Listen and serve until `close`, SIGTERM or SIGINT; a second signal does not wait.

        `tune_malloc` sets the C library's malloc for a process that only serves. With `workers`
        this process is the parent of those that serve. SIGHUP calls `reload`.

        Raises `ValueError` and `OSError` as `start` does, `RuntimeError` when no worker could
        start.
        """
        self._serve(None, tune_malloc=tune_malloc)

    def serve(self, sock: socket.socket) -> None:
        """Serve on a listening socket of yours, otherwise as `listen_and_serve`."""
        sock.setblocking(False)
        self._serve(sock)

    def _serve(self, sock: socket.socket | None, *, tune_malloc: bool = False) -> None:
        if self.workers == 1:
            rules.make_handler(self)  # a module may want to run a loop as it is imported
            work = self._serve_until_signalled(sock)
            loops.run(work, self.loop, self._abandon, tune_malloc=tune_malloc)
            return
        from ehlo.server.processes.parent import Parent  # what most never need

        self._parent = Parent(self, workers.recipe(self))
        try:
            self._parent.run(sock)
        finally:
            self._parent = None

    async def _serve_until_signalled(self, sock: socket.socket | None) -> None:
        ending = dict.fromkeys((signal.SIGTERM, signal.SIGINT), self._on_signal)
        alarm = signals.Alarm(self._steps.blocked, spared=1)
        self._steps.when_blocked = alarm.look
        heard = signals.heard({signal.SIGHUP: self._on_hangup}, ending, alarm)
        with heard, systemd.watchdog(asyncio.get_running_loop()):
            await self.start(sock)
            life = self._life
            if life is not None:
                if life.addresses:
                    self._tell_ready()
                await life.closed.wait()
                await self.shutdown()

    def _abandon(self) -> None:
        """A second signal has interrupted what blocked the loop."""
        if self._life is not None:
            self._life.abandon()

    def _on_signal(self) -> None:
        life = self._life
        if life is None:
            return
        if life.runtime.draining:
            logger.warning("signalled again: closing at once")
            self.close()
        else:
            logger.info("signalled: shutting down")
            systemd.stopping()
            life.spawn(self.shutdown())

    def _on_hangup(self) -> None:
        logger.info("signalled: taking files anew")
        reloaded = self.reload()
        if self.addresses:  # else it starts or ends, and that is what is told
            systemd.reloading()
            reloaded.add_done_callback(lambda _: self._tell_ready())

    def _tell_ready(self) -> None:
        systemd.ready(f"Listening on {', '.join(map(str, self.addresses))}")

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
