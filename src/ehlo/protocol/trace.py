"""The `Received` field of a message (RFC 5321 4.4, RFC 3848, RFC 6531 4.3)."""

from __future__ import annotations

import re

from ehlo.protocol.address import is_address_literal
from ehlo.protocol.grammar import DIRECTION

# All that a HELO name or a reverse-DNS name may bring into a header
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9.\-_]")

# An address literal: RFC 5321 4.1.3 has no tag but IPv6, and other ones are no facts
_LITERAL = re.compile(r"(?i)\[(?:[0-9.]+|IPv6:[0-9a-f:.]+)\]")

# What would end a comment, or be none
_NOT_IN_COMMENT = re.compile(r"[()\\]|[^ -~]")

_LONGEST_LINE = 998  # bytes without CRLF, RFC 5322 2.1.1
_SURELY_FITS = 900


def by_clause(hostname: str, appname: str) -> str:
    """Return the by-clause, which is the same in each field of a server."""
    return f"by {hostname} ({_NOT_IN_COMMENT.sub('', appname)})"


def received_field(
    *,
    helo: str,
    rdns: str,
    address: str,
    by: str,
    protocol: str,
    tls: str,
    id: str,  # noqa: A002  the name that RFC 5321 gives it
    recipient: str,
    date: str,
    priority: int | None = None,
) -> bytes:
    """Return the field with its line ends; text from the client is made safe.

    `helo` and `rdns` are the client's names (`""` when not known), `address` its IP address (`""`
    for a Unix socket), `by` is `by_clause`'s, `protocol` is `with_protocol`'s, `tls` version and
    cipher (`""` without TLS), `recipient` the only one (`""` when there are several: a hidden one
    must not show), `date` an RFC 5322 3.3 date-time, `priority` MT-PRIORITY's value (RFC 6710 4.1).
    """
    head = received_head(helo=helo, rdns=rdns, address=address, by=by, protocol=protocol, tls=tls)
    return stamped(head, id, recipient, date, priority)


def received_head(*, helo: str, rdns: str, address: str, by: str, protocol: str, tls: str) -> str:
    """Return the field up to its id, which may be the same for all messages of a session."""
    tls = f"\r\n\t({tls})" if tls else ""
    return (
        f"Received: from {_client_name(helo)}{_tcp_info(rdns, address)}\r\n"
        f"\t{by} with {protocol}{tls}\r\n"
        f"\tid "
    )


def stamped(head: str, id: str, recipient: str, date: str, priority: int | None) -> bytes:  # noqa: A002  as above
    """Return the whole field: `head` is from `received_head`."""
    if recipient and len(recipient) < _SURELY_FITS and recipient.isascii():
        recipient = f"\r\n\tfor <{recipient}>"
    elif recipient:
        recipient = _for_clause(recipient)
    registered = "" if priority is None else f"\r\n\tPRIORITY {priority}"
    return f"{head}{id}{recipient}{registered};\r\n\t{date}\r\n".encode()


def _for_clause(recipient: str) -> str:
    """Return the clause on a line of its own; `""` if it does not fit into one, or is unsafe."""
    clause = f"\r\n\tfor <{recipient}>"
    if not clause.isascii() and DIRECTION.search(clause):
        return ""
    return clause if len(clause.encode()) - 2 < _LONGEST_LINE else ""  # a semicolon may follow


def _client_name(helo: str) -> str:
    """Return the name in HELO: an address literal as it is, of others what cannot do harm."""
    if _LITERAL.fullmatch(helo) and is_address_literal(helo):
        return helo
    return _NOT_A_NAME.sub("", helo) or "unknown"


def _tcp_info(rdns: str, address: str) -> str:
    """RFC 5321 4.4: TCP-info = address-literal / ( Domain FWS address-literal )."""
    if not address:
        return ""
    literal = f"[IPv6:{address.partition('%')[0]}]" if ":" in address else f"[{address}]"
    name = _NOT_A_NAME.sub("", rdns) if rdns else ""
    return f" ({name} {literal})" if name else f" ({literal})"


def with_protocol(
    *, esmtp: bool, tls: bool, authenticated: bool, smtputf8: bool, lmtp: bool = False
) -> str:
    """Return the protocol (RFC 3848; RFC 6531 4.3): `S` is TLS, `A` a login."""
    if lmtp:
        name = "UTF8LMTP" if smtputf8 else "LMTP"
    elif not esmtp:
        return "SMTP"
    else:
        name = "UTF8SMTP" if smtputf8 else "ESMTP"
    return name + ("S" if tls else "") + ("A" if authenticated else "")
