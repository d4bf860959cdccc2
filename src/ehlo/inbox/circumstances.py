"""Circumstances of a mail, as the API and the pages show them: its session, envelope and answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ehlo.message import Message
from ehlo.protocol.parameters import DeliverBy, OriginalRecipient, Rrvs
from ehlo.protocol.reply import Disconnect, Reject, Reply
from ehlo.session import Session
from ehlo.store import StoredMessage


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
    return {name: _as_text(value) for name, value in params.items()} if params else {}


def _as_text(value: object) -> str:
    """Return the value of a parameter about as a client sends it; `True` for a flag."""
    match value:
        case frozenset():
            return ",".join(sorted(value))
        case OriginalRecipient():
            return f"{value.addr_type};{value.address}"
        case DeliverBy():
            return f"{value.seconds};{value.mode}{'T' if value.trace else ''}"
        case Rrvs():
            return f"{value.since.isoformat()};{value.action}"
    return str(value)


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


def facts_to_show(stored: StoredMessage) -> dict[str, object]:
    """Return what a page shows of the session of a message; the head of the page has the answer."""
    facts = {name: value for name, value in stored.facts.items() if name != "answer"}
    match facts.get("params"):
        case {"mail": dict() as mail, "rcpt": list() as rcpt}:
            recipients = [
                f"{path} {_as_said(params)}"
                for path, params in zip(stored.rcpt_tos, rcpt, strict=False)
                if isinstance(params, dict) and params
            ]
            del facts["params"]
            facts["Parameters of MAIL"] = _as_said(mail)
            facts["Parameters of RCPT"] = ", ".join(recipients)
    return facts


def _as_said(params: Mapping[str, object]) -> str:
    """Return parameters as a client sends them: `SIZE=300 SMTPUTF8`."""
    return " ".join(name if text == "True" else f"{name}={text}" for name, text in params.items())
