"""Plays a dialogue as a client, against a handler or server in memory, or over a port."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import difflib
import itertools
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from ehlo.testing.dialogue.scenario import (
    Received,
    Scenario,
    Step,
    escaped,
    line_of,
    load,
    matches,
    parse,
)
from ehlo.testing.dialogue.served import Target, address_of, connected

_READ: Final = 65_536
_LONGEST_LINE: Final = 1_000_000  # bytes of a server's line
_SHOWN: Final = 12  # lines before a difference
_WIDE: Final = 160  # characters of a line that are shown
_ANY_EHLO: Final = "<ehlo>"


class DialogueError(AssertionError):
    """Raised when a server does not do what a dialogue says; its text shows the difference.

    Example:

        >>> import ehlo
        >>> from ehlo.testing import dialogue
        >>> try:
        ...     dialogue.play("S: 554...", ehlo.Server(print, hostname="mx.example.com"))
        ... except dialogue.DialogueError as error:
        ...     print(error)
        dialogue (line:1)
        - S: 554...
        + S: 220 mx.example.com smtpd ESMTP Service ready
    """


def play(
    dialogue: Scenario | Path | str,
    target: Target,
    *,
    port: bool = False,
    tls: ssl.SSLContext | None = None,
    timeout: float = 5.0,
) -> list[Received]:
    """Play a dialogue, and return the messages that the server has accepted.

    `dialogue` is a scenario, the path of a file, or text. Each scenario is one connection. `target`
    is a `Server` or a handler, which is served in memory, or with `port` on a free port of
    loopback; or the `Peer` or `HOST:PORT` of a server that runs. A `Server` that runs already is
    played over its first address. `tls` is the client's context for `T:` (by default one that
    verifies nothing), `timeout` the longest wait for a reply, in seconds.

    Raises `DialogueError` at the first difference, `ValueError` for a dialogue that cannot be
    played, `OSError` if there is no connection, `RuntimeError` in a running event loop.

    Example:

        >>> import ehlo
        >>> from ehlo.testing import dialogue
        >>> server = ehlo.Server(print, hostname="mx.example.com")
        >>> dialogue.play("S: 220 mx.example.com ...", server)
        []
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(play_async(dialogue, target, port=port, tls=tls, timeout=timeout))
    raise RuntimeError("play cannot be used in a running event loop; await play_async instead")


async def play_async(
    dialogue: Scenario | Path | str,
    target: Target,
    *,
    port: bool = False,
    tls: ssl.SSLContext | None = None,
    timeout: float = 5.0,  # noqa: ASYNC109  for each reply, and no limit of the whole
) -> list[Received]:
    """Play a dialogue in the running event loop; otherwise as `play`.

    Example:

        >>> import asyncio
        >>> from ehlo.testing import dialogue
        >>> asyncio.run(dialogue.play_async("S: 220 ...", print))
        []
    """
    accepted: list[Received] = []
    for scenario in _scenarios(dialogue):
        _check(scenario, target)
        before = len(accepted)
        async with connected(target, accepted, port=port) as (reader, writer):
            line = _Line(reader, writer, timeout)
            await Player(scenario, line, tls or _trusting()).play()
        _compare(scenario, accepted[before:])
    return accepted


def _scenarios(dialogue: Scenario | Path | str) -> list[Scenario]:
    match dialogue:
        case Scenario():
            return [dialogue]
        case Path():
            return load(dialogue)
        case _:
            return parse(dialogue)


def _check(scenario: Scenario, target: Target) -> None:
    """Raise `ValueError` for what cannot be played."""
    if scenario.given:
        raise ValueError(f"{scenario}: = {scenario.given[0]}: set options on the Server instead")
    for step in scenario.steps:
        if step.kind == "event":
            raise ValueError(f"{scenario}: line {step.line}: !: cannot be played; leave it out")
    if scenario.messages and address_of(target) is not None:
        raise ValueError(
            f"{scenario}: M: needs a server that this process starts; pass a handler or a Server "
            "that does not run, or leave M: out"
        )


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# -- the client ----------------------------------------------------------------------------------


class Wired(Protocol):
    """Carries a dialogue: its bytes to a server, and the lines of the server back."""

    timeout: float

    async def send(self, data: bytes) -> None:
        """Send bytes; a server that has gone is noticed by `hear`."""

    async def hear(self) -> str | None:
        """Return the next line of the server; `None` if it has closed. Raises `TimeoutError`."""

    async def secure(self, context: ssl.SSLContext) -> None:
        """Do the TLS handshake. Raises `ssl.SSLError`, `TimeoutError`, `EOFError`."""

    async def happen(self, event: str) -> None:
        """Let an event happen on the server (`!:`). Raises `NotImplementedError`."""

    def end(self) -> None:
        """Close the sending side."""


class _Line:
    """A client's line to a server: bytes both ways, with TLS over them once there is TLS."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float
    ) -> None:
        self.timeout = timeout
        self._reader = reader
        self._writer = writer
        self._heard = b""
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()

    async def send(self, data: bytes) -> None:
        """Send bytes; a server that has gone is noticed by `hear`."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(self.timeout):
                if self._tls is not None:
                    self._tls.write(data)
                    data = self._outgoing.read()
                self._writer.write(data)
                await self._writer.drain()

    async def happen(self, event: str) -> None:
        """Raise `NotImplementedError`: no client can make a server end the session."""
        raise NotImplementedError(event)

    def end(self) -> None:
        """Close the sending side."""
        if self._writer.can_write_eof() and not self._writer.is_closing():
            self._writer.write_eof()

    async def hear(self) -> str | None:
        """Return the next line of the server, without its end; `None` if it has closed.

        Raises `TimeoutError`.
        """
        async with asyncio.timeout(self.timeout):
            while b"\n" not in self._heard and len(self._heard) < _LONGEST_LINE:
                data = await self._receive()
                if not data:
                    line, self._heard = self._heard, b""
                    return _text(line) if line else None
                self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return _text(line.removesuffix(b"\r"))

    async def _receive(self) -> bytes:
        while True:
            if self._tls is not None:
                try:
                    return self._tls.read(_READ)
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError:
                    return b""
            data = await self._read()
            if self._tls is None or not data:
                return data
            self._incoming.write(data)

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(_READ)
        except OSError:
            return b""

    async def secure(self, context: ssl.SSLContext) -> None:
        """Do the TLS handshake. Raises `ssl.SSLError`, `TimeoutError`, `EOFError`."""
        if self._heard:
            raise ssl.SSLError("the server has sent more before the handshake")
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        async with asyncio.timeout(self.timeout):
            while True:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    self._writer.write(self._outgoing.read())
                    data = await self._read()
                    if not data:
                        raise EOFError("closed during the handshake") from None
                    self._incoming.write(data)
                else:
                    break
        self._writer.write(self._outgoing.read())
        self._tls = tls


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


class Player:
    """Plays one scenario over one connection."""

    def __init__(self, scenario: Scenario, line: Wired, tls: ssl.SSLContext) -> None:
        self._scenario = scenario
        self._line = line
        self._tls = tls
        self._challenge = b""
        self._played: list[str] = []

    async def play(self) -> None:
        """Play all steps, then leave. Raises `DialogueError`."""
        steps = self._scenario.steps
        for kind, row in itertools.groupby(steps, key=lambda step: step.kind):
            if kind == "client":
                await self._send(list(row))
            else:
                for step in row:
                    await self._act(step)
        if not steps or steps[-1].kind != "closed":
            self._line.end()
            await self._expect_end(steps[-1] if steps else Step("closed"))

    async def _send(self, steps: Sequence[Step]) -> None:
        data = bytearray()
        for step in steps:
            try:
                data += step.data(self._challenge)
            except ValueError as error:
                raise self._difference(step, f"no answer to this challenge: {error}") from error
        await self._line.send(bytes(data))
        self._played += map(line_of, steps)

    async def _act(self, step: Step) -> None:
        match step.kind:
            case "server" if step.text.split(" ")[0] == _ANY_EHLO:
                await self._hear_ehlo(step)
            case "server":
                said = await self._hear(step)
                if said is None or not matches(step.text, said):
                    raise self._difference(step, said)
                self._note(said)
            case "tls":
                try:
                    await self._line.secure(self._tls)
                except (OSError, EOFError) as error:
                    raise self._difference(step, f"no TLS: {error}") from error
                self._played.append("T:")
            case "eof":
                self._line.end()
                self._played.append("E:")
            case "event":
                await self._line.happen(step.text)
                self._played.append(line_of(step))
            case _:
                await self._expect_end(step)

    async def _hear(self, step: Step) -> str | None:
        try:
            return await self._line.hear()
        except TimeoutError:
            raise self._difference(step, f"nothing within {self._line.timeout:g} s") from None

    async def _hear_ehlo(self, step: Step) -> None:
        """Read the whole reply to EHLO, and look for the keywords that the step names."""
        offered: set[str] = set()
        said: str | None = "-"
        while said is not None and said[3:4] in ("-", ""):
            said = await self._hear(step)
            if said is None or not said.startswith(("250-", "250 ")):
                raise self._difference(step, said)
            self._note(said)
            offered.add(said[4:].partition(" ")[0].upper())
        for word in step.text.split()[1:]:
            keyword = word.removeprefix("!").upper()
            if (keyword in offered) == word.startswith("!"):
                verb = "offered" if keyword in offered else "not offered"
                raise self._difference(step, f"{keyword} is {verb}")

    def _note(self, said: str) -> None:
        self._played.append(f"S: {said}")
        if said.startswith("334 "):
            with contextlib.suppress(binascii.Error):  # a server may ask in plain text
                self._challenge = base64.b64decode(said[4:])

    async def _expect_end(self, step: Step) -> None:
        said = await self._hear(Step("closed", line=step.line))
        if said is not None:
            raise self._difference(Step("closed", line=step.line), said)
        self._played.append("X:")

    def _difference(self, step: Step, said: str | None) -> DialogueError:
        place = f"{self._scenario.source or 'line'}:{step.line}"
        if said is None:
            said = "(the connection is closed)"
        elif step.kind != "server" or not said[:3].isdigit():
            said = said if said[:3].isdigit() else f"({said})"
        shown = [f"  {_shown(each)}" for each in self._played[-_SHOWN:]]
        more = [f"  ... {hidden} lines"] if (hidden := len(self._played) - _SHOWN) > 0 else []
        expected = "(the end)" if step.kind == "closed" else line_of(step)
        lines = [*more, *shown, f"- {_shown(expected)}", f"+ S: {_shown(said)}"]
        return DialogueError("\n".join([f"{self._scenario} ({place})", *lines]))


def _shown(text: str) -> str:
    """Return text for a terminal: printable, and not too long."""
    cut = text if len(text) <= _WIDE else f"{text[:_WIDE]}…"
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in cut)


def _compare(scenario: Scenario, accepted: Sequence[Received]) -> None:
    """Raise `DialogueError` if the messages are not those of the scenario, if it has any."""
    if not scenario.messages or list(accepted) == scenario.messages:
        return
    difference = difflib.unified_diff(
        list(_described(scenario.messages)),
        list(_described(accepted)),
        "expected",
        "accepted",
        lineterm="",
        n=3,
    )
    raise DialogueError("\n".join([f"{scenario}: other messages", *map(_shown, difference)]))


def _described(messages: Iterable[Received]) -> list[str]:
    lines = []
    for sender, recipients, body in messages:
        lines.append(f"M: from <{sender}>")
        lines.append(f"M: to {' '.join(f'<{each}>' for each in recipients)}")
        lines += [f"M<: {escaped(line)}" for line in body.splitlines(keepends=True)]
    return lines
