"""The handler of `ehlo` without a command: prints each message, for a person or as JSON."""

from __future__ import annotations

import base64
import codecs
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, TextIO

import click

from ehlo import paths
from ehlo.calling import call_hook
from ehlo.cli.readable import (
    cut,
    described,
    one_line,
    plural,
    shortened,
    size_of,
    slices,
    wants_color,
)
from ehlo.content import Attachment, Content, read_content
from ehlo.handler import Callbacks, Composed, Handler
from ehlo.message import Message
from ehlo.protocol.address import Address
from ehlo.protocol.reply import Reject
from ehlo.server.observing.journal import note
from ehlo.server.server import Server
from ehlo.session import Session

_PIECE: Final = 98_304  # bytes of a body that are written at once; three bytes are four of base64
_LINES: Final = 1_000  # of a text that are printed without --max-lines
_LINES_ON_A_TERMINAL: Final = 200
_ROWS_OF_A_FIELD: Final = 4  # on a terminal
_NAMES_RECIPIENTS: Final = frozenset(("to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc"))
_FACTS: Final = ("filename", "content_type", "size", "disposition", "content_id", "subject")
_BETWEEN_ADDRESSES: Final = re.compile(r"[\s<>,;:()]+")

logger: logging.Logger = logging.getLogger("ehlo.server")

Form = Callable[[Session, Message, datetime, str], Iterator[str]]
"""Yields the text to print for a message with an id, with its line end."""


class Printer(Handler):
    """Writes each message to `out` before it is acknowledged, and to a file in `directory`.

    If `out` cannot be written to, the server is closed, and `failure` is the error.
    """

    def __init__(self, out: TextIO, form: Form, directory: str | None = None) -> None:
        self._out = out
        self._form = form
        self._directory = directory
        self._lock = threading.Lock()
        self._server: Server | None = None
        self.failure: OSError | None = None

    async def on_startup(self, server: Server) -> None:
        """Called when the server listens."""
        self._server = server

    async def on_mail(self, session: Session, _sender: Address, _params: Any) -> None:
        """Called for MAIL."""
        session.state.sends = True

    async def on_disconnect(self, session: Session) -> None:
        """Called when a client has left. One that sent nothing may have missed an extension."""
        if not session.esmtp or session.user is not None or hasattr(session.state, "sends"):
            return
        missed = "" if self._server is None else self._missing(self._server, session)
        if missed:
            event = f"left after EHLO; it may have wanted {missed}"
            about = {"session": session.id, "peer": str(session.peer), "helo": session.helo}
            note(logger, event, about)

    def _missing(self, server: Server, session: Session) -> str:
        """Return the extensions that a client may expect and was not offered; `""` if none."""
        options = server.options
        has = {
            "STARTTLS": session.tls is not None or options.tls_config is not None,
            "AUTH": "on_auth" in vars(self) or options.auth_file is not None,
        }
        return " or ".join(name for name, offered in has.items() if not offered)

    def behind(self, callbacks: Callbacks) -> Handler:
        """Return a handler that prints what `on_message` of `callbacks` has accepted."""
        accept = callbacks.by_name["on_message"]

        async def on_message(session: Session, message: Message) -> object:
            mail_id = await call_hook(accept, (session, message))
            await call_hook(self._print, (session, message, mail_id))
            return mail_id

        hooks = {**callbacks.by_name, "on_message": on_message}
        return Composed(replace(callbacks, by_name=hooks))

    def on_message(self, session: Session, message: Message) -> str:
        """Called when a message is complete. Returns its id."""
        self._print(session, message, message.id)
        return message.id

    def _print(self, session: Session, message: Message, mail_id: str) -> None:
        now = datetime.now().astimezone()
        if self._directory is not None:
            _save(self._directory, message, now)
        text = self._form(session, message, now, mail_id)
        try:
            with self._lock:
                self._out.writelines(text)
                self._out.flush()
        except OSError as error:
            self._fail(error)
            raise Reject(451, "4.3.0", "Cannot write to standard output") from error

    def _fail(self, error: OSError) -> None:
        with self._lock:
            self.failure = self.failure or error
            # the rest of the buffer would be written at exit otherwise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._out.fileno())
            os.close(nowhere)
        if self._server is not None:
            self._server.close()


def _save(directory: str, message: Message, now: datetime) -> None:
    """Write a message to a new file. Raises `Reject` if that fails."""
    name = f"{directory}/{now:%Y%m%d-%H%M%S}-{message.id}.eml"
    try:
        with os.fdopen(paths.create(name), "wb") as file:
            file.writelines(message.stream())
    except OSError as error:
        fields = {"file": name, "reason": error.strerror}
        note(logger, "message not saved", fields, logging.ERROR)
        raise Reject(452, "4.3.1", "Cannot save the message") from error


# -- for a person ------------------------------------------------------------------------------


class AsText:
    """Yields a message for a person: the envelope, the header fields, the text, the attachments.

    At most `max_lines` lines of a text are printed (0: all of them); on a terminal, a line that is
    longer than the terminal is wide counts as several.
    """

    def __init__(self, out: TextIO, max_lines: int | None = None) -> None:
        self._color = wants_color(out)
        self._on_terminal = out.isatty()
        self._dash = "\u2500" if "utf" in (out.encoding or "").lower() else "-"
        usual = _LINES_ON_A_TERMINAL if self._on_terminal else _LINES
        self._most = usual if max_lines is None else max_lines

    def __call__(
        self, session: Session, message: Message, now: datetime, mail_id: str
    ) -> Iterator[str]:
        """Yield the text to print."""
        content = read_content(message.body)
        columns = shutil.get_terminal_size().columns
        width = columns if self._on_terminal and self._most else 0
        yield from self._head(now, columns)
        for label, value, remark in _envelope(session, message, content, mail_id):
            yield self._style(f"{label:<15}", dim=True)
            yield one_line(value) + self._style(remark, dim=True) + "\n"
        yield "\n"
        yield from self._fields(content, width)
        text = content.text
        if text.count("\n") < len(text):
            yield "\n"
            yield from shortened(text, self._most, width)
            yield "\n"
        if content.omitted:
            yield f"… {size_of(content.omitted)} more\n"
        yield from self._attachments(content.attachments)
        yield "\n"

    def _style(self, text: str, **styles: str | bool) -> str:
        wanted: dict[str, Any] = {name: style for name, style in styles.items() if style}
        return click.style(text, **wanted) if self._color and wanted and text else text

    def _head(self, now: datetime, columns: int) -> Iterator[str]:
        line = f"{self._dash * 4} {now:%Y-%m-%d %H:%M:%S} ".ljust(min(columns, 80), self._dash)
        yield self._style(line, fg="green") + "\n"

    def _fields(self, content: Content, width: int) -> Iterator[str]:
        for each in content.root.fields:
            name, value = one_line(each.decoded_name), one_line(each.text)
            if width:
                value = cut(value, max(1, _ROWS_OF_A_FIELD * width - len(name) - 2))
            shown = self._style(value, bold=name.lower() == "subject")
            yield self._style(f"{name}:", fg="cyan") + f" {shown}\n"
        if content.omitted_headers:
            yield f"… {content.omitted_headers:,} more header fields\n"

    def _attachments(self, attachments: Sequence[Attachment]) -> Iterator[str]:
        if attachments:
            yield "\n"
        shown = attachments[: self._most] if self._most else attachments
        for attachment in shown:
            yield self._style(f"[{one_line(described(attachment))}]", fg="magenta") + "\n"
        if len(shown) < len(attachments):
            yield f"… {plural(len(attachments) - len(shown), 'more attachment')}\n"


def _envelope(
    session: Session, message: Message, content: Content, mail_id: str
) -> Iterator[tuple[str, str, str]]:
    """Yield the facts that are not in the message: label, value and remark."""
    yield "envelope from", str(message.sender) or "<>", ""
    hidden = _hidden(message, content)
    for index, recipient in enumerate(message.recipients):
        remark = " (bcc)" if str(recipient) in hidden else ""
        yield "envelope to" if index == 0 else "", str(recipient), remark
    yield "client", ", ".join(_about(session)), ""
    yield "size", f"{size_of(message.size)}, id {mail_id}", ""


def _hidden(message: Message, content: Content) -> frozenset[str]:
    """Return the recipients that no header field names."""
    if content.omitted_headers:
        return frozenset()
    fields = [
        each.text.lower()
        for each in content.root.fields
        if each.decoded_name.lower() in _NAMES_RECIPIENTS
    ]
    named = {word for text in fields for word in _BETWEEN_ADDRESSES.split(text)}
    recipients = map(str, message.recipients)
    return frozenset(
        each
        for each in recipients
        if each.lower() not in named
        and not ('"' in each and any(each.lower() in text for text in fields))
    )


def _about(session: Session) -> list[str]:
    facts = [str(session.peer), f"{'EHLO' if session.esmtp else 'HELO'} {session.helo}"]
    if session.tls is not None:
        facts.append(session.tls.version)
    if session.user is not None:
        facts.append(f"logged in as {session.user}")
    return facts


# -- for a program -----------------------------------------------------------------------------


def as_json(session: Session, message: Message, now: datetime, mail_id: str) -> Iterator[str]:
    """Yield a message as one JSON object on one line, in ASCII, with long texts in pieces."""
    content, tls = read_content(message.body), session.tls
    facts = {
        "id": mail_id,
        "time": now.isoformat(timespec="milliseconds"),
        "peer": str(session.peer),
        "helo": session.helo,
        "tls": None if tls is None else {"version": tls.version, "cipher": tls.cipher},
        "user": session.user,
        "sender": str(message.sender),
        "recipients": [str(recipient) for recipient in message.recipients],
        "size": message.size,
        "headers": [[each.decoded_name, each.text] for each in content.root.fields],
    }
    attachments = [
        {name: getattr(attachment, name) for name in _FACTS} for attachment in content.attachments
    ]
    yield _ascii(json.dumps(facts).removesuffix("}"))
    yield from _string("html", content.html)  # which the content does not keep, as it does the text
    yield from _string("text", content.text or None)
    yield f', "attachments": {_ascii(json.dumps(attachments))}'
    yield from _body(message.body)
    yield "}\n"


def _string(name: str, text: str | None) -> Iterator[str]:
    """Yield a member of an object, in slices."""
    yield f', "{name}": '
    if text is None:
        yield "null"
        return
    yield '"'
    for piece in slices(text, 0, len(text)):
        yield _ascii(json.dumps(piece)[1:-1])
    yield '"'


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
