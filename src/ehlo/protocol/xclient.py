"""XCLIENT and XFORWARD: facts that a trusted proxy or filter sends about the client behind it.

Postfix defines both (XCLIENT_README, XFORWARD_README). Values are xtext, in which some senders put
UTF-8 as it is; `[UNAVAILABLE]` and `[TEMPUNAVAIL]` become `None`. A value that could not stand in a
header or a log is rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from ehlo.protocol import grammar

Attributes = Mapping[str, str | None]
"""By upper-case name; `None` for what is not available."""

_LONGEST: Final = 255
_LONGEST_PROTOCOL: Final = 64
_UNAVAILABLE: Final = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})
_SAID_BY_THE_CLIENT: Final = frozenset({"HELO", "PROTO", "LOGIN"})


def _name(text: str) -> str:
    if grammar.HELLO_NAME.fullmatch(text) is None:
        raise ValueError("not a name")
    return text


def _helo(text: str) -> str:
    """Return the first word of any name, as HELO does."""
    return text.partition(" ")[0] or _name(text)


def _address(text: str) -> str:
    import ipaddress  # few sessions have these commands, and the import is a slow one

    if text[:5].upper() == "IPV6:":
        address: object = ipaddress.IPv6Address(text[5:])
    else:
        address = ipaddress.IPv4Address(text)
    if "%" in text:
        raise ValueError("an address with a zone")
    return str(address)


def _port(text: str) -> str:
    if grammar.PORT.fullmatch(text) is None or int(text) > 65_535:
        raise ValueError("not a port")
    return str(int(text))


def _protocol(text: str) -> str:
    if text.upper() not in ("SMTP", "ESMTP"):
        raise ValueError("neither SMTP nor ESMTP")
    return text.upper()


def _any_protocol(text: str) -> str:
    if len(text) > _LONGEST_PROTOCOL:
        raise ValueError("too long")
    return _name(text)


def _source(text: str) -> str:
    if text.upper() not in ("LOCAL", "REMOTE"):
        raise ValueError("neither LOCAL nor REMOTE")
    return text.upper()


_Check = Callable[[str], str]

XCLIENT: Final[Mapping[str, _Check]] = MappingProxyType(
    {
        "NAME": _name,
        "ADDR": _address,
        "PORT": _port,
        "PROTO": _protocol,
        "HELO": _helo,
        "LOGIN": str,
        "DESTADDR": _address,
        "DESTPORT": _port,
    }
)
XFORWARD: Final[Mapping[str, _Check]] = MappingProxyType(
    {
        "NAME": _name,
        "ADDR": _address,
        "PORT": _port,
        "PROTO": _any_protocol,
        "HELO": _helo,
        "IDENT": _name,
        "SOURCE": _source,
    }
)


def attributes(argument: str, known: Mapping[str, _Check]) -> Attributes | None:
    """Parse `NAME=value NAME=value`; return `None` if anything in it is invalid."""
    found: dict[str, str | None] = {}
    for word in filter(None, argument.split(" ")):
        name, equals, value = word.partition("=")
        name = name.upper()
        if not equals or name not in known or name in found:
            return None
        try:
            found[name] = _value(value, known[name])
        except ValueError:
            return None
    return MappingProxyType(found) if found else None


def endpoints(found: Attributes) -> Attributes:
    """Return the attributes about the ends of the connection, without the client's own words."""
    return {name: value for name, value in found.items() if name not in _SAID_BY_THE_CLIENT}


def _value(xtext: str, check: _Check) -> str | None:
    """Decode an xtext of UTF-8. Raises `ValueError`."""
    if len(xtext) > 3 * _LONGEST or grammar.UTF8_XTEXT.fullmatch(xtext) is None:
        raise ValueError("not xtext, or too long")
    octets = grammar.HEX_OCTET.sub(lambda match: bytes.fromhex(match[1].decode()), xtext.encode())
    text = octets.decode(errors="replace" if check is _helo else "strict")
    if len(octets) > _LONGEST or grammar.CONTROL.search(text):
        raise ValueError("too long, or with control characters")
    return None if text.upper() in _UNAVAILABLE else check(text)
