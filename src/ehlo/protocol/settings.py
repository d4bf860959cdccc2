"""`Settings`: what a connection is told about its server, one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ehlo.protocol import reply as replies
from ehlo.protocol.body import BareNewlines
from ehlo.protocol.extensions import EXTENSIONS, Extension, never
from ehlo.protocol.offers import Offers
from ehlo.protocol.parameters import Parameter
from ehlo.protocol.policy import Policy
from ehlo.protocol.reply import Reply

_LONGEST_NAMES = 400  # characters of hostname and appname, with which all replies have 512 bytes


@dataclass(frozen=True, slots=True)
class Settings(Policy):
    """The rules of one listener: a `Policy`, its extensions, and what follows from both.

    Raises `ValueError` for names that do not fit into a reply, and for BINARYMIME unless bare CR
    and LF are kept.

    Example:

        >>> from ehlo.protocol import Settings
        >>> Settings(hostname="mx.example.com", max_size=10_000_000).max_size
        10000000
    """

    extensions: tuple[Extension, ...] = EXTENSIONS
    offers: Offers = field(init=False, repr=False, compare=False)
    """The lines of EHLO after the first one."""
    mail_params: Mapping[str, Parameter] = field(init=False, repr=False)
    rcpt_params: Mapping[str, Parameter] = field(init=False, repr=False)
    command_limit: int = field(init=False, repr=False)
    """Maximum command line in bytes."""
    plain_limit: int = field(init=False, repr=False)
    """Maximum command line in bytes that may be dealt with as a usual packet."""
    line_limit: int = field(init=False, repr=False)
    """Maximum line of any kind in bytes."""
    refused_limit: int = field(init=False, repr=False)
    """Maximum recipients rejected by a hook between two accepted messages; 0 = unlimited."""
    refusal_limit: int = field(init=False, repr=False)
    """Maximum rejections of any kind between two accepted messages; 0 = unlimited."""
    own_verbs: frozenset[str] = field(init=False, repr=False)
    chunking: bool = field(init=False, repr=False)
    binarymime: bool = field(init=False, repr=False)
    smtputf8: bool = field(init=False, repr=False)
    keeps_newlines: bool = field(init=False, repr=False)
    gated: bool = field(init=False, repr=False)
    """Whether commands must wait for TLS or for a login."""
    greeting: Reply = field(init=False, repr=False)
    closing: Reply = field(init=False, repr=False)
    timed_out: Reply = field(init=False, repr=False)

    def __post_init__(self) -> None:
        assign = object.__setattr__
        keywords = {row.keyword for row in self.extensions if row.offered is not never}
        assign(self, "chunking", "CHUNKING" in keywords)
        assign(self, "binarymime", {"CHUNKING", "BINARYMIME"} <= keywords)  # RFC 3030 3
        assign(self, "smtputf8", "SMTPUTF8" in keywords)
        rows = self.extensions
        assign(self, "offers", Offers(rows, keywords))
        assign(self, "mail_params", {k: v for row in rows for k, v in row.mail_parameters()})
        assign(self, "rcpt_params", {k: v for row in rows for k, v in row.rcpt_parameters()})
        assign(self, "command_limit", self.limits.command_line + sum(row.octets for row in rows))
        # In so short a line everything is within its own limit, a domain too (RFC 5321 4.5.3.1.2)
        assign(self, "plain_limit", min(self.command_limit, 255))
        assign(self, "line_limit", max(self.command_limit, self.limits.auth_line))
        idle, excess = self.limits.idle_commands, self.limits.excess_recipients
        refused = self.limits.refused_recipients
        refused = self.max_recipients if refused is None else refused
        assign(self, "refused_limit", refused)
        # A list with each recipient rejected, up to the limit and beyond it, is no abuse
        most = max(self.max_recipients, refused)
        assign(self, "refusal_limit", idle and idle + most + excess)
        assign(self, "own_verbs", frozenset(verb for row in rows for verb in row.verbs))
        assign(self, "keeps_newlines", self.bare_newlines is BareNewlines.KEEP)
        if self.binarymime and not self.keeps_newlines:
            policy = self.bare_newlines.value
            raise ValueError(
                f"extensions: BINARYMIME needs bare_newlines=keep, not {policy}; change one of them"
            )
        assign(self, "gated", self.tls_required or self.auth_required)
        if len(self.hostname) + len(self.appname) > _LONGEST_NAMES:
            raise ValueError(
                f"hostname and appname have more than {_LONGEST_NAMES} characters together, too "
                "many for a reply; shorten appname"
            )
        service = f"{self.hostname} {self.appname} {'LMTP' if self.lmtp else 'ESMTP'}"
        assign(self, "greeting", replies.greeting(service))
        assign(self, "closing", replies.closing(service))
        assign(self, "timed_out", replies.timed_out(service))
