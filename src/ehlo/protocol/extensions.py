"""Service extensions: one row each, with what it adds to EHLO, to MAIL and RCPT, and when.

A row adds itself to the EHLO reply, to the parameters of MAIL and RCPT and to the length of a
command line. Its `default` says whether it is on, off (its parameters are accepted, since real mail
has them) or rejected (a 250 would be a promise); `make` makes the row with the argument that an
option gives. To add an extension, add its row to `TABLE`, with a parser for each parameter.

The module is longer than others, so that an extension stands in one place.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from ehlo.protocol import grammar, xclient
from ehlo.protocol.grammar import from_xtext
from ehlo.protocol.parameters import (
    DeliverBy,
    Facts,
    OriginalRecipient,
    Parameter,
    ParseValue,
    Rrvs,
    UnsupportedError,
    date_time,
    flag,
)

if TYPE_CHECKING:
    from datetime import datetime


Clock = Callable[[], "datetime"]
"""Returns the time now, with its time zone."""

_LONGEST: Final = 999_999  # RFC 9422 4: limits have at most six digits
_POLICIES: Final = ("MIXER", "STANAG4406", "NSEP")  # RFC 6710 9.2: the default, and two more


def _always(_facts: Facts) -> bool:
    return True


def never(_facts: Facts) -> bool:
    """Return `False`: the extension is not offered."""
    return False


def _no_argument(_facts: Facts) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Extension:
    """Describes a service extension (RFC 5321 2.2): its additions to EHLO, MAIL and RCPT.

    Example:

        priority = ehlo.Extension("X-PRIORITY", 0, mail={"X-PRIORITY": int})
        server = ehlo.Server(handler, own_extensions=[priority])
    """

    keyword: str
    """The keyword in the EHLO reply."""
    rfc: int
    """The number of its RFC; 0 if it has none."""
    offered: Callable[[Facts], bool] = _always
    """A function that returns whether to offer it; called at each EHLO."""
    argument: Callable[[Facts], str] = _no_argument
    """A function that returns the text after the keyword; called at each EHLO."""
    mail: Mapping[str, ParseValue] = field(default_factory=dict)
    """Parsers of its MAIL parameters, by upper-case keyword.

    A parser gets the text after `=`, or `None`, and returns the value that hooks find in `params`,
    or raises `ValueError`, which becomes `501 5.5.4`.
    """
    rcpt: Mapping[str, ParseValue] = field(default_factory=dict)
    """Parsers of its RCPT parameters, as in `mail`."""
    verbs: tuple[str, ...] = ()
    """Commands of your own, in upper case: `Handler.on_command` is called for them."""
    octets: int = 0
    """Bytes that it adds to the maximum command line (RFC 5321 4.5.3.1.4)."""
    promise: bool = False
    """Whether accepting a parameter is a promise: then `555` unless it is offered now."""
    one_of: bool = False
    """Whether its parameters exclude each other."""
    needs: str = ""
    """The keyword of an extension without which this one is not offered."""
    default: Literal["on", "off", "rejected"] = "on"
    """Whether it is on without an option; off, its parameters are still accepted."""
    make: Callable[[str, Clock], Extension] | None = None
    """A function that makes the row with an option's argument; it may raise `ValueError`."""

    def mail_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield the MAIL parameters by keyword. Only the server calls this."""
        return self._parameters(self.mail)

    def rcpt_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield the RCPT parameters by keyword. Only the server calls this."""
        return self._parameters(self.rcpt)

    def _parameters(self, params: Mapping[str, ParseValue]) -> Iterator[tuple[str, Parameter]]:
        offered = self.offered if self.promise and self.offered is not _always else None
        names = frozenset(params) if self.one_of else frozenset()
        for name, parse in params.items():
            yield name, Parameter(parse, offered, names - {name})

    def turned_off(self) -> Extension:
        """Return the row as it is when not offered. Only the server calls this."""
        octets = 0 if self.default == "rejected" else self.octets
        return dataclasses.replace(self, offered=never, octets=octets)


# -- parsers of values ---------------------------------------------------------------------------


def _size(value: str | None) -> int:
    if value is None or grammar.SIZE_VALUE.fullmatch(value) is None:
        raise ValueError("not 1*20DIGIT")
    return int(value)


def _one_of(*words: str) -> Callable[[str | None], str]:
    def parse(value: str | None) -> str:
        word = (value or "").upper()
        if word not in words:
            raise ValueError(f"none of {', '.join(words)}")
        return word

    return parse


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
    # RFC 6533 3: utf-8-addr-xtext; with SMTPUTF8, which RCPT checks, utf-8-addr-unitext
    if grammar.UTF8_ADDR.fullmatch(address) is None:
        raise ValueError("neither utf-8-addr-xtext nor utf-8-addr-unitext")
    return OriginalRecipient(kind, grammar.EMBEDDED_UNICODE.sub(_unicode_point, address))


def _unicode_point(match: re.Match[str]) -> str:
    """Decode one character (RFC 6533 3); reject controls, which would not be safe."""
    character = chr(int(match[1], 16))
    if grammar.CONTROL.match(character):
        raise ValueError("no character of an address")
    return character


def _auth(value: str | None) -> str:
    """Return the mailbox (RFC 4954 5), or `""` for `<>`: no one vouches for the sender."""
    text = from_xtext(value)
    return "" if text == "<>" else text


def _priority(value: str | None) -> int:
    if grammar.PRIORITY.fullmatch(value or "") is None:
        raise ValueError("not -9 to 9")
    return int(value or "")


def _rrvs(value: str | None) -> Rrvs:
    since, semicolon, action = (value or "").partition(";")
    if semicolon and action.upper() not in ("C", "R"):
        raise ValueError("neither C nor R")
    if "." in since:  # RFC 7293 3.1: no time-secfrac
        raise ValueError("a fraction of a second")
    return Rrvs(date_time(since), action.upper() or "R")  # RFC 7293 3.1: R is the default


def _unsupported(_value: str | None) -> None:
    raise UnsupportedError("not offered")


# -- rows with an argument -----------------------------------------------------------------------


def _constant(text: str) -> Callable[[Facts], str]:
    return lambda _facts: text


def _deliver_by(argument: str, _clock: Clock) -> Extension:
    """Make DELIVERBY (RFC 2852) of the minimum in seconds, or of `""` for none."""
    if argument and grammar.SECONDS.fullmatch(argument) is None:
        raise ValueError("not a number of seconds; write one, such as 240")
    minimum = int(argument or 0)

    def by_value(value: str | None) -> DeliverBy:
        match = grammar.BY_VALUE.fullmatch(value or "")
        if match is None:
            raise ValueError("not by-time;by-mode")
        seconds, mode = int(match[1]), match[2].upper()
        if mode == "R" and seconds <= 0:  # RFC 2852 4: a syntax error
            raise ValueError("too late to return it")
        if mode == "R" and seconds < minimum:  # RFC 2852 3: to be rejected with a 55z
            raise UnsupportedError("too soon to return it")
        return DeliverBy(seconds, mode, bool(match[3]))

    return Extension(
        "DELIVERBY",
        2852,
        argument=_constant(str(minimum) if argument else ""),
        mail={"BY": by_value},
        octets=17,
        promise=True,
    )


def _future_release(argument: str, clock: Clock) -> Extension:
    """Make FUTURERELEASE (RFC 4865) of the interval in seconds, and of a date-time if there is one.

    It is for the submission of mail only (RFC 4865 3).
    """
    interval, _, date = argument.replace(",", " ").partition(" ")
    if grammar.HOLD_FOR.fullmatch(interval) is None:
        raise ValueError("not a number of seconds, with or without a date-time behind it")
    max_interval = int(interval)
    max_date_time = date_time(date) if date else None

    def latest() -> datetime:
        from datetime import timedelta  # slow to import, and few need it

        return max_date_time or clock() + timedelta(seconds=max_interval)

    def ends(_facts: Facts) -> str:
        return f"{max_interval} {latest():%Y-%m-%dT%H:%M:%SZ}"

    def hold_for(value: str | None) -> int:
        if grammar.HOLD_FOR.fullmatch(value or "") is None:
            raise ValueError("not 1 to 999999999")
        seconds = int(value or "")
        if seconds > max_interval:
            raise ValueError("out of range")
        return seconds

    def hold_until(value: str | None) -> datetime:
        until = date_time(value or "")
        if (value or "")[-1:] not in ("Z", "z") or not clock() < until <= latest():
            raise ValueError("not in UTC, passed, or too far away")
        return until

    return Extension(
        "FUTURERELEASE",
        4865,
        argument=ends,
        mail={"HOLDFOR": hold_for, "HOLDUNTIL": hold_until},
        octets=34,
        promise=True,
        one_of=True,
    )


def _mt_priority(argument: str, _clock: Clock) -> Extension:
    """Make MT-PRIORITY (RFC 6710) of the name of a policy, or of `""` for none."""
    policy = argument.upper()
    if policy not in ("", *_POLICIES):
        raise ValueError(f"none of {', '.join(_POLICIES)}")
    return Extension(
        "MT-PRIORITY",
        6710,
        argument=_constant(policy),
        mail={"MT-PRIORITY": _priority},
        octets=15,
        promise=True,  # RFC 6710 4.1: who is not trusted with a priority must not be given it
    )


# -- the table -----------------------------------------------------------------------------------


def _trusts(keyword: str, attributes: Mapping[str, object]) -> Extension:
    """Return a row of Postfix's own, for the clients that are listed."""
    return Extension(
        keyword,
        0,
        offered=lambda facts: keyword in facts.trusted,
        argument=lambda _facts: " ".join(attributes),
    )


def _limits_set(facts: Facts) -> str:
    """Return the limits for LIMITS (RFC 9422), which has no replies for exceeding them."""
    settings = facts.settings
    named = {
        "MAILMAX": settings.max_messages,
        "RCPTMAX": settings.max_recipients,
        "RCPTDOMAINMAX": settings.max_recipient_domains,
    }
    return " ".join(f"{name}={limit}" for name, limit in named.items() if 0 < limit <= _LONGEST)


# In the order of the EHLO reply
TABLE: Final = (
    Extension("PIPELINING", 2920),
    Extension(
        "SIZE",
        1870,
        argument=lambda facts: str(facts.settings.max_size),
        mail={"SIZE": _size},
        octets=26,
    ),
    Extension(
        "8BITMIME", 6152, mail={"BODY": _one_of("7BIT", "8BITMIME", "BINARYMIME")}, octets=16
    ),
    Extension("CHUNKING", 3030),
    Extension("BINARYMIME", 3030, needs="CHUNKING", default="rejected"),
    Extension("SMTPUTF8", 6531, mail={"SMTPUTF8": flag}, octets=10, needs="8BITMIME"),
    Extension("ENHANCEDSTATUSCODES", 2034),
    Extension(
        "STARTTLS", 3207, offered=lambda facts: facts.settings.tls_available and not facts.tls
    ),
    Extension(
        "AUTH",
        4954,
        offered=lambda facts: bool(facts.mechanisms),
        argument=lambda facts: " ".join(facts.mechanisms),
        mail={"AUTH": _auth},
        octets=500,
    ),
    Extension(
        "DSN",
        3461,
        mail={"RET": _one_of("FULL", "HDRS"), "ENVID": _envid},
        rcpt={"NOTIFY": _notify, "ORCPT": _orcpt},
        # RFC 3461 names no sum: all of NOTIFY, and an ORCPT of 500 (4.2), each after a space
        octets=29 + 501,
        default="off",
    ),
    _trusts("XCLIENT", xclient.XCLIENT),
    _trusts("XFORWARD", xclient.XFORWARD),
    Extension(
        "REQUIRETLS",
        8689,
        offered=lambda facts: facts.tls,
        mail={"REQUIRETLS": flag},
        octets=11,
        promise=True,
        default="rejected",
    ),
    Extension(
        "DELIVERBY",
        2852,
        mail={"BY": _unsupported},
        promise=True,
        default="rejected",
        make=_deliver_by,
    ),
    Extension(
        "FUTURERELEASE",
        4865,
        mail={"HOLDFOR": _unsupported, "HOLDUNTIL": _unsupported},
        promise=True,
        default="rejected",
        make=_future_release,
    ),
    Extension(
        "MT-PRIORITY",
        6710,
        mail={"MT-PRIORITY": _priority},
        promise=True,
        default="rejected",
        make=_mt_priority,
    ),
    Extension("RRVS", 7293, rcpt={"RRVS": _rrvs}, octets=33, promise=True, default="rejected"),
    Extension("LIMITS", 9422, argument=_limits_set, promise=True, default="rejected"),
)


def rows(
    wanted: Mapping[str, bool | str], own: Iterable[Extension], clock: Clock
) -> tuple[Extension, ...]:
    """Return the table with what is `wanted` on, off, or on with an argument, and `own` rows.

    Raises `ValueError`, which names it, for an unknown extension, for an argument that it cannot
    have, and for an own row that clashes with another.
    """
    choices = {name.upper(): choice for name, choice in wanted.items()}
    off = {name for name, choice in choices.items() if choice is False}
    unknown = choices.keys() - {row.keyword for row in TABLE}
    if unknown:
        raise ValueError(
            f"extensions: no such extension: {', '.join(sorted(unknown))}; "
            f"there are {', '.join(row.keyword for row in TABLE)}"
        )
    table = []
    for row in TABLE:
        choice = choices.get(row.keyword, row.default == "on")
        if choice is not False and row.needs in off:
            if row.keyword in choices:
                raise ValueError(f"extensions: {row.keyword} needs {row.needs}; enable both")
            choice = False
        table.append(_chosen(row, choice, clock))
    for row in own:
        _check(row, table)
        table.append(row)
    return tuple(table)


def _chosen(row: Extension, choice: bool | str, clock: Clock) -> Extension:
    if choice is False:
        return row.turned_off()
    if choice is not True and not isinstance(choice, str):
        raise ValueError(f"extensions: {row.keyword} is {choice!r}; it must be True, False or text")
    argument = choice if isinstance(choice, str) else ""
    if row.make is not None:
        try:
            return row.make(argument, clock)
        except ValueError as error:
            raise ValueError(f"extensions: {row.keyword}={argument}: {error}") from error
    if argument:
        raise ValueError(f"extensions: {row.keyword}={argument}: takes no argument")
    return row


def _check(own: Extension, table: Iterable[Extension]) -> None:
    """Raise `ValueError` if a row of the user conflicts with another row."""
    for name in (own.keyword, *own.mail, *own.rcpt):
        if grammar.EHLO_KEYWORD.fullmatch(name) is None:
            raise ValueError(f"own_extensions: {name!r} is not a keyword in upper case")
    for row in table:
        taken = (
            {row.keyword} & {own.keyword} | row.mail.keys() & own.mail | row.rcpt.keys() & own.rcpt
        )
        if taken:
            raise ValueError(f"own_extensions: {', '.join(sorted(taken))} exists; use another name")


EXTENSIONS: Final = tuple(row if row.default == "on" else row.turned_off() for row in TABLE)
"""The table as it is without options."""


def is_constant(row: Extension) -> bool:
    """Return whether a row is offered to each client, without an argument."""
    return row.offered is _always and row.argument is _no_argument
