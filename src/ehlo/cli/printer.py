"""The handler of `ehlo` without a command: prints each message, for a person or as JSON."""

from __future__ import annotations

import base64
import codecs
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TextIO

import click

from ehlo.cli.readable import bytes_of, described, one_line, shortened, slices
from ehlo.content import read_content
from ehlo.handler import Handler
from ehlo.message import Message
from ehlo.protocol.reply import Reject
from ehlo.server.server import Server
from ehlo.session import Session

_PIECE = 98_304  # bytes of a body that are written at once; three bytes are four of base64

Form = Callable[[Session, Message, datetime], Iterator[str]]
"""Yields the text to print for a message, with its line end."""


class Printer(Handler):
    """Writes each message to `out` before it is acknowledged.

    If `out` cannot be written to, the server is closed, and `failure` is the error.
    """

    def __init__(self, out: TextIO, form: Form) -> None:
        self._out = out
        self._form = form
        self._lock = threading.Lock()
        self._server: Server | None = None
        self.failure: OSError | None = None

    async def on_startup(self, server: Server) -> None:
        """Called when the server listens."""
        self._server = server

    def on_message(self, session: Session, message: Message) -> str:
        """Called when a message is complete. Returns its id."""
        text = self._form(session, message, datetime.now().astimezone())
        try:
            with self._lock:
                self._out.writelines(text)
                self._out.flush()
        except OSError as error:
            self._fail(error)
            raise Reject(451, "4.3.0", "Cannot write to standard output") from error
        return message.id

    def _fail(self, error: OSError) -> None:
        with self._lock:
            self.failure = self.failure or error
            # the rest of the buffer would be written at exit otherwise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._out.fileno())
            os.close(nowhere)
        if self._server is not None:
            self._server.close()


def wants_color(out: TextIO) -> bool:
    """Return whether `out` is a terminal with colors, and NO_COLOR (no-color.org) is not set."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


# -- for a person ------------------------------------------------------------------------------


def as_text(*, color: bool, encoding: str) -> Form:
    """Return the form for a person: the client, the envelope, the headers, the text."""
    dash = "\u2500" if "utf" in encoding.lower() else "-"

    def style(text: str, **styles: str | bool) -> str:
        return click.style(text, **styles) if color else text  # type: ignore[arg-type]  # by name

    def form(session: Session, message: Message, now: datetime) -> Iterator[str]:
        content = read_content(message.body)
        columns = min(shutil.get_terminal_size().columns, 80)
        yield style(f"{dash * 4} {now:%Y-%m-%d %H:%M:%S} ".ljust(columns, dash), fg="green") + "\n"
        for label, value in _envelope(session, message):
            yield style(f"{label:<6}", dim=True) + one_line(value) + "\n"
        yield "\n"
        for each in content.root.fields:
            name, value = each.decoded_name, each.text
            shown = style(one_line(value), bold=name.lower() == "subject")
            yield style(f"{one_line(name)}:", fg="cyan") + f" {shown}\n"
        if content.omitted_headers:
            yield f"… {content.omitted_headers:,} more header fields\n"
        if content.text.strip("\n"):
            yield "\n"
            yield from shortened(content.text)
            yield "\n"
        if content.omitted:
            yield f"… {bytes_of(content.omitted)} more\n"
        if content.attachments:
            yield "\n"
        for attachment in content.attachments:
            yield style(f"[{one_line(described(attachment))}]", fg="yellow") + "\n"
        yield "\n"

    return form


def _envelope(session: Session, message: Message) -> list[tuple[str, str]]:
    """The facts that are not in the message, by label."""
    return [
        ("peer", ", ".join(_about(session))),
        ("from", str(message.sender) or "<>"),
        *(
            ("to" if index == 0 else "", str(recipient))
            for index, recipient in enumerate(message.recipients)
        ),
        ("size", f"{bytes_of(message.size)}, id {message.id}"),
    ]


def _about(session: Session) -> list[str]:
    facts = [str(session.peer), f"{'EHLO' if session.esmtp else 'HELO'} {session.helo}"]
    if session.tls is not None:
        facts.append(session.tls.version)
    if session.user is not None:
        facts.append(f"logged in as {session.user}")
    return facts


# -- for a program -----------------------------------------------------------------------------


def as_json(session: Session, message: Message, now: datetime) -> Iterator[str]:
    """Yield a message as one JSON object on one line, in ASCII, piece by piece."""
    content, tls = read_content(message.body), session.tls
    facts = json.dumps(
        {
            "id": message.id,
            "time": now.isoformat(timespec="milliseconds"),
            "peer": str(session.peer),
            "helo": session.helo,
            "tls": None if tls is None else {"version": tls.version, "cipher": tls.cipher},
            "user": session.user,
            "sender": str(message.sender),
            "recipients": [str(recipient) for recipient in message.recipients],
            "size": message.size,
        }
    )
    yield _ascii(facts.removesuffix("}"))
    yield ', "headers": ['
    for number, each in enumerate(content.root.fields):
        yield (", " if number else "") + _ascii(json.dumps([each.decoded_name, each.text]))
    yield '], "text": '
    if content.text:
        yield '"'
        for piece in slices(content.text, 0, len(content.text)):
            yield _ascii(json.dumps(piece)[1:-1])
        yield '"'
    else:
        yield "null"
    attachments = [described(attachment) for attachment in content.attachments]
    yield f', "attachments": {_ascii(json.dumps(attachments))}'
    yield from _body(message.body)
    yield "}\n"


def _body(data: bytes) -> Iterator[str]:
    """Yield the body as it was sent, with its header: as text if it is UTF-8, else in base64."""
    try:
        for _ in codecs.iterdecode(_pieces(data), "utf-8"):
            pass
    except UnicodeDecodeError:
        yield ', "body_encoding": "base64", "body": "'
        yield from (base64.b64encode(piece).decode() for piece in _pieces(data))
    else:
        yield ', "body_encoding": "text", "body": "'
        texts = codecs.iterdecode(_pieces(data), "utf-8")
        yield from (_ascii(json.dumps(text)[1:-1]) for text in texts)
    yield '"'


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + _PIECE] for start in range(0, len(data), _PIECE))


def _ascii(text: str) -> str:
    """Escape the only control character that JSON leaves as it is; it stands in strings only."""
    return text.replace("\x7f", "\\u007f")
