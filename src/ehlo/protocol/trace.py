"""The `Received` field of a message (RFC 5321 4.4, RFC 3848, RFC 6531 4.3)."""

from __future__ import annotations

import re

__all__ = ["by_clause", "received_field", "received_head", "stamped", "with_protocol"]

# All that a HELO name or a reverse-DNS name may bring into a header
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9.\-_]")

# What would end a comment, or be none
_NOT_IN_COMMENT = re.compile(r"[()\\]|[^ -~]")

# RFC 5321 4.5.3.1.3; a longer one would make a line that RFC 5322 2.1.1 does not allow
_LONGEST_PATH = 254


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
        f"Received: from {_NOT_A_NAME.sub('', helo) or 'unknown'}{_tcp_info(rdns, address)}\r\n"
        f"\t{by} with {protocol}{tls}\r\n"
        f"\tid "
    )


def stamped(head: str, id: str, recipient: str, date: str, priority: int | None) -> bytes:  # noqa: A002  as above
    """Return the whole field: `head` is from `received_head`."""
    recipient = f"\r\n\tfor <{recipient}>" if 0 < len(recipient) <= _LONGEST_PATH else ""
    registered = "" if priority is None else f"\r\n\tPRIORITY {priority}"
    return f"{head}{id}{recipient}{registered};\r\n\t{date}\r\n".encode()


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
