"""Domains as A-labels, so that two spellings of one can be compared (RFC 5890, UTS #46).

The protocol keeps a domain as the client gave it; here is where `bücher.example` and
`xn--bcher-kva.example` are the same.
"""

from __future__ import annotations

from ehlo.protocol import grammar
from ehlo.protocol.address import is_address_literal

__all__ = ["same_domain", "to_ascii"]

_LONGEST = 255  # octets, RFC 5321 4.5.3.1.2


def to_ascii(domain: str) -> str:
    """A domain with its labels as A-labels, in lower case; an address literal in lower case.

    What is ASCII already is taken as the protocol takes it, underscores and all. Raises
    `ValueError` for what is no domain.
    """
    if domain[:1] == "[":
        if grammar.LITERAL.fullmatch(domain) is None or not is_address_literal(domain):
            raise ValueError(f"not an address literal: {domain!r}")
        return domain.lower()
    text = domain if len(domain) > _LONGEST or domain.isascii() else _as_a_labels(domain)
    text = text.removesuffix(".").lower()  # of the root, which mail leaves out
    if len(text) > _LONGEST or not text.isascii() or grammar.DOMAIN_NAME.fullmatch(text) is None:
        raise ValueError(f"not a domain: {domain!r}")
    return text


def _as_a_labels(domain: str) -> str:
    import idna  # large, and most domains are ASCII

    mapped = idna.uts46_remap(domain, std3_rules=False, transitional=False)
    labels = [
        label if label.isascii() else idna.alabel(label).decode() for label in mapped.split(".")
    ]
    return ".".join(labels)


def same_domain(one: str, other: str) -> bool:
    """Whether two domains are the same one, in whatever spelling. Raises `ValueError`."""
    return to_ascii(one) == to_ascii(other)
