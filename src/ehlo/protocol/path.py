"""The arguments of MAIL and RCPT: a path and typed parameters, or what is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ehlo.protocol import address, grammar
from ehlo.protocol import reply as replies
from ehlo.protocol.address import NO_PARAMETERS, NULL_PATH, Address
from ehlo.protocol.errors import ParserError
from ehlo.protocol.extensions import Parameter, UnsupportedError
from ehlo.protocol.reply import Reply

if TYPE_CHECKING:
    from ehlo.protocol.connection import Connection

__all__ = ["forward_path", "reverse_path"]

# RFC 5321 4.1.2: Path = "<" [ A-d-l ":" ] Mailbox ">". One space after the colon is tolerated;
# several before and between parameters too.
_MAIL = re.compile(
    rf"(?i:FROM): ?(?:<(?:{grammar.SOURCE_ROUTE})?{grammar.MAILBOX}>|(?P<null><>))(?P<rest> .*)?"
)
_RCPT = re.compile(rf"(?i:TO): ?<(?:{grammar.SOURCE_ROUTE})?{grammar.MAILBOX}>(?P<rest> .*)?")
# RFC 5321 4.1.1.3: "<Postmaster>", in any case, is a path of its own
_POSTMASTER = re.compile(r"(?i:TO): ?<(?P<local>(?ai:postmaster))(?P<domain>)>(?P<rest> .*)?")
_MAIL_ANY_PATH = re.compile(rf"(?i:FROM): ?{grammar.ANY_PATH.pattern}(?: .*)?")
_RCPT_ANY_PATH = re.compile(rf"(?i:TO): ?{grammar.ANY_PATH.pattern}(?: .*)?")


def reverse_path(argument: str, connection: Connection) -> Address | Reply:
    """MAIL's argument: the reverse path (RFC 5321 4.1.1.2)."""
    match = _MAIL.fullmatch(argument)
    if match is None:
        return _what_is_wrong(_MAIL_ANY_PATH, argument, replies.BAD_SENDER, replies.MAIL_SYNTAX)
    local, domain, null, rest = match.groups()
    params = NO_PARAMETERS
    if rest:
        found = _params(rest, connection.settings.mail_params, connection, utf8=True)
        if isinstance(found, Reply):
            return found
        params = found
    if "SMTPUTF8" not in params and not argument.isascii():
        return replies.SENDER_NEEDS_SMTPUTF8
    if null:
        return Address("", "", params) if params else NULL_PATH
    return address.parsed(local, domain, params) or replies.BAD_SENDER


def forward_path(argument: str, connection: Connection, smtputf8: bool) -> Address | Reply:
    """RCPT's argument: the forward path (RFC 5321 4.1.1.3)."""
    match = _RCPT.fullmatch(argument) or _POSTMASTER.fullmatch(argument)
    if match is None:
        return _what_is_wrong(_RCPT_ANY_PATH, argument, replies.BAD_RECIPIENT, replies.RCPT_SYNTAX)
    local, domain, rest = match.groups()
    if not smtputf8 and not argument.isascii() and not argument.removesuffix(rest or "").isascii():
        return replies.RECIPIENT_NEEDS_SMTPUTF8
    params = NO_PARAMETERS
    if rest:
        found = _params(rest, connection.settings.rcpt_params, connection, utf8=smtputf8)
        if isinstance(found, Reply):
            return found
        params = found
    if not domain:
        return Address(local, "", params)  # <Postmaster>
    return address.parsed(local, domain, params) or replies.BAD_RECIPIENT


def _what_is_wrong(
    any_path: re.Pattern[str], argument: str, bad_address: Reply, syntax: Reply
) -> Reply:
    """Whether the address alone is bad, or the whole form of the command."""
    return bad_address if any_path.fullmatch(argument) else syntax


def _params(
    rest: str, known: Mapping[str, Parameter], connection: Connection, *, utf8: bool
) -> Mapping[str, Any] | Reply:
    """Typed parameters by upper-case keyword (RFC 5321 4.1.1.11).

    Without `utf8` values are ASCII (RFC 6531 3.3); at MAIL it is not known yet.
    """
    params: dict[str, Any] = {}
    for word in filter(None, rest.split(" ")):
        match = grammar.ESMTP_PARAM.fullmatch(word)
        if match is None:
            return replies.BAD_PARAMETERS
        keyword, value = match[1].upper(), match[2]
        parameter = known.get(keyword)
        if parameter is None:
            if connection.settings.ignore_unknown_params:
                continue
            return replies.unknown_parameter(keyword)
        parse, offered, rivals = parameter
        if offered is not None and not offered(connection.facts()):
            return replies.unknown_parameter(keyword)
        if keyword in params or (rivals and not rivals.isdisjoint(params)):
            return replies.bad_parameter(keyword)
        if not utf8 and value is not None and not value.isascii():
            return replies.bad_parameter(keyword)
        try:
            params[keyword] = parse(value)
        except UnsupportedError:
            return replies.unsupported_value(keyword)
        except ValueError:
            return replies.bad_parameter(keyword)
        except ParserError as error:
            connection.note_failure(error)
            return replies.TROUBLE
    return MappingProxyType(params)
