"""Dialogues in files that a mail admin can read, and a player of them on the core alone.

A file holds scenarios, each under a line `== title`:

    = max_size 1000                      a setting of the server, or what a hook answers (see below)
    C: EHLO client.example               what the client says; CRLF is added
    C*3: NOOP                            the same three times
    C<: NOOP\\n                           bytes with \\r \\n \\t \\0 \\\\ \\xHH, and no CRLF added
    S: 250 2.0.0 Ok                      what the server must say, to the letter; `...` ends a
    S*3: 250 2.0.0 Ok                    line of which the rest does not matter
    M: from <a@example.com>              a message that the server must have taken: envelope,
    M: to <b@example.com> <c@d.example>
    M| Subject: hello                    lines of its body (CRLF is added), or
    M<: no line end                      bytes of it
    T:                                   the TLS handshake
    E:                                   the client closes its sending side
    X:                                   the server has closed the connection
    !: idle                              time passes with nothing said (or `drain`: a shutdown)

In C lines `{b64 text}` is base64 (escapes as in `C<`), `{cram user secret}` answers the last
challenge, `{600 * text}` repeats. `{first user}` is SCRAM's first message without a binding, and
`{final SHA-256 user secret}` answers the challenge to it. In S lines `{challenge}` is a challenge
that cannot be foretold, and `{nothing}` makes a blank at the end of a line visible.

Settings are `max_size`, `max_recipients`, `max_recipient_domains`, `max_messages`,
`max_refused_recipients`, `max_errors`, `slow_errors`, `max_idle_commands`, `max_memory`,
`bare_newlines` and `unknown_params` with a value, and `strict_eol`, `lenient_addresses`, `tls`,
`tls_required`, `tls_listener`, `auth_required`, `lmtp`; then

    = auth CRAM-MD5 PLAIN                the mechanisms that the server has
    = open PLAIN                         those that it takes without TLS although it should not
    = trusted XCLIENT XFORWARD           what this client may say
    = own XFOO                           a command of the user's own
    = extensions DSN, DELIVERBY=240, SIZE=off   what is offered by option, what is not
    = user tim tanstaaftanstaaf          a name and its password, or its token
    = certificate tim                    TLS has verified a certificate of that name
    = on rcpt bad@example.com: 550 5.1.1 No such user
    = on deliver full@example.com: 452   what LMTP says for one recipient
    = on message: crash                  a hook fails; `hang`: it never ends; `queued ID`: its id
    = packets as written                 packets matter here: they are not sliced otherwise
    = only server                        what is shown lies above the core (`only core`: below)
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from ehlo.protocol import events, extensions
from ehlo.protocol import reply as replies
from ehlo.protocol.auth.credentials import (
    AnonymousCredentials,
    CertificateCredentials,
    CramMD5Credentials,
    Credentials,
    PasswordCredentials,
    ProvedCredentials,
    TokenCredentials,
)
from ehlo.protocol.auth.keys import salt_of
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.body import BareNewlines
from ehlo.protocol.connection import Connection
from ehlo.protocol.events import Event, Waiting
from ehlo.protocol.extensions import Extension
from ehlo.protocol.policy import Limits
from ehlo.protocol.reply import ProtocolError, Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import Counts
from ehlo.protocol.verbs import QUESTIONS
from support.ways import deliver

__all__ = [
    "APPNAME",
    "HOSTNAME",
    "CorePlayer",
    "Received",
    "Rules",
    "Scenario",
    "Step",
    "load",
    "matches",
    "resolve",
    "scenarios",
]

HOSTNAME = "mx.example.com"
APPNAME = "TestServer"
NOW = datetime(2030, 1, 1, tzinfo=UTC)  # on the core; a server has a clock of its own

DIRECTORY = Path(__file__).parent.parent / "dialogues"

Kind = Literal["client", "server", "tls", "eof", "closed", "event"]

_LINE = re.compile(r"([CS])(?:\*(\d+))?(<)?:(?: (.*))?")
_ON = re.compile(r"([a-z]+)(?: (.+?))?: (.+)")
_REPLY = re.compile(r"(\d{3})(?: ([245]\.\d+\.\d+))?(?: (.*))?")
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}
_PLACE = re.compile(
    rb"\{(?:b64 ([^}]*)|cram (\S+) (\S+)|(\d+) \* ([^}]*)"
    rb"|first (\S+)|final (\S+) (\S+) (\S+))\}"
)

_CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"


class Step(NamedTuple):
    """One line of a dialogue. `text` is what is sent (unresolved), or what is awaited."""

    kind: Kind
    text: str = ""
    raw: bytes = b""
    line: int = 0


class Received(NamedTuple):
    """A message as the server took it."""

    sender: str
    recipients: list[str]
    body: bytes


@dataclass
class Rules:
    """The settings at the top of a scenario."""

    values: dict[str, str] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    mechanisms: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    extensions: dict[str, bool | str] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    answers: dict[tuple[str, str], Reply | str] = field(default_factory=dict)

    def number(self, name: str, default: int) -> int:
        """A setting that is a number."""
        return int(self.values.get(name, default))

    def answer(self, hook: str, argument: str = "") -> Reply | str | None:
        """What a hook says: by its argument, or else for any."""
        return self.answers.get((hook, argument), self.answers.get((hook, "")))

    def delivery(self, recipient: str) -> Reply | None:
        """What LMTP says for a recipient."""
        answer = self.answers.get(("deliver", recipient))
        assert not isinstance(answer, str)
        return answer

    def knows(self, credentials: Credentials) -> bool:
        """Whether a login is good."""
        match credentials:
            case ProvedCredentials(_, proved):
                return proved
            case AnonymousCredentials():
                return True
            case CertificateCredentials(certificate, authzid):
                return authzid in ("", certificate["name"])
            case CramMD5Credentials(username):
                return username in self.users and credentials.matches(self.users[username])
            case PasswordCredentials(username, secret, authzid) | TokenCredentials(
                username, secret, authzid
            ):
                return self.users.get(username) == secret and authzid in ("", username)
            case _:
                raise AssertionError(credentials)

    def add(self, setting: str) -> None:
        """Take the line of a setting."""
        name, _, value = setting.partition(" ")
        match name:
            case "on":
                found = _ON.fullmatch(value)
                if found is None:
                    raise ValueError(f"not a hook's answer: {setting}")
                argument = "" if found[2] is None else found[2]
                self.answers[found[1], argument] = _answer(found[3])
            case "auth":
                self.mechanisms = value.split()
            case "open":
                self.opened = value.split()
            case "extensions":
                self.extensions = dict(_offer(word) for word in value.split(", "))
            case "user":
                user, _, password = value.partition(" ")
                self.users[user] = password
            case _ if value:
                self.values[name] = value
            case _:
                self.flags.add(name)


def _offer(word: str) -> tuple[str, bool | str]:
    name, _, argument = word.partition("=")
    return name, argument != "off" and (argument or True)


def _answer(text: str) -> Reply | str:
    if text in ("crash", "hang"):
        return text
    if text.startswith("queued "):
        return text.removeprefix("queued ")
    found = _REPLY.fullmatch(text)
    if found is None:
        raise ValueError(f"not a reply: {text}")
    return Reply(int(found[1]), found[2], (found[3] or "").replace("\\n", "\n"))


@dataclass
class Scenario:
    """One session."""

    path: Path
    title: str
    rules: Rules = field(default_factory=Rules)
    steps: list[Step] = field(default_factory=list)
    messages: list[Received] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.path.stem}: {self.title}"

    @property
    def as_written(self) -> bool:
        """Whether the packets are part of what is shown."""
        return "packets" in self.rules.values

    @property
    def settings(self) -> Settings:
        """What the core is told."""
        rules = self.rules
        return Settings(
            hostname=HOSTNAME,
            appname=APPNAME,
            max_size=rules.number("max_size", 33_554_432),
            max_recipients=rules.number("max_recipients", 100),
            max_recipient_domains=rules.number("max_recipient_domains", 0),
            max_messages=rules.number("max_messages", 1000),
            tls_available=bool(rules.flags & {"tls", "tls_required", "tls_listener"})
            and rules.extensions.get("STARTTLS") is not False,
            tls_required="tls_required" in rules.flags,
            auth_required="auth_required" in rules.flags,
            mechanisms={
                name: row
                for name, row in MECHANISMS.items()
                if name in rules.mechanisms and rules.extensions.get("AUTH") is not False
            },
            open_mechanisms=frozenset(rules.opened),
            bare_newlines=BareNewlines(rules.values.get("bare_newlines", "normalize")),
            strict_eol="strict_eol" in rules.flags,
            lenient_addresses="lenient_addresses" in rules.flags,
            ignore_unknown_params=rules.values.get("unknown_params") == "ignore",
            lmtp="lmtp" in rules.flags,
            limits=Limits(
                slow_errors=rules.number("slow_errors", 10),
                errors=rules.number("max_errors", 20),
                refused_recipients=(
                    rules.number("max_refused_recipients", 0)
                    if "max_refused_recipients" in rules.values
                    else None
                ),
                idle_commands=rules.number("max_idle_commands", 100),
            ),
            extensions=extensions.rows(rules.extensions, self.own_extensions, lambda: NOW),
        )

    @property
    def own_extensions(self) -> list[Extension]:
        """A row for each command of the user's own."""
        verbs = self.rules.values.get("own", "").split()
        return [Extension(verb, 0, verbs=(verb,)) for verb in verbs]

    def phases(self) -> Iterator[list[Step]]:
        """The steps, cut where the client has to wait: at a handshake, or when time passes."""
        phase: list[Step] = []
        for step in self.steps:
            if step.kind in ("tls", "event"):
                yield phase
                phase = []
            phase.append(step)
        yield phase


def load(path: Path) -> list[Scenario]:
    """The scenarios of a file. Raises `ValueError` with the line that is wrong."""
    found: list[Scenario] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            if line.startswith("== "):
                found.append(Scenario(path, line[3:]))
            else:
                _take(found[-1], line, number)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path.name}:{number}: {line!r}: {error}") from error
    return found


def _take(scenario: Scenario, line: str, number: int) -> None:
    mark, rest = line[:2], line[2:].removeprefix(" ")
    said = _LINE.fullmatch(line)
    if mark == "= ":
        scenario.rules.add(line[2:])
    elif said is not None:
        scenario.steps += _said(said, number)
    elif mark in ("M:", "M|", "M<"):
        _message(scenario, line)
    elif mark in ("T:", "E:", "X:"):
        kinds: dict[str, Kind] = {"T:": "tls", "E:": "eof", "X:": "closed"}
        scenario.steps.append(Step(kinds[mark], line=number))
    elif mark == "!:" and rest in ("idle", "drain"):
        scenario.steps.append(Step("event", rest, line=number))
    else:
        raise ValueError("no such line")


def _said(said: re.Match[str], number: int) -> list[Step]:
    text, times = said[4] or "", int(said[2] or 1)
    if said[1] == "S":
        return [Step("server", text, line=number)] * times
    raw = unescaped(text.encode()) if said[3] else text.encode() + b"\r\n"
    return [Step("client", text, raw, number)] * times


def _message(scenario: Scenario, line: str) -> None:
    if line.startswith("M: from "):
        scenario.messages.append(Received(line[8:].strip("<>"), [], b""))
        return
    message = scenario.messages[-1]
    if line.startswith("M: to "):
        message.recipients.extend(re.findall(r"<(.*?)>(?= <|$)", line[6:]))
    elif line.startswith("M|"):
        body = line[2:].removeprefix(" ").encode() + b"\r\n"
        scenario.messages[-1] = message._replace(body=message.body + body)
    else:
        body = message.body + resolve(unescaped(line[3:].removeprefix(" ").encode()), b"")
        scenario.messages[-1] = message._replace(body=body)


def unescaped(text: bytes) -> bytes:
    """The bytes that are meant by `text`."""
    return _ESCAPE.sub(
        lambda found: bytes([int(found[1], 16)]) if found[1] else _ESCAPES[found[2]], text
    )


def resolve(raw: bytes, challenge: bytes) -> bytes:
    """What is sent, with its placeholders replaced; `challenge` is the server's last."""

    def replaced(found: re.Match[bytes]) -> bytes:
        if found[1] is not None:
            return base64.b64encode(unescaped(found[1]))
        if found[2] is not None:
            digest = hmac.new(found[3], challenge, hashlib.md5).hexdigest().encode()
            return base64.b64encode(found[2] + b" " + digest)
        if found[6] is not None:
            return base64.b64encode(f"n,,n={found[6].decode()},r={_CLIENT_NONCE}".encode())
        if found[7] is not None:
            return base64.b64encode(_final(challenge, *(found[i].decode() for i in (7, 8, 9))))
        return found[5] * int(found[4])

    return _PLACE.sub(replaced, raw)


def _final(challenge: bytes, algorithm: str, user: str, secret: str) -> bytes:
    """SCRAM's last message, for `challenge`, or for the one that the core would have made."""
    if not challenge.startswith(b"r="):
        salt = base64.b64encode(salt_of(b"", algorithm, user)).decode()
        challenge = f"r={_CLIENT_NONCE}{CorePlayer.NONCE},s={salt},i=4096".encode()
    nonce, salt_text, _ = challenge.decode().split(",")
    unproved = f"c=biws,{nonce}"
    message = f"n={user},r={_CLIENT_NONCE},{challenge.decode()},{unproved}".encode()
    digest = algorithm.replace("-", "").lower()
    salted = hashlib.pbkdf2_hmac(digest, secret.encode(), base64.b64decode(salt_text[2:]), 4096)
    client_key = hmac.digest(salted, b"Client Key", digest)
    signature = hmac.digest(hashlib.new(digest, client_key).digest(), message, digest)
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return f"{unproved},p={base64.b64encode(proof).decode()}".encode()


def matches(expected: str, said: str) -> bool:
    """Whether a line of the server is the one that was awaited."""
    expected = expected.replace("{nothing}", "")
    if "{challenge}" in expected:
        pattern = re.escape(expected).replace(r"\{challenge\}", "[A-Za-z0-9+/]{20,}={0,2}")
        return re.fullmatch(pattern, said) is not None
    if expected.endswith("..."):
        return said.startswith(expected[:-3])
    return said == expected


def scenarios() -> list[Scenario]:
    """All of them."""
    return [scenario for path in sorted(DIRECTORY.glob("*.smtp")) for scenario in load(path)]


class CorePlayer:
    """The core, with a scenario's hooks answered at once. It stands for the server's driver."""

    NONCE = "0123456789abcdef"
    CHALLENGE = f"<{NONCE}@{HOSTNAME}>".encode()

    def __init__(
        self,
        settings: Settings,
        rules: Rules,
        asks: frozenset[type] = QUESTIONS,
        *,
        usual: bool = True,
    ) -> None:
        """Unless `usual`, each packet takes the general way into the core."""
        self._settings = settings
        self._asks = asks
        self._usual = usual
        self._rules = rules
        self._memory = rules.number("max_memory", 2**62)
        self._draining = False
        self._body = b""
        self.messages: list[Received] = []
        self.output = b""
        self.closed = False
        listener = "tls_listener" in rules.flags
        self.connection = self._connect(tls=listener, greet=True)
        if listener:
            self._secured()
        self._advance()

    @classmethod
    def of(cls, scenario: Scenario, *, ask_all: bool = True, usual: bool = True) -> CorePlayer:
        """A player with the settings and hooks of a scenario.

        Unless `ask_all`, the core asks only about what a hook is for, as it does in a server.
        """
        hooks = {hook for hook, _ in scenario.rules.answers}
        asks = {kind for kind in QUESTIONS if ask_all or kind.__name__.lower() in hooks}
        return cls(scenario.settings, scenario.rules, frozenset(asks), usual=usual)

    def _connect(self, *, tls: bool, greet: bool, counts: Counts | None = None) -> Connection:
        name = self._rules.values.get("certificate")
        return Connection(
            self._settings,
            lambda: self.NONCE,
            tls=tls,
            greet=greet,
            counts=counts,
            asks=self._asks,
            trusted=frozenset(self._rules.values.get("trusted", "").split()),
            certificate={"name": name} if tls and name is not None else None,
        )

    def feed(self, data: bytes) -> None:
        """What the client sends in one packet."""
        if not self.closed:
            self._advance(deliver(self.connection, data, usual=self._usual))

    def eof(self) -> None:
        """The client ends."""
        self.connection.receive_eof()
        self._advance()

    def handshake(self) -> None:
        """STARTTLS has been answered, and TLS is there."""
        self.connection = self._connect(tls=True, greet=False, counts=self.connection.counts)
        self._secured()
        self._advance()

    def _secured(self) -> None:
        answer = self._rules.answer("tls", "")
        if isinstance(answer, Reply):
            self.connection.refuse(answer)

    def event(self, name: str) -> None:
        """Something that the core is told by what is above it."""
        if name == "idle":
            self.connection.hang_up(self._settings.timed_out)
        else:
            self._draining = True
        self._advance()

    def _advance(self, event: Event | Waiting | None = None) -> None:
        """Answer all events; `event` is the first one, if it is known."""
        while not self.closed:
            event = event or self.connection.next_event()
            if isinstance(event, Waiting):
                break
            self._on(event)
            event = None
        if self._draining and not self.closed and not self.connection.in_transaction:
            self._draining = False
            self.connection.hang_up(replies.DRAINING)
            self._advance()
        self.output += self.connection.data_to_send()

    def _on(self, event: Event) -> None:
        connection = self.connection
        match event:
            case events.Close():
                self.closed = True
            case events.Tarpit():
                connection.resume()
            case events.Full():
                pass
            case events.BodyChunk(data):
                self._body += data
                if len(self._body) + 64 > self._memory:
                    connection.refuse_body(replies.NO_MEMORY)
                    self._body = b""
            case events.BodyRefused() | events.BodyDropped():
                self._body = b""
            case events.XClient():
                connection.reply()
            case events.Secret(_, username) if self._rules.answer("auth", username) is None:
                connection.give_secret(self._rules.users.get(username))
            case _:
                try:
                    self._reply(event, self._answer(event))
                except ProtocolError:  # a reply that answers no such question
                    connection.reply(_trouble(event, crashed=True))

    def _reply(self, event: Event, answer: Reply | None) -> None:
        """In LMTP with an answer for each recipient, where the scenario has some."""
        if isinstance(event, events.MessageEnd) and self._settings.lmtp and answer is None:
            recipients = event.transaction.recipients
            self.connection.reply_each([self._rules.delivery(str(each)) for each in recipients])
        else:
            self.connection.reply(answer)

    def _answer(self, event: Event) -> Reply | None:
        if isinstance(event, events.MessageEnd) and event.body is not None:
            self._body = event.body
            if len(self._body) + 64 > self._memory:
                return replies.NO_MEMORY
        answer = self._rules.answer(*_hook_of(event))
        if isinstance(event, events.Auth) and answer is None:
            return None if self._rules.knows(event.credentials) else replies.BAD_CREDENTIALS
        if answer in ("crash", "hang"):
            self._body = b"" if isinstance(event, events.MessageEnd) else self._body
            return _trouble(event, crashed=answer == "crash")
        if isinstance(event, events.MessageEnd):
            body, self._body = self._body, b""
            if not isinstance(answer, Reply) or not answer.refuses:
                transaction = event.transaction
                recipients = [str(recipient) for recipient in transaction.recipients]
                self.messages.append(Received(str(transaction.sender), recipients, body))
        return replies.queued_as(answer) if isinstance(answer, str) else answer


def _hook_of(event: Event) -> tuple[str, str]:
    match event:
        case events.Hello(name):
            return "hello", name
        case events.Mail(sender):
            return "mail", str(sender)
        case events.Rcpt(recipient):
            return "rcpt", str(recipient)
        case events.Vrfy(text, _):
            return "vrfy", text
        case events.Secret(_, username):
            return "auth", username
        case events.Auth(_, credentials):
            return "auth", getattr(credentials, "username", "")
        case events.MessageEnd():
            return "message", ""
        case events.Command(verb, argument):
            return "command", f"{verb} {argument}".strip()
        case _:
            return type(event).__name__.lower(), ""


def _trouble(event: Event, *, crashed: bool) -> Reply:
    match event:
        case events.Connect():
            return replies.CONNECT_TROUBLE
        case events.Auth() | events.Secret():
            return replies.AUTH_TROUBLE
        case _:
            return replies.TROUBLE if crashed else replies.HANDLER_TIMEOUT
