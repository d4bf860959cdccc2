"""Extensions of the user: checks their commands, and catches failures of their functions.

If a function raises an unexpected exception, it has a bug, which is not the client's fault.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NoReturn, TypeVar

from ehlo.handler import Callbacks
from ehlo.protocol import grammar
from ehlo.protocol.extensions import Extension, is_constant
from ehlo.protocol.parameters import ExtensionError, Facts, ParseValue
from ehlo.protocol.reply import Reply, hello
from ehlo.protocol.settings import Settings
from ehlo.protocol.verbs import VERBS

Kind = TypeVar("Kind")


def guarded(row: Extension) -> Extension:
    """Return a user's row whose functions raise `ExtensionError` where they have a bug."""
    if not is_constant(row):
        row = dataclasses.replace(
            row,
            offered=_guarded_function(row.keyword, _checked_offer(row)),
            argument=_guarded_function(row.keyword, _checked_argument(row)),
        )
    return dataclasses.replace(
        row,
        mail={keyword: _guarded_parser(keyword, parse) for keyword, parse in row.mail.items()},
        rcpt={keyword: _guarded_parser(keyword, parse) for keyword, parse in row.rcpt.items()},
    )


def _checked_offer(row: Extension) -> Callable[[Facts], bool]:
    def offered(facts: Facts) -> bool:
        return bool(row.offered(facts))  # which may raise, as that of an array does

    return offered


def _checked_argument(row: Extension) -> Callable[[Facts], str]:
    def argument(facts: Facts) -> str:
        text = row.argument(facts)
        Reply(250, None, f"{row.keyword} {text}".rstrip())  # raises if no reply can have it
        return text

    return argument


def _guarded_function(keyword: str, function: Callable[[Facts], Kind]) -> Callable[[Facts], Kind]:
    def guarded(facts: Facts) -> Kind:
        try:
            return function(facts)
        except (Exception, SystemExit) as error:
            raise ExtensionError(f"the extension {keyword} failed") from error

    return guarded


def _guarded_parser(keyword: str, parse: ParseValue) -> ParseValue:
    def guarded(value: str | None) -> object:
        try:
            return parse(value)
        except ValueError:
            raise
        except (Exception, SystemExit) as error:
            raise ExtensionError(f"the parser of {keyword} failed") from error

    return guarded


def check_verbs(settings: Settings, callbacks: Callbacks) -> None:
    """Check that a user's own commands do not hide those of SMTP, and can be called."""
    for verb in settings.own_verbs:
        if verb in VERBS or grammar.OWN_VERB.fullmatch(verb) is None:
            raise ValueError(
                f"own_extensions: {verb!r} cannot be a command; it must be upper case, and none "
                "of SMTP's"
            )
    if settings.own_verbs and "on_command" not in callbacks:
        raise ValueError("own_extensions has commands; define on_command to answer them")


def check_hello(settings: Settings) -> None:
    """Check that the reply to EHLO can be sent, whatever a user's own extension adds to it."""
    for tls in (False, True):
        facts = Facts(settings, tls, settings.usable_mechanisms(tls=tls))
        lines = settings.offers.lines(facts, _raise)
        hello(settings.hostname, "", Reply(250, None, "\n".join(lines)))


def _raise(error: Exception) -> NoReturn:
    raise error.__cause__ or error
