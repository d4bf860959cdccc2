"""One row an extension: what it adds to EHLO, to MAIL and RCPT, and when.

A row adds itself to the EHLO reply, to the parameter parser and to the length of a command line.
Parsers of parameters get the value as it stood behind `=`, or `None`, and raise `ValueError`,
which becomes `501 5.5.4`. The rows of what is offered by option are made in `offers.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ehlo.protocol import grammar, xclient
from ehlo.protocol.grammar import from_xtext

if TYPE_CHECKING:
    from ehlo.protocol.settings import Settings

__all__ = ["EXTENSIONS", "Extension", "Facts", "OriginalRecipient", "Parameter"]

ParseValue = Callable[[str | None], Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides whether an extension is offered now."""

    settings: Settings
    """The rules of the listener."""
    tls: bool
    """Whether this is said under TLS."""
    mechanisms: tuple[str, ...]
    """Those that could be used now; none once the client has logged in."""
    trusted: frozenset[str] = frozenset()
    """The commands that this client alone may use: XCLIENT, XFORWARD."""


class Parameter(NamedTuple):
    """What the parser of MAIL and RCPT knows of one keyword."""

    parse: ParseValue
    offered: Callable[[Facts], bool] | None
    """Whether it is taken now; `None`: always."""
    rivals: frozenset[str]
    """Other parameters that may not stand beside it."""


def _always(_facts: Facts) -> bool:
    return True


def never(_facts: Facts) -> bool:
    """For what is not offered."""
    return False


def _no_argument(_facts: Facts) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Extension:
    """A service extension (RFC 5321 2.2): what it adds to EHLO, and to MAIL and RCPT.

    `keyword` is what EHLO says, `rfc` the number of its document (0 when it has none). `offered`
    and `argument` are asked at each EHLO: whether it is offered now, and what is said behind the
    keyword. `mail` and `rcpt` have a parser for each parameter, by its keyword in upper case: it
    gets the text behind `=`, or `None`, and returns the value that hooks find in `params`, or
    raises `ValueError` and nothing else, which the client reads as `501 5.5.4`.
    """

    keyword: str
    rfc: int
    offered: Callable[[Facts], bool] = _always
    argument: Callable[[Facts], str] = _no_argument
    mail: Mapping[str, ParseValue] = field(default_factory=dict)
    """Parameters of MAIL."""
    rcpt: Mapping[str, ParseValue] = field(default_factory=dict)
    """Parameters of RCPT."""
    verbs: tuple[str, ...] = ()
    """Commands of a user's own, in upper case: `Handler.on_command` is called for them."""
    octets: int = 0
    """By how much it lengthens a command line (RFC 5321 4.5.3.1.4)."""
    promise: bool = False
    """Whether to take a parameter is a promise: taken where it is offered now, or else `555`."""
    one_of: bool = False
    """Whether only one of its parameters may be said."""

    def mail_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """`mail` as the parser wants it."""
        return self._parameters(self.mail)

    def rcpt_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """`rcpt` as the parser wants it."""
        return self._parameters(self.rcpt)

    def _parameters(self, params: Mapping[str, ParseValue]) -> Iterator[tuple[str, Parameter]]:
        offered = self.offered if self.promise and self.offered is not _always else None
        names = frozenset(params) if self.one_of else frozenset()
        for name, parse in params.items():
            yield name, Parameter(parse, offered, names - {name})


@dataclass(frozen=True, slots=True)
class OriginalRecipient:
    """ORCPT's value (RFC 3461 4.2): `addr_type` as given in lower case, `address` decoded."""

    addr_type: str
    address: str


class UnsupportedError(ValueError):
    """A value that is well formed, and a promise that we do not make: `555`."""


def _unsupported(_value: str | None) -> None:
    raise UnsupportedError("not offered")


def _refused(*names: str) -> dict[str, ParseValue]:
    return dict.fromkeys(names, _unsupported)


def _size(value: str | None) -> int:
    if value is None or grammar.SIZE_VALUE.fullmatch(value) is None:
        raise ValueError("not 1*20DIGIT")
    return int(value)


def _body(value: str | None) -> str:
    body = (value or "").upper()
    if body not in ("7BIT", "8BITMIME", "BINARYMIME"):
        raise ValueError("no such body type")
    return body


def flag(value: str | None) -> bool:
    """A parameter that takes no value."""
    if value is not None:
        raise ValueError("takes no value")
    return True


def _ret(value: str | None) -> str:
    ret = (value or "").upper()
    if ret not in ("FULL", "HDRS"):
        raise ValueError("neither FULL nor HDRS")
    return ret


def _envid(value: str | None) -> str:
    text = from_xtext(value)
    if len(text) > 100:  # RFC 3461 4.4
        raise ValueError("longer than 100 characters")
    return text


def _notify(value: str | None) -> frozenset[str]:
    wanted = [word.upper() for word in (value or "").split(",")]
    known = {"NEVER", "SUCCESS", "FAILURE", "DELAY"}
    if not known.issuperset(wanted) or ("NEVER" in wanted and wanted != ["NEVER"]):
        raise ValueError("neither NEVER nor a list of SUCCESS, FAILURE, DELAY")
    return frozenset(wanted)


def _orcpt(value: str | None) -> OriginalRecipient:
    addr_type, semicolon, address = (value or "").partition(";")
    if not semicolon or grammar.ADDR_TYPE.fullmatch(addr_type) is None:
        raise ValueError("not addr-type;address")
    kind = addr_type.lower()
    if kind != "utf-8":
        return OriginalRecipient(kind, from_xtext(address))
    # RFC 6533 3: utf-8-addr-xtext; with SMTPUTF8, of which `path` knows, utf-8-addr-unitext
    if grammar.UTF8_ADDR.fullmatch(address) is None:
        raise ValueError("neither utf-8-addr-xtext nor utf-8-addr-unitext")
    return OriginalRecipient(kind, grammar.EMBEDDED_UNICODE.sub(_unicode_point, address))


def _unicode_point(match: re.Match[str]) -> str:
    """RFC 6533 3: HEXPOINT has no surrogates; controls, which it has, would not be safe."""
    character = chr(int(match[1], 16))
    if grammar.CONTROL.match(character):
        raise ValueError("no character of an address")
    return character


def _auth(value: str | None) -> str:
    """RFC 4954 5: the mailbox, or `""` for `<>`, which says that nobody vouches for the sender."""
    text = from_xtext(value)
    return "" if text == "<>" else text


def _max_size(facts: Facts) -> str:
    return str(facts.settings.max_size)


def _offers_starttls(facts: Facts) -> bool:
    return facts.settings.tls_available and not facts.tls


def _offers_auth(facts: Facts) -> bool:
    return bool(facts.mechanisms)


def _mechanisms(facts: Facts) -> str:
    return " ".join(facts.mechanisms)


def _offers_binarymime(facts: Facts) -> bool:
    return facts.settings.binarymime


def _trusts(keyword: str) -> Callable[[Facts], bool]:
    return lambda facts: keyword in facts.trusted


def _names(attributes: Mapping[str, object]) -> Callable[[Facts], str]:
    return lambda _facts: " ".join(attributes)


def said(rows: Iterable[Extension]) -> tuple[str | Extension, ...]:
    """What EHLO says of these: a line where that is always the same, or else the row to ask."""
    return tuple(
        row.keyword if row.offered is _always and row.argument is _no_argument else row
        for row in rows
        if row.offered is not never
    )


def offered(facts: Facts) -> list[str]:
    """The lines of EHLO behind the first, as things are now."""
    lines = []
    for row in facts.settings.said:
        if isinstance(row, str):
            lines.append(row)
        elif row.offered(facts):
            lines.append(f"{row.keyword} {row.argument(facts)}".rstrip())
    return lines


# In the order in which EHLO says them
EXTENSIONS: Final = (
    Extension("PIPELINING", 2920),
    Extension("SIZE", 1870, argument=_max_size, mail={"SIZE": _size}, octets=26),
    Extension("8BITMIME", 6152, mail={"BODY": _body}),
    Extension("CHUNKING", 3030),
    Extension("BINARYMIME", 3030, offered=_offers_binarymime, octets=16),
    # A server that does not offer it cannot pass such addresses on
    Extension("SMTPUTF8", 6531, mail={"SMTPUTF8": flag}, octets=10, promise=True),
    Extension("ENHANCEDSTATUSCODES", 2034),
    Extension("STARTTLS", 3207, offered=_offers_starttls),
    Extension(
        "AUTH",
        4954,
        offered=_offers_auth,
        argument=_mechanisms,
        mail={"AUTH": _auth},
        octets=500,
    ),
    Extension(
        "DSN",
        3461,
        offered=never,  # its parameters are taken, since real mail has them; no report is promised
        mail={"RET": _ret, "ENVID": _envid},
        rcpt={"NOTIFY": _notify, "ORCPT": _orcpt},
        # RFC 3461 names no sum: all of NOTIFY, and an ORCPT of 500 (4.2), each behind a space
        octets=29 + 501,
    ),
    # Postfix's own, for those who are listed
    Extension("XCLIENT", 0, offered=_trusts("XCLIENT"), argument=_names(xclient.XCLIENT)),
    Extension("XFORWARD", 0, offered=_trusts("XFORWARD"), argument=_names(xclient.XFORWARD)),
    # Known, and never taken silently: a 250 would be a promise. Those that are offered by option
    # take the place of these.
    *(
        Extension(keyword, rfc, never, mail=mail, rcpt=rcpt, promise=True)
        for keyword, rfc, mail, rcpt in (
            ("REQUIRETLS", 8689, _refused("REQUIRETLS"), {}),
            ("DELIVERBY", 2852, _refused("BY"), {}),
            ("FUTURERELEASE", 4865, _refused("HOLDFOR", "HOLDUNTIL"), {}),
            ("MT-PRIORITY", 6710, _refused("MT-PRIORITY"), {}),
            ("RRVS", 7293, {}, _refused("RRVS")),
            ("LIMITS", 9422, {}, {}),
        )
    ),
)
