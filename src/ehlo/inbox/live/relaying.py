"""Releasing: passes a caught message on to a real server, for recipients that a person names.

The server is the only one that a request can reach. It gets the message as it came, without Bcc and
with a new Date and Message-ID, and either for all recipients or for none.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from email.utils import formatdate, make_msgid
from functools import partial
from typing import Final, TypedDict

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.content.fields import one_line
from ehlo.content.summary import read_mailboxes
from ehlo.inbox.answers import RefusedError, done, elsewhere, read_json, resource
from ehlo.inbox.api.added import own_header
from ehlo.inbox.api.single import find
from ehlo.inbox.desk import Desk
from ehlo.inbox.relay import Relay
from ehlo.store import StoredMessage

MOST_RECIPIENTS: Final = 100
_AT_ONCE: Final = 2  # releases, each with a message in memory
_MOST_WAITING: Final = 8
_PATIENCE: Final = 30.0  # seconds for each step
_LONGEST: Final = 120.0  # seconds in all
_ADDRESS: Final = re.compile(
    r"""(?:[^\s"(),:;<>@\[\]\\\x00-\x1f\x7f]{1,64} | "(?:[^"\\\x00-\x1f\x7f]|\\[ -~]){0,62}")
    @ (?:[\w.-]{1,255} | \[[0-9A-Za-z:.]{2,64}\])""",
    re.VERBOSE,
)
_ENCLOSED: Final = re.compile(r"[^<>\r\n]*<([^<>\r\n]*)>\s*")
_DROPPED: Final = frozenset((b"bcc", b"resent-bcc", b"date", b"message-id", b"return-path"))


class ReleaseRequest(TypedDict):
    """Where a message is released to."""

    To: list[str]
    """The addresses."""


class Relaying:
    """The endpoint of releases."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

    async def release(self, request: Request) -> Response:
        """Pass a message on."""
        found = await find(self._desk, request, most=0)
        wanted = await read_json(request, ReleaseRequest)
        recipients = _recipients_of(wanted["To"])
        relay = self._desk.relay
        if relay is None:
            raise RefusedError("SMTP error: no server to release to; start ehlo with --relay")
        if self._waiting >= _MOST_WAITING:
            raise RefusedError("too many messages are being released; try again later", 503)
        self._waiting += 1
        try:
            async with self._turns, asyncio.timeout(_LONGEST):
                stored = await find(self._desk, request, found.mail.id)
                message = await elsewhere(len(stored.data), partial(outgoing, stored.data))
                await _pass_on(relay, _sender_of(stored), recipients, message)
        except TimeoutError:
            raise RefusedError(f"SMTP error: {relay.host} did not answer in time") from None
        finally:
            self._waiting -= 1
        return done()


def _recipients_of(given: list[str]) -> list[str]:
    """Return the addresses, each once. Raises `RefusedError`."""
    texts = [text.strip() for text in given if text.strip()]
    if not texts:
        raise RefusedError("No valid addresses found")
    if len(texts) > MOST_RECIPIENTS:
        raise RefusedError(f"Too many addresses: at most {MOST_RECIPIENTS}")
    found = []
    for text in texts:
        enclosed = _ENCLOSED.fullmatch(text)
        address = enclosed[1].strip() if enclosed is not None else text
        if _ADDRESS.fullmatch(address) is None:
            raise RefusedError(f"Invalid email address: {one_line(text)[:320]}")
        found.append(address)
    return list(dict.fromkeys(found))


def _sender_of(stored: StoredMessage) -> str:
    """Return the envelope sender: Sender, or the first From, or that of the message."""
    fields = {field.name.lower(): field.value for field in reversed(own_header(stored.data).fields)}
    for name in (b"sender", b"from"):
        boxes = read_mailboxes(fields.get(name, b""))
        if boxes and _ADDRESS.fullmatch(boxes[0].address):
            return boxes[0].address
    return stored.mail_from if _ADDRESS.fullmatch(stored.mail_from) else ""


def outgoing(message: bytes) -> bytes:
    """Return a message as it is released: without Bcc, with a new Date and Message-ID."""
    end = own_header(message).end
    own = f"Date: {formatdate(localtime=True)}\r\nMessage-ID: {make_msgid(domain='ehlo')}\r\n"
    lines = [own.encode()]
    keeps = True
    for line in message[:end].splitlines(keepends=True):
        if line[:1] not in b" \t" or not line.strip():
            keeps = line.partition(b":")[0].strip().lower() not in _DROPPED
        if keeps:
            lines.append(line)
    return b"".join((*lines, message[end:]))


async def _pass_on(relay: Relay, sender: str, recipients: list[str], message: bytes) -> None:
    """Send a message. Raises `RefusedError` with what the server has said, and `TimeoutError`."""
    try:
        import aiosmtplib  # an extra
    except ImportError:
        hint = "pip install 'ehlo[relay]'"
        raise RefusedError(f"SMTP error: releasing needs aiosmtplib: {hint}") from None
    client = aiosmtplib.SMTP(
        hostname=relay.host,
        port=relay.port,
        username=relay.user or None,
        password=relay.password or None,
        use_tls=relay.has_tls,
        start_tls=False if relay.has_tls else (True if relay.must_have_tls else None),
        tls_context=await asyncio.to_thread(_context, verifies=relay.has_tls or bool(relay.user)),
        timeout=_PATIENCE,
    )
    addresses_are_ascii = all(each.isascii() for each in (sender, *recipients))
    try:
        async with client:
            if not addresses_are_ascii and not client.supports_extension("smtputf8"):
                text = f"SMTP error: {relay.host} takes no address that is not ASCII"
                raise RefusedError(text)
            options = [] if addresses_are_ascii else ["SMTPUTF8"]
            if not message.isascii() and client.supports_extension("8bitmime"):
                options.append("BODY=8BITMIME")
            encoding = "ascii" if addresses_are_ascii else "utf-8"
            await client.mail(sender, options=options, encoding=encoding)
            for recipient in recipients:
                await client.rcpt(recipient, encoding=encoding)
            await client.data(message)
    except aiosmtplib.SMTPTimeoutError:
        raise TimeoutError from None
    except aiosmtplib.SMTPResponseException as error:
        raise RefusedError(f"SMTP error: {error.code} {one_line(error.message)[:500]}") from None
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        raise RefusedError(f"SMTP error: {one_line(str(error))[:500]}") from None


def _context(*, verifies: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verifies:  # TLS that a server offers is better than none, with any certificate
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def routes(desk: Desk) -> list[BaseRoute]:
    """Return the route of releases."""
    return [resource("/api/v1/message/{id}/release", POST=Relaying(desk).release)]
