"""What the servers of these tests serve, in processes of their own: `ehlo serve served:Log`.

What a handler has taken is in the file `SERVED_LOG`, a line a message, before it is acknowledged.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import time
from typing import Any

from ehlo import (
    Address,
    Credentials,
    Handler,
    Message,
    PasswordCredentials,
    Peer,
    Reject,
    Session,
)
from ehlo.server import waits

# Lines for each connection and message would be measured, too
for _name in ("connection", "login", "message", "refusal"):
    logging.getLogger(f"ehlo.{_name}").setLevel(logging.WARNING)

# A minute is long for a test
waits.GRACE = float(os.environ.get("SERVED_GRACE", waits.GRACE))


def note(*words: object) -> None:
    """Write a line to the log."""
    line = " ".join(map(str, words)) + "\n"
    log = os.open(os.environ["SERVED_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(log, line.encode())
    finally:
        os.close(log)


async def drop(remote_addr: Peer, mail_from: str, rcpt_tos: list[str], data: bytes) -> None:
    """Accept each message and write nothing."""


class Log(Handler):
    """Writes a line for each message."""

    async def on_message(self, session: Session, message: Message) -> None:
        note(message.sender)


class LogInThread(Handler):
    """The same, in a thread."""

    def on_message(self, session: Session, message: Message) -> None:
        note(message.sender)


class Streaming(Handler):
    """Writes sender and digest of each message, and never holds a whole one."""

    streams = True

    def on_message(self, session: Session, message: Message) -> None:
        digest = hashlib.sha256()
        skip = len(message.trace)
        for piece in message.stream():
            digest.update(piece[skip:])
            skip = 0
        note(message.sender, digest.hexdigest())


class Whole(Handler):
    """The same, with all bytes in memory."""

    def on_message(self, session: Session, message: Message) -> None:
        octets = memoryview(message.data)[len(message.trace) :]
        note(message.sender, hashlib.sha256(octets).hexdigest())


class Waiting(Handler):
    """Waits at MAIL of `wait@`, knows no user, and accepts each message."""

    async def on_mail(self, session: Session, sender: Address, params: object) -> None:
        if sender.local == "wait":
            await asyncio.Event().wait()

    async def on_secret(self, session: Session, username: str) -> None:
        return None

    async def on_rcpt(self, session: Session, recipient: Address, params: object) -> None:
        str(recipient)  # which is kept

    async def on_message(self, session: Session, message: Message) -> None: ...


class Bad(Handler):
    """Fails as the sender's name says; writes a line for an honest message."""

    async def on_message(self, session: Session, message: Message) -> Any:
        name = message.sender.local.partition("-")[0]
        if name == "hang":
            await asyncio.Event().wait()
        return misbehave(name, message)


class BadInThread(Handler):
    """The same, in a thread."""

    def on_message(self, session: Session, message: Message) -> Any:
        name = message.sender.local.partition("-")[0]
        if name == "hang":
            threading.Event().wait()
        return misbehave(name, message)


def misbehave(name: str, message: Message) -> object:
    """Fail as both handlers do, or write a line."""
    if name == "raise":
        raise ZeroDivisionError("a bug")
    if name == "nonsense":
        return {"no": "answer"}
    if name == "block":
        time.sleep(1.5)
    note(message.sender)
    return None


class Soak(Handler):
    """Accepts, rejects or delays as the names say; writes sender and digest of accepted mail."""

    async def on_auth(self, session: Session, credentials: Credentials) -> str | None:
        good = isinstance(credentials, PasswordCredentials) and credentials.password == "secret"
        return "user" if good else None

    async def on_rcpt(self, session: Session, recipient: Address, params: object) -> None:
        if recipient.local == "nobody":
            raise Reject(550, "5.1.1", "No such user here")

    async def on_message(self, session: Session, message: Message) -> None:
        kind = message.sender.local.partition("-")[0]
        if kind == "later":
            raise Reject(451, "4.2.0", "Not now")
        if kind == "never":
            raise Reject(554, "5.7.1", "No, thank you")
        if kind == "slow":
            await asyncio.sleep(0.05)
        note(message.sender, hashlib.sha256(message.body).hexdigest()[:16])


class Secretive(Handler):
    """Knows the password of everybody."""

    async def on_secret(self, session: Session, username: str) -> str:
        return "wonder"

    async def on_message(self, session: Session, message: Message) -> None:
        note(message.sender)
