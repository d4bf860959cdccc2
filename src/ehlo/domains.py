"""Domains as A-labels, to compare different spellings of a domain (RFC 5890, UTS #46).

The protocol keeps a domain as the client gave it; only here `bücher.example` and
`xn--bcher-kva.example` are the same domain.
"""

from __future__ import annotations

from ehlo.protocol import grammar
from ehlo.protocol.address import is_address_literal

_LONGEST = 255  # bytes, RFC 5321 4.5.3.1.2


def to_ascii(domain: str) -> str:
    """Return a domain in lower case with its labels as A-labels, or an address literal.

    An ASCII domain may be whatever the protocol accepts, including underscores. Raises
    `ValueError` if `domain` is not a domain.

    Example:

        >>> ehlo.to_ascii("Bücher.example")
        'xn--bcher-kva.example'
    """
    if domain[:1] == "[":
        if grammar.LITERAL.fullmatch(domain) is None or not is_address_literal(domain):
            raise ValueError(f"not an address literal: {domain!r}")
        return domain.lower()
    text = domain if len(domain) > _LONGEST or domain.isascii() else _as_a_labels(domain)
    text = text.removesuffix(".").lower()  # the root's dot, which mail omits
    if len(text) > _LONGEST or not text.isascii() or grammar.DOMAIN_NAME.fullmatch(text) is None:
        raise ValueError(f"not a domain: {domain!r}")
    return text


def _as_a_labels(domain: str) -> str:
    import idna  # slow to import, and most domains are ASCII

    mapped = idna.uts46_remap(domain, std3_rules=False, transitional=False)
    labels = [
        label if label.isascii() else idna.alabel(label).decode() for label in mapped.split(".")
    ]
    return ".".join(labels)


def same_domain(one: str, other: str) -> bool:
    """Return whether two domains are the same, in any spelling. Raises as `to_ascii` does.

    Example:

        >>> ehlo.same_domain("Bücher.example", "xn--bcher-kva.EXAMPLE")
        True
    """
    return to_ascii(one) == to_ascii(other)
