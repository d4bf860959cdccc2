"""Extensions that are offered by option: a function for each makes its row, and `rows` the table.

What is switched off is not offered; the parameters that real mail carries are taken all the same,
and those that would be a promise are refused. Time is handed in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from ehlo.protocol import grammar
from ehlo.protocol.extensions import EXTENSIONS, Extension, Facts, UnsupportedError, flag, never

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "OPTIONAL",
    "Clock",
    "DeliverBy",
    "Rrvs",
    "date_time",
    "deliver_by",
    "dsn",
    "future_release",
    "limits",
    "mt_priority",
    "requiretls",
    "rows",
    "rrvs",
]

Clock = Callable[[], "datetime"]
"""The time now, with its time zone."""

_LONGEST = 999_999  # RFC 9422 4: limits have at most six digits
_POLICIES: Final = ("MIXER", "STANAG4406", "NSEP")  # RFC 6710 9.2: the default, and two more


class DeliverBy(NamedTuple):
    """BY's value (RFC 2852 4)."""

    seconds: int
    """Until the message is to be delivered; may be 0 or less where `mode` is `"N"`."""
    mode: str
    """What then: `"R"` for return, `"N"` for notify."""
    trace: bool
    """Whether each relay is to be reported."""


class Rrvs(NamedTuple):
    """RRVS's value (RFC 7293 3.1)."""

    since: datetime
    """In UTC: the mailbox must have had the same owner all the time since."""
    action: str
    """What a relay is to do where it cannot pass this on: `"R"` for reject, `"C"` for continue."""


# -- one function an extension ---------------------------------------------------------------------


def _says(text: str) -> Callable[[Facts], str]:
    return lambda _facts: text


def dsn() -> Extension:
    """RFC 3461: the server promises to send reports, or to pass the wish on."""
    row = next(row for row in EXTENSIONS if row.keyword == "DSN")
    return Extension("DSN", row.rfc, mail=row.mail, rcpt=row.rcpt, octets=row.octets)


def requiretls() -> Extension:
    """RFC 8689: the server promises to pass the message on under TLS only. Offered under TLS."""
    return Extension(
        "REQUIRETLS",
        8689,
        offered=lambda facts: facts.tls,
        mail={"REQUIRETLS": flag},
        octets=11,
        promise=True,
    )


def deliver_by(minimum: int | None = None) -> Extension:
    """RFC 2852: `minimum` is the fewest seconds until a message may be returned; none if `None`."""

    def by_value(value: str | None) -> DeliverBy:
        match = grammar.BY_VALUE.fullmatch(value or "")
        if match is None:
            raise ValueError("not by-time;by-mode")
        seconds, mode = int(match[1]), match[2].upper()
        if mode == "R" and seconds <= 0:  # RFC 2852 4: a syntax error
            raise ValueError("too late to return it")
        if mode == "R" and seconds < (minimum or 0):  # RFC 2852 3: to be refused with a 55z
            raise UnsupportedError("too soon to return it")
        return DeliverBy(seconds, mode, bool(match[3]))

    said = "" if minimum is None else str(minimum)
    return Extension(
        "DELIVERBY", 2852, argument=_says(said), mail={"BY": by_value}, octets=17, promise=True
    )


def future_release(max_interval: int, max_date_time: datetime | None, clock: Clock) -> Extension:
    """RFC 4865: `max_interval` is in seconds; by default `max_date_time` is as far away as that.

    It is for the submission of mail alone (RFC 4865 3), and for listeners that do that.
    """

    def latest() -> datetime:
        from datetime import timedelta  # slow to import, and few need it

        return max_date_time or clock() + timedelta(seconds=max_interval)

    def argument(_facts: Facts) -> str:
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
        argument=argument,
        mail={"HOLDFOR": hold_for, "HOLDUNTIL": hold_until},
        octets=34,
        promise=True,
        one_of=True,
    )


def mt_priority(policy: str = "") -> Extension:
    """RFC 6710: `policy` is the name of one, which tells clients what the values mean; or `""`.

    The value is the one asked for, -9 to 9. Who acts on another says so with x.3.6, and begins the
    text with the new one, in the answer to MAIL or in the final reply. A positive one of a client
    that is not trusted with it must not be acted on (RFC 6710 4.1).
    """

    def priority(value: str | None) -> int:
        if grammar.PRIORITY.fullmatch(value or "") is None:
            raise ValueError("not -9 to 9")
        return int(value or "")

    return Extension(
        "MT-PRIORITY",
        6710,
        argument=_says(policy),
        mail={"MT-PRIORITY": priority},
        octets=15,
        promise=True,
    )


def rrvs() -> Extension:
    """RFC 7293: the server promises to look whether a mailbox has changed hands."""
    return Extension("RRVS", 7293, rcpt={"RRVS": _rrvs_value}, octets=33, promise=True)


def _rrvs_value(value: str | None) -> Rrvs:
    since, semicolon, action = (value or "").partition(";")
    if semicolon and action.upper() not in ("C", "R"):
        raise ValueError("neither C nor R")
    if "." in since:  # RFC 7293 3.1: no time-secfrac
        raise ValueError("a fraction of a second")
    return Rrvs(date_time(since), action.upper() or "R")  # RFC 7293 3.1: R is the default


def limits() -> Extension:
    """RFC 9422: what the settings say of messages, recipients and domains.

    It has no reply codes for who goes beyond them. Recipients that were refused do not count here.
    """
    return Extension("LIMITS", 9422, argument=_limits_set)


def _limits_set(facts: Facts) -> str:
    settings = facts.settings
    named = {
        "MAILMAX": settings.max_messages,
        "RCPTMAX": settings.max_recipients,
        "RCPTDOMAINMAX": settings.max_recipient_domains,
    }
    return " ".join(f"{name}={limit}" for name, limit in named.items() if 0 < limit <= _LONGEST)


def date_time(text: str) -> datetime:
    """RFC 3339 5.6: a date-time, in UTC. Raises `ValueError`.

    A leap second, which `datetime` does not know, is the second before it.
    """
    from datetime import UTC, datetime, timedelta, timezone  # slow to import, and few need it

    match = grammar.DATE_TIME.fullmatch(text)
    if match is None:
        raise ValueError("not a date-time of RFC 3339")
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    micro = int((match[7] or "")[:6].ljust(6, "0"))
    zone = match[8].upper().replace("Z", "+00:00")
    east = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:]))
    if int(zone[4:]) > 59:
        raise ValueError("an hour has 60 minutes")
    second -= second == 60
    local = datetime(
        year, month, day, hour, minute, second, micro, timezone(-east if zone[0] == "-" else east)
    )
    try:
        return local.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("before the year 1, or after 9999") from error


# -- by option -------------------------------------------------------------------------------------


def rows(
    wanted: Mapping[str, bool | str], own: Iterable[Extension], clock: Clock
) -> tuple[Extension, ...]:
    """The table, with what is `wanted` on, off, or on with an argument, and a user's `own` rows.

    Raises `ValueError`, which names it, for an extension that is not known, for an argument that
    it cannot have, and for a row that clashes with another.
    """
    choices = {name.upper(): choice for name, choice in wanted.items()}
    unknown = choices.keys() - {row.keyword for row in EXTENSIONS}
    if unknown:
        raise ValueError(f"extensions: no such extension: {', '.join(sorted(unknown))}")
    table = [_row(row, choices.get(row.keyword), clock) for row in EXTENSIONS]
    for row in own:
        _check(row, table)
        table.append(row)
    return tuple(table)


def _row(row: Extension, choice: bool | str | None, clock: Clock) -> Extension:
    if choice is False:
        return dataclasses.replace(row, offered=never)
    if choice is None:
        return row
    argument = choice if isinstance(choice, str) else ""
    make = OPTIONAL.get(row.keyword)
    if make is not None:
        try:
            return make(argument, clock)
        except ValueError as error:
            raise ValueError(f"extensions: {row.keyword}={argument}: {error}") from error
    if argument:
        raise ValueError(f"extensions: {row.keyword} takes no argument")
    return row


def _check(own: Extension, table: Iterable[Extension]) -> None:
    """Whether a user's row can stand beside the others."""
    for name in (own.keyword, *own.mail, *own.rcpt):
        if grammar.EHLO_KEYWORD.fullmatch(name) is None:
            raise ValueError(f"own_extensions: no keyword in upper case: {name!r}")
    for row in table:
        taken = (
            {row.keyword} & {own.keyword} | row.mail.keys() & own.mail | row.rcpt.keys() & own.rcpt
        )
        if taken:
            raise ValueError(f"own_extensions: there is one already: {', '.join(sorted(taken))}")


def _with_none(make: Callable[[], Extension]) -> Callable[[str, Clock], Extension]:
    """For a row that takes no argument."""

    def made(argument: str, _clock: Clock) -> Extension:
        if argument:
            raise ValueError("takes no argument")
        return make()

    return made


def _deliver_by(argument: str, _clock: Clock) -> Extension:
    if argument and grammar.SECONDS.fullmatch(argument) is None:
        raise ValueError("not a number of seconds")
    return deliver_by(int(argument) if argument else None)


def _future_release(argument: str, clock: Clock) -> Extension:
    interval, _, until = argument.replace(",", " ").partition(" ")
    if grammar.HOLD_FOR.fullmatch(interval) is None:
        raise ValueError("not a number of seconds, with or without a date-time behind it")
    return future_release(int(interval), date_time(until) if until else None, clock)


def _mt_priority(argument: str, _clock: Clock) -> Extension:
    if argument.upper() not in ("", *_POLICIES):
        raise ValueError(f"none of {', '.join(_POLICIES)}")
    return mt_priority(argument.upper())


OPTIONAL: Final[Mapping[str, Callable[[str, Clock], Extension]]] = MappingProxyType(
    {
        "DSN": _with_none(dsn),
        "REQUIRETLS": _with_none(requiretls),
        "DELIVERBY": _deliver_by,
        "FUTURERELEASE": _future_release,
        "MT-PRIORITY": _mt_priority,
        "RRVS": _with_none(rrvs),
        "LIMITS": _with_none(limits),
    }
)
"""Makes the row of an extension of what a user gives as its argument."""
