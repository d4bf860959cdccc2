"""`Criteria`: which mails a test waits for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypedDict

from ehlo.testing.received import ReceivedMail, is_in, quoted

Text = str | re.Pattern[str]


class MatchOptions(TypedDict, total=False):
    """Describes the keywords that say which mails are meant; those that are given must all fit."""

    to: Text | None
    """An envelope recipient (the case of its domain does not matter), or a pattern."""
    mail_from: Text | None
    """The envelope sender, or a pattern."""
    subject: Text | None
    """Text in the subject, in any case, or a pattern."""
    text: Text | None
    """Text in the readable text, in any case, or a pattern."""
    match: Callable[[ReceivedMail], object] | None
    """A function that gets the mail, and returns whether it is meant."""


class Criteria(NamedTuple):
    """Says which mails are meant."""

    to: Text | None = None
    mail_from: Text | None = None
    subject: Text | None = None
    text: Text | None = None
    match: Callable[[ReceivedMail], object] | None = None

    def fits(self, mail: ReceivedMail) -> bool:
        """Return whether `mail` is meant."""
        return (
            (self.to is None or any(_is(self.to, each) for each in mail.rcpt_tos))
            and (self.mail_from is None or _is(self.mail_from, mail.mail_from))
            and (self.subject is None or _has(self.subject, mail.subject))
            and (self.text is None or _has(self.text, mail.text))
            and (self.match is None or bool(self.match(mail)))
        )

    def __str__(self) -> str:
        return "".join(self._parts())

    def _parts(self) -> Iterator[str]:
        if self.mail_from is not None:
            yield f" from {self._address(self.mail_from)}"
        if self.to is not None:
            yield f" to {self._address(self.to)}"
        if self.subject is not None:
            yield f" with subject {quoted(self.subject)}"
        if self.text is not None:
            yield f" with text {quoted(self.text)}"
        if self.match is not None:
            yield f" that fits {getattr(self.match, '__name__', 'the function')}"

    def _address(self, wanted: Text) -> str:
        return wanted if isinstance(wanted, str) and wanted else quoted(wanted)


def _is(wanted: Text, address: str) -> bool:
    """Return whether an address is the one that is wanted."""
    if not isinstance(wanted, str):
        return wanted.search(address) is not None
    local, _, domain = wanted.rpartition("@")
    own_local, _, own_domain = address.rpartition("@")
    return local == own_local and domain.lower() == own_domain.lower()


def _has(wanted: Text, text: str) -> bool:
    if isinstance(wanted, str):
        return wanted.casefold() in text.casefold()
    return is_in(wanted, text)
