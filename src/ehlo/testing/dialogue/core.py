"""Plays a dialogue against the core alone, without a server, a socket or a clock.

Where the core asks a question, the reply that the dialogue expects is the answer: a hook gave it,
and there are no hooks here. All other replies of the core are compared, except for what EHLO
offers, because the rules of the server decide that. They come from the settings of the dialogue and
its EHLO.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ehlo.protocol import Disconnect, Reject, Reply, Responder, Settings, events, extensions
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.body import BareNewlines
from ehlo.protocol.extensions import Extension
from ehlo.protocol.policy import Limits
from ehlo.protocol.responder import Decision
from ehlo.testing.dialogue.playing import Player
from ehlo.testing.dialogue.recorded import USER
from ehlo.testing.dialogue.scenario import Scenario, Step
from ehlo.transcript import Transcript

_NOW: Final = datetime(2030, 1, 1, tzinfo=UTC)
_NONCE: Final = "0123456789abcdef"
_HELLO: Final = ("EHLO ", "LHLO ")
_SERVICE: Final = re.compile(r"22[01](?: 2\.0\.0)? (\S+) (.+) (ESMTP|LMTP) Service .*")
_CODE: Final = re.compile(r"(\d{3})(?:([ -])(?:([245]\.\d+\.\d+) )?(.*))?", re.DOTALL)
_AUTH: Final = re.compile(r"(?i)AUTH +([\w-]+)")
_TRUSTED: Final = ("XCLIENT", "XFORWARD")


@dataclass(frozen=True, slots=True)
class Expected:
    """One reply that a dialogue awaits."""

    lines: tuple[str, ...]
    """Its lines as they are written, without their codes after the first."""
    to_hello: bool
    """Whether it answers EHLO or LHLO."""

    def reply(self) -> Reply | None:
        """Return it as a hook would; `None` if it is none that a hook can give."""
        texts = [_CODE.fullmatch(line.replace("{nothing}", "")) for line in self.lines]
        first = texts[0]
        if first is None or any(each is None for each in texts):
            return None
        text = "\n".join(each[4] or "" for each in texts if each is not None)
        try:
            return Reply(int(first[1]), first[3], text)
        except ValueError:
            return None


def replies_of(steps: Sequence[Step]) -> list[Expected]:
    """Return the replies that a dialogue awaits, in order."""
    found: list[Expected] = []
    lines: list[str] = []
    sent = ""
    for step in steps:
        if step.kind == "client":
            sent = step.text
        elif step.kind == "server":
            lines.append(step.text)
            if step.text[3:4] != "-":
                found.append(Expected(tuple(lines), sent[:5].upper() in _HELLO))
                lines, sent = [], ""
    return found


def for_core(scenario: Scenario) -> Scenario:
    """Return a dialogue that does not compare what EHLO offers."""
    steps: list[Step] = []
    sent, told = "", False
    for step in scenario.steps:
        if step.kind == "client":
            sent, told = step.text, False
        elif step.kind == "server" and sent[:5].upper() in _HELLO and step.text.startswith("250"):
            if not told:
                steps.append(step._replace(text="<ehlo>"))
            told = True
            continue
        steps.append(step)
    return Scenario(scenario.title, steps, given=scenario.given, source=scenario.source)


class CoreLine:
    """A client's line to the core: what `Player` sends and hears, and the decisions in between."""

    timeout: float = 0.0

    def __init__(self, scenario: Scenario, transcript: Transcript | None = None) -> None:
        """Raise `ValueError` for a setting that has no such value."""
        self._replies = replies_of(scenario.steps)
        self._ends = any(step.kind == "closed" for step in scenario.steps)
        self._heard: deque[str] = deque()
        self._count = 0  # of the replies that were heard
        given = Given(scenario)
        self._users = given.users
        self._responder = Responder(
            self._decide,
            given.settings(),
            tls=given.has("tls_listener"),
            transcript=transcript,
            nonce=lambda: _NONCE,
            secret=self._secret,
            trusted=given.trusted,
            certificate=given.certificate,
        )
        self._implicit = given.has("tls_listener")
        self._greeted = not self._implicit or all(step.kind != "tls" for step in scenario.steps)
        if self._greeted:
            self._greet()

    async def send(self, data: bytes) -> None:
        """Send bytes to the core."""
        if not self._responder.awaits_tls:
            self._hear(self._responder.feed(data))

    async def hear(self) -> str | None:
        """Return the next line of the core; `None` if it has closed. Raises `TimeoutError`."""
        if self._heard:
            return self._heard.popleft()
        if self._responder.closed:
            return None
        raise TimeoutError

    async def secure(self, _context: ssl.SSLContext) -> None:
        """Do a TLS handshake that is only simulated. Raises `EOFError` if there can be none now."""
        if self._responder.awaits_tls:
            self._responder.secured()
            self._reject_all(self._next())
        elif not self._greeted:
            self._greeted = True
            self._greet()
        else:
            raise EOFError("no STARTTLS was accepted")

    def _greet(self) -> None:
        if self._implicit:
            self._reject_all(self._next(1))
        self._hear(self._responder.feed(b""))

    def _reject_all(self, reply: Reply | None) -> None:
        """Reject all commands under TLS, as `on_tls` did, if the first one has such a `reply`."""
        if reply is not None and (
            (reply.code, reply.enhanced) == (554, "5.7.0") or 400 <= reply.code < 500
        ):
            self._responder.connection.refuse(reply)

    async def happen(self, _event: str) -> None:
        """Let the server end the session, as it did."""
        self._responder.connection.hang_up(self._next())
        self._hear(self._responder.feed(b""))

    def end(self) -> None:
        """Close the sending side."""
        self._hear(self._responder.feed_eof())

    def _hear(self, data: bytes) -> None:
        for line in data.decode(errors="surrogateescape").split("\r\n")[:-1]:
            self._heard.append(line)
            self._count += line[3:4] != "-"

    # -- decisions -------------------------------------------------------------------------------

    def _next(self, after: int = 0) -> Reply | None:
        """Return the next reply that the dialogue awaits, or one that follows it."""
        queued = self._responder.connection.conversation.output.wires
        waiting = sum(line[3:4] != b"-" for wire in queued for line in wire.splitlines())
        at = self._count + waiting + after
        return self._replies[at].reply() if at < len(self._replies) else None

    def _decide(self, event: events.Event) -> Decision:
        """Answer as the dialogue awaits it."""
        reply = self._next()
        if reply is None:
            return Disconnect() if self._ends else None
        lmtp = self._responder.connection.conversation.settings.lmtp
        match event:
            case events.Auth():
                return self._outcome()
            case events.StartTLS() | events.XClient():
                return reply if reply.refuses else None
            case events.MessageEnd(transaction) if lmtp:
                return [self._next(number) for number in range(len(transaction.recipients))]
            case events.Data() if lmtp and self._ends_at_once():
                return None  # each recipient has a reply of its own
            case events.Data():
                return reply if reply.refuses or reply.code == 354 else None
            case _:
                return reply if reply.refuses or reply.code < 300 else None

    def _ends_at_once(self) -> bool:
        """Return whether the first chunk of a message is its last one."""
        transaction = self._responder.connection.transaction
        return (
            transaction is not None and transaction.chunks is not None and transaction.chunks.last
        )

    def _outcome(self) -> Reply | None:
        """Return the reply that ends a login, which may come after more challenges."""
        after = 0
        while (reply := self._next(after)) is not None and reply.code == 334:
            after += 1
        return reply

    def _secret(self, username: str) -> str | None:
        """Return the password of a user. Raises `Reject` if there was trouble with it."""
        reply = self._next()
        if reply is not None and reply.refuses:
            raise Reject.of(reply)
        return self._users.get(username)


class Given:
    """The settings of a dialogue: its `=` lines, and what follows from its other lines."""

    def __init__(self, scenario: Scenario) -> None:
        self._values: dict[str, str] = {}
        self.users: dict[str, str] = {}
        for setting in scenario.given:
            name, _, value = setting.partition(" ")
            if name == "user":
                user, _, password = value.partition(" ")
                self.users[user] = password
            else:
                self._values[name] = value
        self._derives = not self._values  # its settings come from its other lines
        self._said = [step.text for step in scenario.steps if step.kind == "server"]
        self._sent = [step.text for step in scenario.steps if step.kind == "client"]
        self._secured = any(step.kind == "tls" for step in scenario.steps)
        self._offered = dict(self._offers(scenario))
        self._used = list(self._uses(scenario))

    @staticmethod
    def _offers(scenario: Scenario) -> Iterator[tuple[str, str]]:
        for expected in replies_of(scenario.steps):
            if expected.to_hello:
                for line in expected.lines[1:]:
                    keyword, _, argument = line[4:].partition(" ")
                    yield keyword.upper(), argument

    @staticmethod
    def _uses(scenario: Scenario) -> Iterator[str]:
        """Yield the mechanisms that a client used without a reply that there are none."""
        for sent, heard in zip(scenario.steps, scenario.steps[1:], strict=False):
            found = _AUTH.match(sent.text) if sent.kind == "client" else None
            if found is not None and heard.text[:3] not in ("502", "504", "538"):
                yield found[1].upper()

    def has(self, name: str) -> bool:
        """Return whether a setting is given."""
        return name in self._values

    @property
    def trusted(self) -> frozenset[str]:
        """The commands of proxies that this client may use."""
        told = self._values.get("trusted", "").split()
        return frozenset({*told, *(name for name in _TRUSTED if name in self._offered)})

    @property
    def certificate(self) -> dict[str, str] | None:
        """The client's certificate; one is there if EXTERNAL was used."""
        name = self._values.get("certificate", USER if self._derives else None)
        return None if name is None else {"name": name}

    def settings(self) -> Settings:
        """Return what the core is told. Raises `ValueError` for a wrong value."""
        hostname, appname = self._names()
        offered, refused = self._offered.get("SIZE", ""), "max_refused_recipients"
        newlines = "keep" if "BINARYMIME" in self._offered else "normalize"
        unknown = self._offered.keys() - {row.keyword for row in extensions.TABLE}
        wanted, mechanisms = self._wanted(), self._mechanisms()
        tls = {"tls", "tls_required", "tls_listener"} & self._values.keys()
        return Settings(
            hostname=hostname,
            appname=appname,
            max_size=self._number("max_size", int(offered) if offered.isdecimal() else 33_554_432),
            max_recipients=self._number("max_recipients", 100),
            max_recipient_domains=self._number("max_recipient_domains", 0),
            max_messages=self._number("max_messages", 1000),
            lmtp=self.has("lmtp") or (self._derives and self._speaks_lmtp),
            tls_available=bool(tls or (self._derives and self._has_tls))
            and wanted.get("STARTTLS") is not False,
            tls_required=self.has("tls_required"),
            auth_required=self.has("auth_required"),
            mechanisms={
                name: row
                for name, row in MECHANISMS.items()
                if name in mechanisms and wanted.get("AUTH") is not False
            },
            open_mechanisms=frozenset(
                mechanisms if self._derives else self._values.get("open", "").split()
            ),
            bare_newlines=BareNewlines(self._values.get("bare_newlines", newlines)),
            strict_eol=self.has("strict_eol"),
            lenient_addresses=self.has("lenient_addresses"),
            ignore_unknown_params=self._values.get("unknown_params") == "ignore"
            or (self._derives and bool(unknown)),
            limits=Limits(
                slow_errors=self._number("slow_errors", 10),
                errors=self._number("max_errors", 20),
                refused_recipients=self._number(refused, 0) if self.has(refused) else None,
                idle_commands=self._number("max_idle_commands", 100),
            ),
            extensions=extensions.rows(wanted, self._own(), lambda: _NOW),
        )

    def _number(self, name: str, default: int) -> int:
        text = self._values.get(name, str(default))
        if not text.isdecimal():
            raise ValueError(f"= {name} {text}: write a number")
        return int(text)

    def _names(self) -> tuple[str, str]:
        """Return the names of host and application in the greeting, or in the goodbye."""
        for text in self._said:
            found = _SERVICE.fullmatch(text)
            if found is not None:
                return found[1], found[2]
        return "localhost", "smtpd"

    @property
    def _speaks_lmtp(self) -> bool:
        return any(found[3] == "LMTP" for text in self._said if (found := _SERVICE.fullmatch(text)))

    @property
    def _has_tls(self) -> bool:
        return self._secured or "STARTTLS" in self._offered

    def _mechanisms(self) -> set[str]:
        """Return the mechanisms that were offered, and those that were used without an offer."""
        if not self._derives:
            return set(self._values.get("auth", "").upper().split())
        if "AUTH" in self._offered:
            return set(self._offered["AUTH"].upper().split())
        return set(self._used)

    def _wanted(self) -> dict[str, bool | str]:
        """Return which extensions are on, or off, or on with an argument."""
        wanted: dict[str, bool | str] = {}
        if not self._derives:
            for word in filter(None, self._values.get("extensions", "").split(", ")):
                keyword, _, argument = word.partition("=")
                wanted[keyword] = argument != "off" and (argument or True)
            return wanted
        for row in extensions.TABLE if self._offered else ():
            if row.keyword not in ("SIZE", "STARTTLS", "AUTH", *_TRUSTED):
                argument = self._offered.get(row.keyword, "").partition(" ")[0]
                has_argument = row.make is not None and argument != ""
                wanted[row.keyword] = argument if has_argument else row.keyword in self._offered
        return wanted

    def _own(self) -> list[Extension]:
        """Return a row for each command of the server's own."""
        return [Extension(verb, 0, verbs=(verb,)) for verb in self._values.get("own", "").split()]


def replay(scenario: Scenario) -> None:
    r"""Play a recorded session against ehlo's protocol itself, without your handler.

    What your hooks decided, and what EHLO offered, is taken from the dialogue. Raises
    `DialogueError` at the first difference, `ValueError` for a setting that has no such value.

    Example:

        >>> from ehlo.testing import dialogue
        >>> [scenario] = dialogue.parse("S: 220 mx.example...\nC: NOOP\nS: 250 2.0.0 Ok")
        >>> dialogue.replay(scenario)
    """
    # No handshake needs the authorities of the system, which take 25 ms to load
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asyncio.run(Player(for_core(scenario), CoreLine(scenario), context).play())
