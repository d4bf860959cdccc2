"""The `Received` field that we put on top of a message (RFC 5321 4.4, RFC 3848, RFC 6531 4.3)."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Trace", "received_field"]

# All that a HELO name or a reverse-DNS name may bring into a header
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9.\-_]")

# What would end a comment, or be none
_NOT_IN_COMMENT = re.compile(r"[()\\]|[^ -~]")


class Trace(NamedTuple):
    """What the field tells; text from the client is made safe here."""

    helo: str
    rdns: str
    """The client's name by reverse DNS, `""` when not known."""
    address: str
    """The client's IP address as text, `""` for a Unix socket."""
    hostname: str
    appname: str
    esmtp: bool
    tls: str
    """Version and cipher, `""` without TLS."""
    authenticated: bool
    smtputf8: bool
    id: str
    recipient: str
    """The only recipient, `""` when there are several (a hidden one must not show)."""
    date: str
    """RFC 5322 3.3 date-time."""


def received_field(trace: Trace) -> bytes:
    """The field with its line ends."""
    helo = _NOT_A_NAME.sub("", trace.helo) or "unknown"
    tls = f"\r\n\t({trace.tls})" if trace.tls else ""
    recipient = f"\r\n\tfor <{trace.recipient}>" if trace.recipient else ""
    return (
        f"Received: from {helo}{_tcp_info(trace)}\r\n"
        f"\tby {trace.hostname} ({_NOT_IN_COMMENT.sub('', trace.appname)}) with {_with(trace)}"
        f"{tls}\r\n\tid {trace.id}{recipient};\r\n\t{trace.date}\r\n"
    ).encode()


def _tcp_info(trace: Trace) -> str:
    """RFC 5321 4.4: TCP-info = address-literal / ( Domain FWS address-literal )."""
    if not trace.address:
        return ""
    literal = f"[IPv6:{trace.address}]" if ":" in trace.address else f"[{trace.address}]"
    rdns = _NOT_A_NAME.sub("", trace.rdns)
    return f" ({rdns} {literal})" if rdns else f" ({literal})"


def _with(trace: Trace) -> str:
    """RFC 3848 and, with SMTPUTF8, RFC 6531 4.3: `S` for TLS, `A` for a login."""
    if not trace.esmtp:
        return "SMTP"
    name = "UTF8SMTP" if trace.smtputf8 else "ESMTP"
    return name + ("S" if trace.tls else "") + ("A" if trace.authenticated else "")
