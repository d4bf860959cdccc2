"""`Policy` and `Limits`: the rules of one listener that no extension has a part in.

They stand below the extensions, which are asked with a `Policy` whether they are offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ehlo.protocol.auth.mechanism import Mechanism
from ehlo.protocol.body import BareNewlines


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds what a client may do in one session before it is slowed down or disconnected."""

    command_line: int = 512
    """Maximum command line in bytes with CRLF; extensions add to it (RFC 5321 4.5.3.1.4)."""
    auth_line: int = 12_288
    """Maximum line of an authentication exchange in bytes (RFC 4954 4)."""
    slow_errors: int = 10
    """Errors from which on each reply is held back for a second; 0 = never.

    This and the next three numbers start again when a message is accepted.
    """
    errors: int = 20
    """Errors at which the connection ends; 0 = unlimited."""
    refused_recipients: int | None = None
    """Maximum recipients rejected by a hook, when a transaction ends; 0 = unlimited.

    `None` is `Policy.max_recipients`.
    """
    idle_commands: int = 100
    """Maximum commands between messages that do not advance delivery.

    0 = unlimited, and then `Settings.refusal_limit` is, too.
    """
    excess_recipients: int = 100
    """Recipients over the limit that do not count as errors, per transaction."""
    chunks: int = 1000
    """Chunks per message, whatever their size; beyond them, see `chunk_size`."""
    chunk_size: int = 64
    """Average bytes of a chunk in a message that has more than `chunks` (about 10 us each)."""
    excess_chunks: int = 100
    """Chunks after a rejected one that do not count as errors, per transaction."""
    failed_logins: int = 6
    """Failed logins after which the next command ends the connection."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Names and limits of one listener."""

    hostname: str = "localhost"
    appname: str = "smtpd"
    max_size: int = 33_554_432
    """Maximum message size in bytes after unstuffing; 0 = unlimited (RFC 1870)."""
    max_recipients: int = 100
    """Maximum recipients per transaction (RFC 9422: RCPTMAX)."""
    max_messages: int = 1000
    """Maximum transactions per session, begun or rejected; 0 = unlimited (RFC 9422: MAILMAX)."""
    max_recipient_domains: int = 0
    """Maximum recipient domains per session; 0 = unlimited (RFC 9422: RCPTDOMAINMAX)."""
    tls_available: bool = False
    tls_required: bool = False
    auth_required: bool = False
    mechanisms: Mapping[str, Mechanism] = field(default_factory=dict)
    """Mechanisms by name, in the order in which they are offered."""
    open_mechanisms: frozenset[str] = frozenset()
    """Names of mechanisms that are allowed without TLS although they show the password."""
    salt_key: bytes = field(default=b"", repr=False)
    """A constant secret from which SCRAM salts are made for users without stored ones."""
    bare_newlines: BareNewlines = BareNewlines.NORMALIZE
    strict_eol: bool = False
    """Whether a command must end with CRLF, not with LF alone."""
    ignore_unknown_params: bool = False
    lenient_addresses: bool = False
    """Whether paths without brackets, without a domain and with stray dots are accepted."""
    lmtp: bool = False
    """Whether this is LMTP (RFC 2033): LHLO, and one reply per recipient."""
    limits: Limits = Limits()

    def usable_mechanisms(
        self, *, tls: bool, binding: bool = False, certificate: bool = False
    ) -> tuple[str, ...]:
        """Return the names of the mechanisms that a connection with these properties may use."""
        if self.tls_required and not tls:  # RFC 4954 4: what is listed may be used
            return ()
        opened = self.open_mechanisms
        return tuple(
            name
            for name, mechanism in self.mechanisms.items()
            if mechanism.usable(tls=tls or name in opened, binding=binding, certificate=certificate)
        )
