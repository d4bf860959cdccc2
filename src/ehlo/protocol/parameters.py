"""Parameters of MAIL and RCPT: how they are read, and the types of their values.

The extensions name the parameters (`extensions.py`); a parser gets the text after `=`, or `None`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypedDict

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


class ExtensionError(Exception):
    """Raised when a function of a user's extension failed: a local error, not the client's."""


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

    Without `utf8`, values must be ASCII (RFC 6531 3.3). Raises `ExtensionError` if an
    extension of the user failed. RFC 5321 4.1.1.11.
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


# The keyword is no identifier, so it cannot have a docstring
_Priority = TypedDict("_Priority", {"MT-PRIORITY": int}, total=False)


class MailParams(_Priority, total=False):
    """Describes the ESMTP parameters of MAIL, by upper-case keyword, as `on_mail` gets them.

    Only those that the client sent are there: use `params.get("SIZE")`. `MT-PRIORITY` is an `int`
    from -9 to 9 (RFC 6710 4.1). A parameter of your own `Extension` is there, too; for a type
    checker, read it from `sender.params`. The mapping is read-only (RFC 5321 4.1.2).

    Example:

        async def on_mail(self, session, sender, params):
            if params.get("SIZE", 0) > self.quota:
                raise ehlo.Reject(452, "4.2.2", "Mailbox full")
    """

    SIZE: int
    """The size of the message in bytes, as the client declares it (RFC 1870)."""
    BODY: Literal["7BIT", "8BITMIME", "BINARYMIME"]
    """The kind of bytes in the body (RFC 6152; RFC 3030 for BINARYMIME)."""
    SMTPUTF8: Literal[True]
    """There if addresses and header fields may be UTF-8 (RFC 6531)."""
    RET: Literal["FULL", "HDRS"]
    """What a report about a failure returns: all of the message or its header (RFC 3461 4.3)."""
    ENVID: str
    """The sender's id of the envelope, for reports, decoded (RFC 3461 4.4)."""
    AUTH: str
    """The identity that submitted the message, or `""` for `<>` (RFC 4954 5). It is a claim."""
    REQUIRETLS: Literal[True]
    """There if each relay must use TLS, and verify the next one (RFC 8689)."""
    BY: DeliverBy
    """The time until which to deliver the message (RFC 2852)."""
    HOLDFOR: int
    """Seconds for which to hold the message (RFC 4865)."""
    HOLDUNTIL: datetime
    """The time, in UTC, until which to hold the message (RFC 4865)."""


class RcptParams(TypedDict, total=False):
    """Describes the ESMTP parameters of RCPT, by upper-case keyword, as `on_rcpt` gets them.

    Only those that the client sent are there. A parameter of your own `Extension` is there, too;
    for a type checker, read it from `recipient.params`. The mapping is read-only.

    Example:

        async def on_rcpt(self, session, recipient, params):
            if "NEVER" in params.get("NOTIFY", ()):
                session.transaction.state.silent = True
    """

    NOTIFY: frozenset[Literal["NEVER", "SUCCESS", "FAILURE", "DELAY"]]
    """When to send a report to the sender (RFC 3461 4.1)."""
    ORCPT: OriginalRecipient
    """The recipient that the sender gave, before any forwarding (RFC 3461 4.2)."""
    RRVS: Rrvs
    """The time since which the mailbox must have had the same owner (RFC 7293)."""


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
