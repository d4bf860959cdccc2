"""What a connection is told about its server: one frozen value, given when it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ehlo.protocol import reply as replies
from ehlo.protocol.body import BareNewlines
from ehlo.protocol.extensions import EXTENSIONS, Extension, Parameter, never, said
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
    idle_commands: int = 100
    """Commands that bring no mail nearer, from one MAIL to the next; 0 is no limit, and none of
    refusals (`Settings.refusal_limit`)."""
    errors: int = 20
    """At this error the connection ends."""
    refused_recipients: int = 50
    """Recipients that a hook refused, in a session."""
    excess_recipients: int = 100
    """Recipients over the limit that do not count as errors, in a transaction."""
    excess_chunks: int = 100
    """Chunks after one that was refused that do not count as errors, in a transaction."""
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
    """Of a transaction; RFC 9422 calls it RCPTMAX."""
    max_messages: int = 1000
    """Transactions of a session, begun or refused; 0 is no limit (RFC 9422: MAILMAX)."""
    max_recipient_domains: int = 0
    """Domains of recipients in a session; 0 is no limit (RFC 9422: RCPTDOMAINMAX)."""
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
    lmtp: bool = False
    """Whether this is LMTP (RFC 2033): LHLO, and a reply for each recipient."""
    extensions: tuple[Extension, ...] = EXTENSIONS
    limits: Limits = Limits()
    said: tuple[str | Extension, ...] = field(init=False, repr=False)
    mail_params: Mapping[str, Parameter] = field(init=False, repr=False)
    rcpt_params: Mapping[str, Parameter] = field(init=False, repr=False)
    command_limit: int = field(init=False, repr=False)
    line_limit: int = field(init=False, repr=False)
    refusal_limit: int = field(init=False, repr=False)
    """Refusals of any kind, from one message that was taken to the next; 0 is no limit."""
    own_verbs: frozenset[str] = field(init=False, repr=False)
    chunking: bool = field(init=False, repr=False)
    binarymime: bool = field(init=False, repr=False)
    gated: bool = field(init=False, repr=False)
    greeting: Reply = field(init=False, repr=False)
    closing: Reply = field(init=False, repr=False)
    timed_out: Reply = field(init=False, repr=False)

    def __post_init__(self) -> None:
        assign = object.__setattr__
        rows = self.extensions
        assign(self, "said", said(rows))
        assign(self, "mail_params", {k: v for row in rows for k, v in row.mail_parameters()})
        assign(self, "rcpt_params", {k: v for row in rows for k, v in row.rcpt_parameters()})
        assign(self, "command_limit", self.limits.command_line + sum(row.octets for row in rows))
        assign(self, "line_limit", max(self.command_limit, self.limits.auth_line))
        # An honest client may have each recipient of a message refused, and all that is too many
        idle, recipients = self.limits.idle_commands, self.limits.excess_recipients
        assign(self, "refusal_limit", idle and idle + self.max_recipients + recipients)
        assign(self, "own_verbs", frozenset(verb for row in rows for verb in row.verbs))
        keywords = {row.keyword for row in rows if row.offered is not never}
        assign(self, "chunking", "CHUNKING" in keywords)
        assign(self, "binarymime", {"CHUNKING", "BINARYMIME"} <= keywords)  # RFC 3030 3
        assign(self, "gated", self.tls_required or self.auth_required)
        service = f"{self.hostname} {self.appname} {'LMTP' if self.lmtp else 'ESMTP'}"
        assign(self, "greeting", replies.greeting(service))
        assign(self, "closing", replies.closing(service))
        assign(self, "timed_out", replies.timed_out(service))

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
