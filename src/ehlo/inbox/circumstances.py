"""Circumstances of a mail, as the API and the pages show them: its session, envelope and answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ehlo.message import Message
from ehlo.protocol.reply import Disconnect, Reject, Reply
from ehlo.session import Session


def facts_of(session: Session) -> dict[str, object]:
    """Return what the API and the pages show about a session."""
    tls = session.tls
    return {
        "session": session.id,
        "peer": str(session.peer),
        "local": str(session.local),
        "helo": session.helo,
        "esmtp": session.esmtp,
        "tls": None if tls is None else {"version": tls.version, "cipher": tls.cipher},
    }


def facts_of_message(message: Message) -> dict[str, object]:
    """Return what they show about an envelope; `received` is put on top of a message's source."""
    return {
        "params": {
            "mail": _as_texts(message.sender.params),
            "rcpt": [_as_texts(each.params) for each in message.recipients],
        },
        "received": message.trace.decode("ascii", "replace"),
    }


def _as_texts(params: Mapping[str, Any]) -> dict[str, str]:
    if not params:
        return {}
    return {
        name: ",".join(sorted(value)) if isinstance(value, frozenset) else str(value)
        for name, value in params.items()
    }


def described(result: object) -> str:
    """Return the answer of a handler as text for a person."""
    match result:
        case Reply():
            return str(result)
        case Reject():
            return str(result.reply)
        case Disconnect():
            return "the connection was closed"
        case Exception():
            return f"451 4.3.0 (it raised {type(result).__name__}: {result})"
        case str():
            return f"250 2.0.0 Ok: queued as {result}"
        case False:
            return "554 5.7.1"
        case Mapping():
            return "; ".join(f"{path}: {described(each)}" for path, each in result.items())
        case _:
            return "250 2.0.0 Ok: queued"
