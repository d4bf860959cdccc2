"""Mail addresses as SMTP carries them: a path without its brackets and without its source route."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from ehlo.protocol import grammar

Parameters = Mapping[str, Any]
"""Typed values of MAIL and RCPT parameters by upper-case keyword."""

NO_PARAMETERS: Final[Parameters] = MappingProxyType({})

_DOT_STRING = re.compile(grammar.DOT_STRING)
_QUOTED_PAIR = re.compile(r"\\(.)")
_NEEDS_PAIR = re.compile(r'(["\\])')
_GENERAL_LITERAL = re.compile(r"[A-Za-z0-9\-]*[A-Za-z0-9]:[!-Z^-~]+")
_DOMAIN_LIMIT = 255  # bytes, RFC 5321 4.5.3.1.2


@functools.total_ordering
class Address:
    """Holds an envelope sender or recipient: a local part and a domain (RFC 5321 4.1.2).

    It equals its text, so that `recipient == "user@example.com"` and `recipient in {"a@x", "b@x"}`
    work, and it is ordered as its text, among addresses and `str`. Texts are compared letter for
    letter: RFC 5321 2.4 leaves the case of a local part to its host, and clients write domains in
    any case. To compare a domain, use `same_domain`.

    It is not a `str`, because `lower()`, `+` and the like know nothing of quotes and domains.
    Functions that want a `str` get `str(address)`, and a list of addresses is joined by
    `", ".join(map(str, message.recipients))`.

    `str()` gives `local@domain` without angle brackets, quoted where RFC 5321 4.1.2 needs it. The
    null reverse path is `""`, and `<Postmaster>` has no domain (nor has `<root>`, which is accepted
    with `lenient_addresses`).

    - `local`: a `str`, the local part without quoting.
    - `domain`: a `str`, the domain as the client wrote it.
    - `params`: a mapping with the ESMTP parameters of MAIL or RCPT by upper-case keyword, parsed.

    Example:

        >>> address = ehlo.Address("john doe", "example.com")
        >>> print(address)
        "john doe"@example.com
        >>> ehlo.Address("user", "example.com") == "user@example.com"
        True
        >>> ehlo.same_domain(ehlo.Address("user", "Example.COM").domain, "example.com")
        True
        >>> recipients = [ehlo.Address("bob", "example.com"), ehlo.Address("al", "example.com")]
        >>> ", ".join(map(str, sorted(recipients)))
        'al@example.com, bob@example.com'
    """

    __slots__ = ("_text", "domain", "local", "params")

    local: Final[str]
    """The local part, without quoting."""
    domain: Final[str]
    """The domain as the client gave it; an address literal has its brackets."""
    params: Final[Parameters]
    """The parsed ESMTP parameters of the address, by upper-case keyword."""

    def __init__(
        self,
        local: str,
        domain: str,
        params: Parameters = NO_PARAMETERS,
        text: str | None = None,
    ) -> None:
        """`text` is what `str()` gives, where that is known already."""
        self.local = local
        self.domain = domain
        self.params = params
        self._text = text  # what str() gives, once it was asked for

    @property
    def is_null(self) -> bool:
        """Whether this is the null reverse path, `<>` (RFC 5321 4.5.5)."""
        return not self.local and not self.domain

    def __str__(self) -> str:
        if self._text is None:
            self._text = self._as_text()
        return self._text

    def _as_text(self) -> str:
        if not self.domain:
            return self.local
        local = self.local
        if _DOT_STRING.fullmatch(local) is None:
            local = '"' + _NEEDS_PAIR.sub(r"\\\1", local) + '"'
        return f"{local}@{self.domain}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Address):
            return str(self) == str(other)
        return str(self) == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: Address | str) -> bool:
        return str(self) < (str(other) if isinstance(other, Address) else other)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle it with its parameters, whose read-only mapping cannot be."""
        return _made_again, (self.local, self.domain, dict(self.params), self._text)


def _made_again(local: str, domain: str, params: Parameters, text: str | None) -> Address:
    return Address(local, domain, MappingProxyType(params) if params else NO_PARAMETERS, text)


NULL_PATH: Final = Address("", "")


def plain(path: bytes, params: Parameters = NO_PARAMETERS) -> Address:
    """Return the address of a Dot-string at a Domain, all ASCII and short enough."""
    text = path.decode()
    local, _, domain = text.partition("@")
    return Address(local, domain, params, text)


def parsed(local: str, domain: str, params: Parameters) -> Address | None:
    """Return the address of the parts of a `grammar.MAILBOX`; `None` for an invalid domain.

    <Postmaster> has no domain (RFC 5321 4.1.1.3), and other names have none where that is accepted.
    """
    if local[0] == '"':
        local = _QUOTED_PAIR.sub(r"\1", local[1:-1])
    if domain and domain[0] == "[":
        if not is_address_literal(domain):
            return None
    elif len(domain) > _DOMAIN_LIMIT // 4 and len(domain.encode()) > _DOMAIN_LIMIT:
        return None
    return Address(local, domain, params)


def is_address_literal(text: str) -> bool:
    """Return whether `text`, with its brackets, is an address literal (RFC 5321 4.1.3)."""
    import ipaddress  # few sessions meet a literal, and the import is a slow one

    inside = text[1:-1]
    try:
        if inside[:5].lower() == "ipv6:":
            return ipaddress.IPv6Address(inside[5:]).scope_id is None
        if ":" in inside:
            return _GENERAL_LITERAL.fullmatch(inside) is not None
        ipaddress.IPv4Address(inside)
    except ValueError:
        return False
    return True
