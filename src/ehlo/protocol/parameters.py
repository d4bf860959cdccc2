"""Parameters of MAIL and RCPT: how they are read, and the types of their values.

The extensions name the parameters (`extensions.py`); a parser gets the text after `=`, or `None`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ehlo.protocol import grammar
from ehlo.protocol import reply as replies
from ehlo.protocol.address import Parameters
from ehlo.protocol.policy import Policy
from ehlo.protocol.reply import Reply

if TYPE_CHECKING:
    from datetime import datetime


ParseValue = Callable[[str | None], Any]

# Their values are addresses; clients send the "=" of a VERP address as it is
_MAY_HAVE_EQUALS_SIGNS: Final = frozenset({"ENVID", "ORCPT", "AUTH"})


class UnsupportedError(ValueError):
    """Raised by a parser for a well-formed value that this server does not support: `555`."""


class ParserError(Exception):
    """Raised when a parser of the user failed: a local error, not the client's mistake."""


class Facts(NamedTuple):
    """Holds the facts that decide whether an extension is offered now.

    Example:

        ehlo.Extension("X-SECRET", 0, offered=lambda facts: facts.tls)
    """

    settings: Policy
    """The rules of the listener."""
    tls: bool
    """Whether the connection uses TLS."""
    mechanisms: tuple[str, ...]
    """The mechanisms that the client may use now; none after a login."""
    trusted: frozenset[str] = frozenset()
    """The commands that this client may use: XCLIENT, XFORWARD."""


class Parameter(NamedTuple):
    """How to read one parameter of MAIL or RCPT."""

    parse: ParseValue
    offered: Callable[[Facts], bool] | None
    """Return whether it is accepted now; `None` for always."""
    rivals: frozenset[str]
    """Parameters that exclude it."""


def read(
    text: str,
    known: Mapping[str, Parameter],
    facts: Callable[[], Facts],
    *,
    utf8: bool,
    ignore_unknown: bool,
) -> Parameters | Reply:
    """Return typed values by upper-case keyword, or the reply that rejects `text`.

    Without `utf8`, values must be ASCII (RFC 6531 3.3). Raises `ParserError` for a parser of the
    user that failed. RFC 5321 4.1.1.11.
    """
    values: dict[str, object] = {}
    for word in filter(None, text.split(" ")):
        match = grammar.ESMTP_PARAM.fullmatch(word)
        if match is None:
            return replies.BAD_PARAMETERS
        keyword, value = match[1].upper(), match[2]
        if value is not None and "=" in value and keyword not in _MAY_HAVE_EQUALS_SIGNS:
            return replies.BAD_PARAMETERS
        parameter = known.get(keyword)
        if parameter is None:
            if ignore_unknown:
                continue
            return replies.unknown_parameter(keyword)
        parse, offered, rivals = parameter
        if offered is not None and not offered(facts()):
            return replies.unknown_parameter(keyword)
        if keyword in values or (rivals and not rivals.isdisjoint(values)):
            return replies.bad_parameter(keyword)
        if not utf8 and value is not None and not value.isascii():
            return replies.bad_parameter(keyword)
        try:
            values[keyword] = parse(value)
        except UnsupportedError:
            return replies.unsupported_value(keyword)
        except ValueError:
            return replies.bad_parameter(keyword)
    return MappingProxyType(values)


# -- values --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OriginalRecipient:
    """Holds the value of ORCPT (RFC 3461 4.2).

    Example:

        async def on_rcpt(self, session, recipient, params):
            original = params.get("ORCPT")
            if original is not None and original.addr_type == "rfc822":
                print(original.address)
    """

    addr_type: str
    """The type of the address, in lower case."""
    address: str
    """The address, decoded."""


class DeliverBy(NamedTuple):
    """Holds the value of BY (RFC 2852 4).

    Example:

        async def on_mail(self, session, sender, params):
            by = params.get("BY")
            if by is not None and by.mode == "R" and by.seconds < 60:
                raise ehlo.Reject(455, "4.4.7", "Cannot deliver within a minute")
    """

    seconds: int
    """Seconds until the message must be delivered; may be 0 or less if `mode` is `"N"`."""
    mode: str
    """What to do after that: `"R"` return the message, `"N"` notify the sender."""
    trace: bool
    """Whether each relay is to be reported."""


class Rrvs(NamedTuple):
    """Holds the value of RRVS (RFC 7293 3.1).

    Example:

        async def on_rcpt(self, session, recipient, params):
            rrvs = params.get("RRVS")
            if rrvs is not None and self.created(recipient) > rrvs.since:
                raise ehlo.Reject(550, "5.7.17", "Mailbox owner has changed")
    """

    since: datetime
    """The time, in UTC, since which the mailbox must have had the same owner."""
    action: str
    """What a relay does that cannot pass this on: `"R"` reject, `"C"` continue."""


def flag(value: str | None) -> bool:
    """Return `True` for a parameter without a value. Raises `ValueError` for one with a value."""
    if value is not None:
        raise ValueError("takes no value")
    return True


def date_time(text: str) -> datetime:
    """Return a date-time of RFC 3339 5.6 in UTC. Raises `ValueError`.

    A leap second, which `datetime` does not know, becomes the second before it.
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
