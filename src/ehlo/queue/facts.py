"""Facts as JSON: what a session and an envelope were when the mail came, stored and made again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from ehlo.message import Message
from ehlo.net import Peer
from ehlo.protocol.address import NO_PARAMETERS, Address, Parameters
from ehlo.protocol.conversation import ADMISSION, Conversation
from ehlo.protocol.output import Output, Tally
from ehlo.protocol.parameters import DeliverBy, OriginalRecipient, Rrvs
from ehlo.protocol.proxy import ProxySSL
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts
from ehlo.queue.entries import Arrival
from ehlo.session import ProxyInfo, Session, TLSInfo

_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True)
_KIND: Final = "$"  # the key of a value that JSON has not
_SETTINGS: Final = Settings()


def encode(value: object) -> str:
    """Return a value as JSON. A value that JSON cannot hold becomes its text."""
    return _JSON.encode(_plain(value))


def decode(text: str) -> object:
    """Return the value that `encode` wrote."""
    return _typed(json.loads(text))


def _plain(value: object) -> object:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {_KIND: "bytes", "of": value.hex()}
        case frozenset():
            return {_KIND: "set", "of": sorted(map(str, value))}
        case datetime():
            return {_KIND: "time", "of": value.isoformat()}
        case OriginalRecipient():
            return {_KIND: "ORCPT", "of": [value.addr_type, value.address]}
        case DeliverBy():
            return {_KIND: "BY", "of": list(value)}
        case Rrvs():
            return {_KIND: "RRVS", "of": [value.since.isoformat(), value.action]}
        case Mapping():
            return {str(name): _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return str(value)


def _typed(value: object) -> object:
    if isinstance(value, list):
        return [_typed(each) for each in value]
    if not isinstance(value, dict):
        return value
    of: Any = value.get("of")
    match value.get(_KIND):
        case "bytes":
            return bytes.fromhex(of)
        case "set":
            return frozenset(of)
        case "time":
            return datetime.fromisoformat(of)
        case "ORCPT":
            return OriginalRecipient(*of)
        case "BY":
            return DeliverBy(*of)
        case "RRVS":
            return Rrvs(datetime.fromisoformat(of[0]), of[1])
        case _:
            return {name: _typed(each) for name, each in value.items()}


def encode_address(address: Address) -> str:
    """Return an address with its parameters as JSON."""
    parts: list[object] = [address.local, address.domain]
    if address.params:
        parts.append(address.params)
    return encode(parts)


def decode_address(text: str) -> Address:
    """Return the address that `encode_address` wrote."""
    local, domain, *params = json.loads(text)
    found = _typed(params[0]) if params else None
    typed: Parameters = MappingProxyType(found) if isinstance(found, dict) else NO_PARAMETERS
    return Address(local, domain, typed)


def arrival_of(session: Session, message: Message) -> Arrival:
    """Return what is stored of a message in addition to its body."""
    return Arrival(
        message.id,
        encode_address(message.sender),
        [encode_address(each) for each in message.recipients],
        encode_session(session),
        message.size,
        message.trace,
        encode([message.sender, message.recipients]).encode(),
    )


def body_of(message: Message) -> Iterator[bytes]:
    """Yield the body of a message in chunks, without the trace field before it."""
    skip = len(message.trace)
    for chunk in message.stream():
        if skip < len(chunk):
            yield chunk[skip:]
        skip = max(0, skip - len(chunk))


def encode_session(session: Session) -> str:
    """Return the facts about a client as JSON: all but `state` and the transcript."""
    facts: dict[str, object] = {
        "id": session.id,
        "peer": session.peer,
        "local": session.local,
        "helo": session.helo,
        "esmtp": session.esmtp,
    }
    for name in ("user", "rdns", "tls"):
        if value := getattr(session, name):
            facts[name] = value
    if session.xclient:
        facts["xclient"] = session.xclient
    if session.forwarded:
        facts["forwarded"] = session.forwarded
    if session.proxy is not None:
        tlvs = [[kind, value] for kind, value in session.proxy.tlvs.items()]
        facts["proxy"] = session.proxy._replace(tlvs={})
        facts["tlvs"] = tlvs
    return encode(facts)


def decode_session(text: str) -> Session:
    """Return a session with the facts of its time, an empty `state` and no transaction."""
    facts = decode(text)
    if not isinstance(facts, dict):
        raise TypeError("not the facts of a session")
    conversation = _conversation()
    conversation.helo, conversation.esmtp = facts["helo"], facts["esmtp"]
    conversation.xclient = facts.get("xclient", {})
    conversation.forwarded = facts.get("forwarded")
    proxy = _proxy(facts["proxy"], facts["tlvs"]) if "proxy" in facts else None
    ends = Peer(*facts["peer"]), Peer(*facts["local"])
    session = Session(facts["id"], *ends, conversation, proxy)
    session.user, session.rdns = facts.get("user"), facts.get("rdns", "")
    session.tls = TLSInfo(*facts["tls"]) if "tls" in facts else None
    return session


def _proxy(values: Sequence[object], tlvs: Sequence[tuple[int, bytes]]) -> ProxyInfo:
    peer, version, command, authority, unique_id, ssl, alpn, _ = values
    return ProxyInfo(
        Peer(*peer),  # type: ignore[misc]  # as `encode_session` wrote them, and the rest
        version,  # type: ignore[arg-type]
        command,  # type: ignore[arg-type]
        authority,  # type: ignore[arg-type]
        unique_id,  # type: ignore[arg-type]
        None if ssl is None else ProxySSL(*ssl),  # type: ignore[misc]
        alpn,  # type: ignore[arg-type]
        dict(tlvs),
    )


def _conversation() -> Conversation:
    """Return a conversation without a client, which holds the facts of one that was."""
    counts = Counts()
    return Conversation(
        _SETTINGS,
        str,
        Output(_SETTINGS, counts, Tally(), None),
        counts,
        asks=frozenset(),
        tls=False,
        greet=False,
        trusted=frozenset(),
        bindings={},
        certificate=None,
        admission=ADMISSION,
    )
