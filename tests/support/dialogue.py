"""Dialogues of tests/dialogues, in the format of `ehlo.testing.dialogue`, and their settings.

A setting is a line `= name value`. It is an option of the server, or what a hook answers:

    = max_size 1000                      an option

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

A line `!: idle` lets time pass with nothing said, and `!: drain` is a shutdown.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

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
from ehlo.testing import dialogue
from ehlo.testing.dialogue import Received, Step, matches
from ehlo.transcript import Transcript
from support.ways import deliver

__all__ = [
    "APPNAME",
    "HOSTNAME",
    "CorePlayer",
    "Received",
    "Rules",
    "Scenario",
    "Step",
    "matches",
    "resolve",
    "scenarios",
]

HOSTNAME = "mx.example.com"
APPNAME = "TestServer"
NOW = datetime(2030, 1, 1, tzinfo=UTC)  # on the core; a server has a clock of its own

DIRECTORY = Path(__file__).parent.parent / "dialogues"

_ON = re.compile(r"([a-z]+)(?: (.+?))?: (.+)")
_REPLY = re.compile(r"(\d{3})(?: ([245]\.\d+\.\d+))?(?: (.*))?")
_FINAL = re.compile(r"\{final (\S+) (\S+) ")


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
class Scenario(dialogue.Scenario):
    """One session, with its settings."""

    rules: Rules = field(init=False)

    def __post_init__(self) -> None:
        self.rules = Rules()
        for setting in self.given:
            self.rules.add(setting)

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


def scenarios() -> list[Scenario]:
    """All of them."""
    return [
        Scenario(**vars(each))
        for path in sorted(DIRECTORY.glob("*.smtp"))
        for each in dialogue.load(path)
    ]


def resolve(step: Step, challenge: bytes) -> bytes:
    """What is sent, with its places filled; `challenge` is the server's last.

    Without one, SCRAM's last message is for the challenge that the core would have made.
    """
    final = _FINAL.search(step.text)
    if final is not None and not challenge.startswith(b"r="):
        salt = base64.b64encode(salt_of(b"", final[1], final[2])).decode()
        nonce = base64.b64decode(Step("client", "{first x}").data()).decode().partition(",r=")[2]
        challenge = f"r={nonce}{CorePlayer.NONCE},s={salt},i=4096".encode()
    return step.data(challenge)


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
        transcript: Transcript | None = None,
    ) -> None:
        """Unless `usual`, each packet takes the general way into the core."""
        self._transcript = transcript
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
    def of(
        cls,
        scenario: Scenario,
        *,
        ask_all: bool = True,
        usual: bool = True,
        transcript: Transcript | None = None,
    ) -> CorePlayer:
        """A player with the settings and hooks of a scenario.

        Unless `ask_all`, the core asks only about what a hook is for, as it does in a server.
        """
        hooks = {hook for hook, _ in scenario.rules.answers}
        asks = {kind for kind in QUESTIONS if ask_all or kind.__name__.lower() in hooks}
        rules, questions = scenario.rules, frozenset(asks)
        return cls(scenario.settings, rules, questions, usual=usual, transcript=transcript)

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
            transcript=self._transcript,
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
            self._body += event.body
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
