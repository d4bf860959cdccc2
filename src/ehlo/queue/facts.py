"""Facts as JSON: what a session and an envelope were when the mail came, stored and made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

from ehlo.message import Message
from ehlo.net import Peer
from ehlo.protocol.address import NO_PARAMETERS, Address, Parameters
from ehlo.protocol.conversation import Conversation
from ehlo.protocol.output import Output, Tally
from ehlo.protocol.parameters import DeliverBy, OriginalRecipient, Rrvs
from ehlo.protocol.proxy import ProxySSL
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts
from ehlo.queue.entries import Arrival, Envelope
from ehlo.session import ProxyInfo, Session, TLSInfo

_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True)
_READER: Final = json.JSONDecoder()
_QUOTED: Final = json.encoder.encode_basestring_ascii
_PARAMS: Final = attrgetter("params")
_KIND: Final = "$"  # the key of a value that JSON has not
_MARK: Final = f'"{_KIND}"'
_MOST_KEPT: Final = 500  # sessions
_SETTINGS: Final = Settings()


def encode(value: object) -> str:
    """Return a value as JSON. A value that JSON cannot hold becomes its text."""
    return _JSON.encode(_plain(value))


def decode(text: str) -> object:
    """Return the value that `encode` wrote."""
    value = _READER.decode(text)
    return _typed(value) if _MARK in text else value


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
    return f"{_path(address)[:-1]},{encode(address.params)}]" if address.params else _path(address)


def _path(address: Address) -> str:
    return f"[{_QUOTED(address.local)},{_QUOTED(address.domain)}]"


def decode_address(text: str) -> Address:
    """Return the address that `encode_address` wrote."""
    parts = text.split('"')
    if len(parts) == 5 and "\\" not in text:  # mostly; JSON takes three times as long
        return Address(parts[1], parts[3])
    local, domain, *params = _READER.decode(text)
    if not params:
        return Address(local, domain)
    found = _typed(params[0])
    typed: Parameters = MappingProxyType(found) if isinstance(found, dict) else NO_PARAMETERS
    return Address(local, domain, typed)


def arrival_of(session: str, message: Message) -> Arrival:
    """Return what is stored of a message in addition to its body; `session` is JSON."""
    sender, recipients = message.sender, [*message.recipients]
    first, *others = plain = [*map(_path, (sender, *recipients))]
    seed = ",".join(plain).encode()
    envelope: Envelope | None = sender, recipients
    if any(map(_PARAMS, (sender, *recipients))):
        first, others, envelope = encode_address(sender), [*map(encode_address, recipients)], None
    size, trace = message.size, message.trace
    return Arrival(message.id, first, others, session, size, trace, seed, envelope)


def body_of(message: Message) -> Iterator[bytes]:
    """Yield the body of a message in chunks, without the trace field before it."""
    skip = len(message.trace)
    for chunk in message.stream():
        if skip < len(chunk):
            yield chunk[skip:]
        skip = max(0, skip - len(chunk))


class SessionWriter:
    """Writes the facts about clients; those of one that sends more mail are kept."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[tuple[object, ...], str]] = {}

    def write(self, session: Session) -> str:
        """Return the facts about a client as JSON: all but `state` and the transcript."""
        if session.xclient or session.forwarded:  # the latter changes with each message
            return encode_session(session)
        now = (session.helo, session.esmtp, session.user, session.rdns, session.tls, session.peer)
        kept = self._kept.get(session.id)
        if kept is not None and kept[0] == now:
            return kept[1]
        text = encode_session(session)
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[session.id] = now, text
        return text


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


class SessionReader:
    """Reads the facts about clients; those of one that sent more mail are read once."""

    def __init__(self) -> None:
        self._kept: dict[str, Callable[[], Session]] = {}

    def read(self, text: str) -> Session:
        """Return a session with the facts of its time, an empty `state` and no transaction."""
        make = self._kept.get(text)
        if make is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            make = self._kept[text] = _read_session(text)
        return make()


def _read_session(text: str) -> Callable[[], Session]:
    facts = decode(text)
    if not isinstance(facts, dict):
        raise TypeError("not the facts of a session")
    conversation = _conversation()  # nothing changes it any more
    conversation.helo, conversation.esmtp = facts["helo"], facts["esmtp"]
    conversation.xclient = facts.get("xclient", {})
    conversation.forwarded = facts.get("forwarded")
    proxy = _proxy(facts["proxy"], facts["tlvs"]) if "proxy" in facts else None
    peer, local = Peer(*facts["peer"]), Peer(*facts["local"])
    tls = TLSInfo(*facts["tls"]) if "tls" in facts else None
    user, rdns = facts.get("user"), facts.get("rdns", "")

    def make() -> Session:
        session = Session(facts["id"], peer, local, conversation, proxy)
        session.user, session.rdns, session.tls = user, rdns, tls
        return session

    return make


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
    output = Output(_SETTINGS, counts, Tally(), None)
    return Conversation(_SETTINGS, str, output, counts, greet=False)
