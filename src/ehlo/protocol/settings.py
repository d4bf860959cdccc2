"""What a connection is told about its server: one frozen value, given when it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ehlo.protocol import reply as replies
from ehlo.protocol.body import BareNewlines
from ehlo.protocol.extensions import EXTENSIONS, Extension, ParseValue
from ehlo.protocol.reply import Reply
from ehlo.protocol.sasl import Mechanism

__all__ = ["Limits", "Settings"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may do in one session before it is slowed down or sent away."""

    command_line: int = 512
    """Octets with CRLF, to which the extensions add (RFC 5321 4.5.3.1.4)."""
    auth_line: int = 12_288
    """Octets of a line of an authentication exchange (RFC 4954 4)."""
    slow_errors: int = 10
    """From this error on each reply is held back for a second."""
    errors: int = 20
    """At this error the connection ends."""
    refused_recipients: int = 50
    """Recipients that a hook refused, in a session."""
    excess_recipients: int = 100
    """Recipients over the limit that do not count as errors, in a transaction."""
    failed_logins: int = 3
    """At this failure the connection ends."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The rules of one listener, as far as the protocol goes."""

    hostname: str = "localhost"
    appname: str = "smtpd"
    max_size: int = 33_554_432
    """Octets of a message after unstuffing; 0 is no limit (RFC 1870)."""
    max_recipients: int = 100
    tls_available: bool = False
    tls_required: bool = False
    auth_required: bool = False
    mechanisms: Mapping[str, Mechanism] = field(default_factory=dict)
    """Those that may be used, under TLS at the latest, in the order in which they are offered."""
    open_mechanisms: frozenset[str] = frozenset()
    """Names of those that may be used without TLS although they show the password."""
    salt_key: bytes = field(default=b"", repr=False)
    """Makes the salts that SCRAM shows where none are stored: secret, and always the same."""
    bare_newlines: BareNewlines = BareNewlines.NORMALISE
    strict_eol: bool = False
    """Whether a command must end with CRLF, and not with LF alone."""
    ignore_unknown_params: bool = False
    extensions: tuple[Extension, ...] = EXTENSIONS
    limits: Limits = Limits()
    mail_params: Mapping[str, ParseValue] = field(init=False, repr=False)
    rcpt_params: Mapping[str, ParseValue] = field(init=False, repr=False)
    command_limit: int = field(init=False, repr=False)
    line_limit: int = field(init=False, repr=False)
    gated: bool = field(init=False, repr=False)
    greeting: Reply = field(init=False, repr=False)
    closing: Reply = field(init=False, repr=False)
    timed_out: Reply = field(init=False, repr=False)

    def __post_init__(self) -> None:
        assign = object.__setattr__
        rows = self.extensions
        assign(self, "mail_params", {name: row.mail[name] for row in rows for name in row.mail})
        assign(self, "rcpt_params", {name: row.rcpt[name] for row in rows for name in row.rcpt})
        assign(self, "command_limit", self.limits.command_line + sum(row.octets for row in rows))
        assign(self, "line_limit", max(self.command_limit, self.limits.auth_line))
        assign(self, "gated", self.tls_required or self.auth_required)
        assign(self, "greeting", replies.greeting(self.hostname, self.appname))
        assign(self, "closing", replies.closing(self.hostname, self.appname))
        assign(self, "timed_out", replies.timed_out(self.hostname, self.appname))

    def usable_mechanisms(
        self, *, tls: bool, binding: bool = False, certificate: bool = False
    ) -> tuple[str, ...]:
        """The names of those that may be used now, over a connection that has these."""
        opened = self.open_mechanisms
        return tuple(
            name
            for name, mechanism in self.mechanisms.items()
            if mechanism.usable(tls=tls or name in opened, binding=binding, certificate=certificate)
        )
