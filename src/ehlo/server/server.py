"""`Server`: the face, in the forms that block, live in a running loop, or run in a thread.

This file is longer than others, since all that a user does with a server is on one class.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import ipaddress
import logging
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, Self, Unpack

from ehlo.net import ListenAddresses, Peer, parse_address
from ehlo.server.options import target
from ehlo.server.options.config import (
    AllOptions,
    AnyHandler,
    FunctionOptions,
    Options,
    ServerOptions,
    certificates_of,
    check_attribute,
    check_names,
    check_values,
)
from ehlo.server.options.target import callbacks_of, is_class, with_handler
from ehlo.server.run import Run, abandon
from ehlo.server.streams import rejecting
from ehlo.server.system import loops, machine, signals, systemd
from ehlo.server.tls.certificates import Certificate, FileContext, file_context, with_another
from ehlo.server.workers.recipe import check_workers, recipe

if TYPE_CHECKING:
    from ehlo.server.workers.parent import Parent

__all__ = ["Server", "listen_and_serve", "listen_and_serve_tls"]

_GRACE_IN_THREAD = 2.0  # seconds: what is next to a block, such as a test, does not outlast it

logger: logging.Logger = logging.getLogger("ehlo.server")


class Server:
    """Runs an SMTP server: `Server(handler, addr=..., ...)`, with every option as a keyword.

    `listen_and_serve` blocks, `async with server` serves in a running loop, and
    `with server.in_thread()` serves next to synchronous code. A server runs once at a time.
    Raises `TypeError` for a handler that cannot be called, or that excludes an option.

    Example::

        server = ehlo.Server(handler, addr="127.0.0.1:2525", max_size=1_000_000)
        server.listen_and_serve()
    """

    __signature__: ClassVar[inspect.Signature] = inspect.signature(Options)

    def __init__(self, handler: AnyHandler, **options: Unpack[ServerOptions]) -> None:
        check_names("Server", options, ServerOptions.__optional_keys__)
        self._options = Options(handler, **options)
        if is_class(handler) and not self.options.factory:
            self._options = with_handler(self.options)
        named = isinstance(handler, str) and ":" in handler
        if not named and not self.options.factory:
            callbacks_of(self.options)  # for its TypeErrors
        self._running: Run | None = None
        self._parent: Parent | None = None
        self._alarm: signals.Alarm | None = None

    if not TYPE_CHECKING:  # a type checker knows which attributes there are

        def __setattr__(self, name: str, value: object) -> None:
            check_attribute(name, is_own=type(self) is not Server or hasattr(Server, name))
            super().__setattr__(name, value)

    @property
    def running(self) -> Run | None:
        """The run of this server, while it serves in this process."""
        if self._running is not None and self._running.is_over:
            self._running = None
        return self._running

    @running.setter
    def running(self, run: Run | None) -> None:
        self._running = run

    @property
    def options(self) -> Options:
        """The options, frozen. Set it, or call `configure`, to change them while it does not run.

        Setting it raises `RuntimeError` while the server runs.
        """
        return self._options

    @options.setter
    def options(self, options: Options) -> None:
        if self.running is not None or self._parent is not None:
            raise RuntimeError("options cannot change while the server runs; shut it down first")
        self._options = options

    def configure(self, **options: Unpack[AllOptions]) -> None:
        """Change options before the server starts: `server.configure(max_size=1_000_000)`.

        Raises `TypeError` for an unknown option, `RuntimeError` while the server runs.
        """
        check_names("Server", options, AllOptions.__optional_keys__)
        self.options = dataclasses.replace(self.options, **options)

    def configure_tls(
        self,
        cert_file: str,
        key_file: str,
        passphrase: str | bytes | None = None,
        client_ca: str | None = None,
        client_certs: Literal["optional", "required"] = "optional",
    ) -> None:
        """Load a certificate chain and its key (PEM files), and offer STARTTLS.

        `tls_cert` and `tls_key` do the same for certificates without a passphrase. The minimum is
        TLS 1.2; otherwise Python's defaults apply. For implicit TLS, set `tls_listener` too. Each
        call adds a certificate. The first one is the default, and the others are for clients that
        ask for one of their DNS names (SNI). A call with the same `cert_file` replaces that
        certificate. A running server reloads files that change.

        `client_ca` is a PEM file of authorities for client certificates. They are `"optional"`, or
        `"required"` from every client; EXTERNAL authenticates by them.

        Raises `OSError` if a file cannot be read, `ssl.SSLError` if it has the wrong content,
        `ValueError` if a further certificate has no DNS name, and `RuntimeError` while the server
        runs. If it raises, nothing has changed.
        """
        new = Certificate(cert_file, key_file, passphrase, client_ca, client_certs)
        given, named = self.options.tls_config, certificates_of(self.options)
        if isinstance(given, FileContext):
            made = with_another(given, new)
        else:  # `tls_cert` names the first ones
            made = file_context((*(Certificate(*each) for each in named), new))
        self.configure(tls_config=made, tls_cert=(), tls_key=())

    @property
    def addresses(self) -> list[Peer]:
        """Where the server listens, with the real ports; empty while it does not."""
        running = self.running or self._parent
        return list(running.addresses) if running is not None else []

    # -- in a running loop -----------------------------------------------------------------------

    async def start(self, sock: socket.socket | None = None) -> None:
        """Listen on `addr`, or on your own listening socket, and serve in the running loop.

        Raises `ValueError` for options that would be unsafe, `OSError` (with address and reason)
        for an address that cannot be bound, `RuntimeError` if the server is already running.
        """
        check_values(self.options)
        if self.options.workers > 1:
            raise ValueError("workers needs listen_and_serve or serve; it cannot be used here")
        run = Run(self)
        if self._alarm is not None:
            run.runtime.steps.when_blocked = self._alarm.look
        await run.listen(sock)
        if not run.draining:  # otherwise it was ended during the start
            if self.addresses:
                logger.info("listening on %s", self._where())
            else:
                logger.info("started")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        await self.shutdown(None if exc_type is None else 0)

    async def wait_closed(self) -> None:
        """Wait until the server is closed."""
        if self.running is not None:
            await self.running.closed.wait()

    async def shutdown(self, grace: float | None = None) -> None:
        """Stop accepting, let transactions end, and answer `421 4.3.2` to the other sessions.

        Returns when all sessions have ended. Sessions that remain after `grace` seconds (by default
        the option's) are cut off.
        """
        if self.running is not None:
            await self.running.shutdown(grace)

    def close(self) -> None:
        """Stop at once: cut all sessions off, without acknowledging messages in progress.

        May be called in any thread. It does not wait; `wait_closed` does.
        """
        running = self.running or self._parent
        if running is not None:
            running.close()

    def reload(self) -> Future[bool]:
        """Reload certificates, passwords and log files, as SIGHUP does in the blocking forms.

        New handshakes and logins use the new files; open connections are not affected. Files that
        cannot be loaded are logged, and the old ones stay in use. A function in `tls_config` is
        called again, but a context of your own is kept. Log files are those that a
        `WatchedFileHandler` of the root logger writes to.

        May be called in any thread. It does not wait: the result of the future is whether every
        reload succeeded (await it with `asyncio.wrap_future`). The parent of workers only passes
        the request on.
        """
        if self.running is not None:
            return self.running.reload()
        if self._parent is not None:
            self._parent.reload()
        done: Future[bool] = Future()
        done.set_result(self._parent is not None)
        return done

    def protocol(self) -> asyncio.Protocol:
        """Return the asyncio protocol for one client: a factory for `loop.create_server`.

        Start the server in the loop first. Its options apply, with PROXY headers, limits and the
        shutdown, as to the clients of its own addresses. For TLS, set `tls_listener`, and do not
        pass `ssl` to `create_server`. A client that connects while the server does not run in this
        loop gets `421 4.3.2`. Raises `ValueError` if options that only `listeners` override are
        unsafe.

        Example::

            async with ehlo.Server(handler, addr=()) as server:
                loop = asyncio.get_running_loop()
                mine = await loop.create_server(server.protocol, "127.0.0.1", 2525)
                async with mine:
                    await server.wait_closed()
        """
        run = self.running
        if run is None or run.loop is not asyncio.get_running_loop():
            logger.error("client rejected: the server does not run in this loop; start it there")
            return rejecting(self.options)
        return run.protocol()

    async def serve_streams(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one client over a connected pair of streams, until it has disconnected.

        No PROXY header is expected on it. The server need not listen; it then runs from the first
        of such clients to the last. Raises as `start` does.
        """
        run = self.running or Run(self)
        await run.serve_streams(reader, writer)

    async def connect_memory(
        self,
        *,
        peer: Peer | str = "127.0.0.1:50000",
        local: Peer | str = "127.0.0.1:25",
        listener: int | None = None,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        r"""Connect a client in memory, without a socket; return its streams.

        The server's own handler, rules, logins and limits apply, as if the client at `peer` had
        connected to `local`. Both are `"192.0.2.1:4711"`, `"unix:/path"`, or a `Peer`. `listener`
        is an index in the option `listeners`; without it, only the server's own options count. No
        PROXY header is expected. For STARTTLS, and first of all with `tls_listener`, await the
        writer's `start_tls` with a client's `ssl.SSLContext`.

        The server need not listen: it then runs from the first such client until the last one has
        disconnected. Use `async with server` (and `addr=()`) to keep what it counts, such as failed
        logins, for several clients. Raises as `start` does, `ValueError` for an address that is not
        numeric, `IndexError` for a listener that does not exist, `RuntimeError` if the server runs
        in another event loop.

        Example:

            >>> async def greeting(server):
            ...     reader, writer = await server.connect_memory(peer="192.0.2.1:4711")
            ...     line = await reader.readline()
            ...     writer.close()
            ...     await server.wait_closed()
            ...     return line
            >>> server = ehlo.Server(lambda message: None, hostname="mx.example.com")
            >>> asyncio.run(greeting(server))[:18]
            b'220 mx.example.com'
        """
        ends = _end(peer, "peer"), _end(local, "local")
        while (run := self.running) is not None and run.ends_with_guests:
            await run.closed.wait()
        if run is not None and run.loop is not asyncio.get_running_loop():
            raise RuntimeError("the server runs in another event loop; await connect_memory there")
        run = run or Run(self)
        return await run.connect_memory(listener, *ends)

    # -- blocking --------------------------------------------------------------------------------

    def listen_and_serve(self, *, tune_malloc: bool = False) -> None:
        """Listen and serve until `close`, SIGTERM or SIGINT; a second signal closes at once.

        SIGHUP calls `reload`. With `workers`, this process is their parent. `tune_malloc` is for a
        process that only serves: it configures glibc's malloc, and lets the garbage collector skip
        everything imported before. Raises `ValueError` and `OSError` as `start` does,
        `RuntimeError` if no worker could start, or in a running event loop.
        """
        self._serve(None, tune_malloc=tune_malloc)

    def serve(self, sock: socket.socket) -> None:
        """Serve on your own listening socket; otherwise like `listen_and_serve`."""
        sock.setblocking(False)
        self._serve(sock)

    def _serve(self, sock: socket.socket | None, *, tune_malloc: bool = False) -> None:
        target.check_not_importing()
        loops.check_none_runs("listen_and_serve" if sock is None else "serve")
        check_values(self.options)
        machine.open_standard_files()
        if self.options.workers == 1:
            self.options = with_handler(self.options)  # its module may run a loop when imported
            work = partial(self._serve_until_signalled, sock)
            loops.run(work, self.options.loop, partial(abandon, self), tune_malloc=tune_malloc)
            return
        check_workers(self.options)
        from ehlo.server.workers.parent import Parent  # most servers never need it

        parent = Parent(self.options, recipe(self.options, Server))
        self._parent = parent
        try:
            parent.run(sock)
        finally:
            self._parent = None

    async def _serve_until_signalled(self, sock: socket.socket | None) -> None:
        ending = {number: partial(self._on_end, number) for number in signals.ENDING}
        self._alarm = signals.Alarm(self._blocked, spared=1)
        reloading = dict.fromkeys(signals.RELOADING, self._on_hangup)
        heard = signals.heard(reloading, ending, self._alarm)
        try:
            with heard, systemd.watchdog(asyncio.get_running_loop()):
                await self.start(sock)
                if self._serves:
                    machine.say_where(self._where())
                    self._tell_ready()
                await self.wait_closed()
        finally:
            self._alarm = None

    def _blocked(self) -> bool:
        return self.running is not None and self.running.runtime.steps.blocked() is not None

    def _on_end(self, number: signal.Signals) -> None:
        run = self.running
        if run is None:
            return
        if run.draining:
            logger.warning("received %s again: closing at once", number.name)
            self.close()
        else:
            logger.info("received %s: shutting down", number.name)
            systemd.stopping()
            run.begin_shutdown()

    def _on_hangup(self) -> None:
        logger.info("received SIGHUP: reloading")
        reloaded = self.reload()
        if self._serves:  # otherwise the service manager hears of the start or the end
            systemd.reloading()
            reloaded.add_done_callback(lambda _: self._tell_ready())

    @property
    def _serves(self) -> bool:
        """Whether it has started in this process, and does not end."""
        return self.running is not None and not self.running.draining

    def _where(self) -> str:
        return ", ".join(map(str, self.addresses))

    def _tell_ready(self) -> None:
        systemd.ready(f"Listening on {self._where()}" if self.addresses else "Started")

    # -- in a thread -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Serve in a thread while the block runs, then shut down.

        The server listens when the block begins. When the block ends, transactions have at most
        two seconds to end; when it raises, the sessions are cut off. Raises `ValueError` and
        `OSError` as `start` does.
        """
        machine.open_standard_files()
        thread = loops.LoopThread(self.options.loop, "ehlo-server")
        grace = 0.0
        try:
            thread.call(self.start)
            try:
                yield self
                grace = min(self.options.grace, _GRACE_IN_THREAD)
            finally:
                if thread.is_alive:  # not in a process that was forked meanwhile
                    thread.call(partial(self.shutdown, grace))
        finally:
            thread.stop()


def _end(end: Peer | str, name: str) -> Peer:
    """Return an end of a connection in memory. Raises `ValueError`, which begins with `name`."""
    try:
        found = Peer(*end) if isinstance(end, Peer) else parse_address(end)
        if not found.is_unix:
            ipaddress.ip_address(found.host)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {end!r}: write 192.0.2.1:4711 or unix:/path") from error
    return found


def listen_and_serve(
    addr: ListenAddresses,
    handler: AnyHandler,
    appname: str = "",
    hostname: str = "",
    **options: Unpack[FunctionOptions],
) -> None:
    """Serve mail on `addr` (`""` is `:25`), until SIGTERM or SIGINT.

    `handler` is called as `handler(remote_addr, mail_from, rcpt_tos, data)`, as `handler(message)`
    or as `handler(session, message)`, by the number of its parameters. `options` are those of
    `Server`. Raises as `Server` and its `listen_and_serve` do.

    Example::

        ehlo.listen_and_serve("127.0.0.1:2525", handler, "MyServerApp", max_size="10MB")
    """
    server = Server(handler, addr=addr, appname=appname, hostname=hostname, **options)
    server.listen_and_serve()


def listen_and_serve_tls(
    addr: ListenAddresses,
    cert_file: str,
    key_file: str,
    handler: AnyHandler,
    appname: str = "",
    hostname: str = "",
    **options: Unpack[FunctionOptions],
) -> None:
    """Serve as `listen_and_serve`, and offer STARTTLS with a certificate and its key (PEM files).

    Clients begin in plaintext, and need not use TLS unless `tls_required` is set. `tls_listener` is
    for implicit TLS.

    Example::

        ehlo.listen_and_serve_tls(":2525", "server.crt", "server.key", handler, "MyServerApp")
    """
    server = Server(handler, addr=addr, appname=appname, hostname=hostname, **options)
    server.configure_tls(cert_file, key_file)
    server.listen_and_serve()
