"""Routes smtplib and aiosmtplib to an inbox in memory, whatever host and port they name.

This is the one file with private names of other libraries (`_PRIVATE`); its tests run with each
version of them in CI. Where such a name is missing, `Router.add` raises, and the inbox gets a port.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import smtplib
import socket
from collections.abc import Callable
from typing import Any, Final, cast

from ehlo.net import Peer
from ehlo.testing.guest import Guest
from ehlo.testing.memory import MemorySocket, MemoryTransport

NAME: Final = "localhost"
"""The name of a client that gives none: to find the machine's own may take a look into DNS."""

# The private names, by library and class
_PRIVATE: Final = (
    ("smtplib", "SMTP", ("_get_socket",)),
    ("smtplib", "SMTP_SSL", ("_get_socket",)),
    ("aiosmtplib", "SMTP", ("_create_connection", "_get_default_local_hostname")),
)

Connect = Callable[[Peer, bool], Guest | None]
"""Returns the guest of a new client, or `None` for a client that is not meant.

The arguments are the server that the client names, and whether it begins with TLS."""
Function = Callable[..., Any]


class MissingNameError(Exception):
    """Raised where a library lacks a private name that is needed here."""


class Router:
    """Routes the clients of this process to the inbox that was opened last.

    It replaces methods of the clients for the first inbox, and puts them back at its end. While no
    inbox is open, they do what they did before.
    """

    def __init__(self) -> None:
        self._routes: list[Connect] = []
        self._replaced: contextlib.ExitStack | None = None

    def add(self, connect: Connect) -> None:
        """Route clients by `connect`. Raises `MissingNameError`."""
        if self._replaced is None:
            _check()
            self._replaced = contextlib.ExitStack()
            _route_smtplib(self, self._replaced)
            if importlib.util.find_spec("aiosmtplib") is not None:
                _route_aiosmtplib(self, self._replaced)
        self._routes.append(connect)

    def remove(self, connect: Connect) -> None:
        """Route no more clients by `connect`."""
        self._routes.remove(connect)

    def close(self) -> None:
        """Put the methods back."""
        replaced, self._replaced = self._replaced, None
        if replaced is not None:
            replaced.close()

    @property
    def name(self) -> str | None:
        """The name of a client that gives none; `None` while no inbox is open."""
        return NAME if self._routes else None

    def connect(self, server: Peer, *, tls: bool) -> Guest | None:
        """Return the guest of a client, or `None` for one that is not routed."""
        return self._routes[-1](server, tls) if self._routes else None


def _check() -> None:
    for library, name, attributes in _PRIVATE:
        if importlib.util.find_spec(library) is None:
            continue
        owner = getattr(importlib.import_module(library), name)
        for attribute in attributes:
            if not hasattr(owner, attribute):
                raise MissingNameError(f"{library}.{name} has no {attribute}")


def _replace(
    owner: type, name: str, make: Callable[[Function], Function], stack: contextlib.ExitStack
) -> None:
    """Replace a method by what `make` makes of it, until the stack is closed."""
    old = getattr(owner, name)
    new = make(old)

    def replacement(*arguments: Any, **keywords: Any) -> Any:
        return (old if _has_ended(replacement) else new)(*arguments, **keywords)

    def put_back() -> None:
        vars(replacement)["ended"] = True
        current = vars(owner)[name]
        while _has_ended(current):  # those below another one may have ended before it
            current = current.__wrapped__
        setattr(owner, name, current)

    vars(replacement)["__wrapped__"] = old
    setattr(owner, name, replacement)
    stack.callback(put_back)


def _has_ended(function: Function) -> bool:
    return vars(function).get("ended", False) is True


# -- smtplib ---------------------------------------------------------------------------------------


class DirectSMTP(smtplib.SMTP):
    """A client of smtplib that is connected by `connect`, whatever is routed."""

    def __init__(self, connect: Callable[[], Any], timeout: float) -> None:
        self._connect = connect
        super().__init__(NAME, local_hostname=NAME, timeout=timeout)

    def _get_socket(self, _host: str, _port: int, _timeout: object) -> Any:
        return self._connect()


class _Pretender:
    """Stands for the TLS context of a client, whose handshake is pretended."""

    def wrap_socket(self, sock: MemorySocket, server_hostname: str) -> MemorySocket:
        """Return the socket under TLS."""
        del server_hostname
        sock.secure()
        return sock


def _route_smtplib(router: Router, stack: contextlib.ExitStack) -> None:
    def opens(*, tls: bool) -> Callable[[Function], Function]:
        def made_of(old: Function) -> Function:
            def get_socket(client: object, host: str, port: int, timeout: object) -> Any:
                guest = router.connect(Peer(host, port), tls=tls)
                if guest is None:
                    return old(client, host, port, timeout)
                return MemorySocket(guest, _seconds(timeout))

            return get_socket

        return made_of

    def named(old: Function) -> Function:
        def initialize(
            client: object,
            host: str = "",
            port: int = 0,
            local_hostname: str | None = None,
            *arguments: Any,
            **keywords: Any,
        ) -> None:
            old(client, host, port, local_hostname or router.name, *arguments, **keywords)

        return initialize

    def pretending(old: Function) -> Function:
        def starttls(client: smtplib.SMTP, *arguments: Any, **keywords: Any) -> Any:
            if isinstance(getattr(client, "sock", None), MemorySocket):
                return old(client, context=_Pretender())
            return old(client, *arguments, **keywords)

        return starttls

    _replace(smtplib.SMTP, "_get_socket", opens(tls=False), stack)
    _replace(smtplib.SMTP_SSL, "_get_socket", opens(tls=True), stack)
    _replace(smtplib.SMTP, "__init__", named, stack)
    _replace(smtplib.SMTP, "starttls", pretending, stack)


def _seconds(timeout: object) -> float | None:
    """Return a timeout as smtplib passes it on: a number, `None`, or a mark for the default."""
    return timeout if isinstance(timeout, int | float | None) else socket.getdefaulttimeout()


# -- aiosmtplib ------------------------------------------------------------------------------------


class _MemoryLoop:
    """Stands for the event loop of a client: its connections are in memory."""

    def __init__(self, loop: Any, router: Router) -> None:
        self._loop = loop
        self._router = router

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(
        self, factory: Function, *arguments: Any, **keywords: Any
    ) -> tuple[Any, Any]:
        """Connect to the inbox, unless the client brings a socket of its own."""
        host, port = keywords.get("host"), keywords.get("port")
        context, guest = keywords.get("ssl"), None
        if host is not None and port is not None:
            guest = self._router.connect(Peer(host, port), tls=context is not None)
        if guest is None:
            made = await self._loop.create_connection(factory, *arguments, **keywords)
            return cast("tuple[Any, Any]", made)
        transport = MemoryTransport(self._loop, factory(), guest)
        transport.begin(context)
        return transport, transport.get_protocol()

    async def start_tls(self, transport: Any, *arguments: Any, **keywords: Any) -> Any:
        """Pretend the handshake of a connection in memory."""
        if not isinstance(transport, MemoryTransport):
            return await self._loop.start_tls(transport, *arguments, **keywords)
        _protocol, context, *_ = arguments
        transport.secure(context)
        return transport


def _route_aiosmtplib(router: Router, stack: contextlib.ExitStack) -> None:
    import aiosmtplib  # slow to import, and installed

    def in_memory(old: Function) -> Function:
        async def create_connection(client: Any, *arguments: Any, **keywords: Any) -> Any:
            client.loop = _MemoryLoop(client.loop, router)
            return await old(client, *arguments, **keywords)

        return create_connection

    def named(old: Function) -> Function:
        async def local_hostname(client: object) -> Any:
            return router.name or await old(client)

        return local_hostname

    _replace(aiosmtplib.SMTP, "_create_connection", in_memory, stack)
    _replace(aiosmtplib.SMTP, "_get_default_local_hostname", named, stack)
