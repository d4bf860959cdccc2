"""`Criteria`: which mails a test waits for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypedDict

from ehlo.faults.fault import key_of, names
from ehlo.testing.offer import check_keywords
from ehlo.testing.received import ReceivedMail, is_in, quoted
from ehlo.testing.rulebook import Rulebook

Text = str | re.Pattern[str]


class MatchOptions(TypedDict, total=False):
    """Describes the keywords that select mails; a mail must match all that are given."""

    to: Text | None
    """An envelope recipient in any case, `"@example.com"` for all of a domain, or a pattern."""
    mail_from: Text | None
    """The same for the envelope sender; `""` is a bounce."""
    subject: Text | None
    """Text in the subject, in any case, or a pattern."""
    text: Text | None
    """Text in the readable text, in any case, or a pattern."""
    match: Callable[[ReceivedMail], object] | None
    """A function that gets the mail, and returns whether it matches."""


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


def criteria_of(match: MatchOptions) -> Criteria:
    """Return what keywords say. Raises `TypeError`."""
    check_keywords("a wait for mail", match, MatchOptions.__optional_keys__)
    criteria = Criteria(**match)
    for name, value in zip(criteria._fields, criteria, strict=True):
        fits = callable(value) if name == "match" else isinstance(value, str | re.Pattern)
        if value is not None and not fits:
            wanted = "a function" if name == "match" else "text or a pattern"
            raise TypeError(f"{name} is {value!r}; it must be {wanted}")
    return criteria


class Search:
    """Looks for mails in a rulebook, at each of them once."""

    def __init__(self, rulebook: Rulebook, criteria: Criteria, count: int) -> None:
        self._rulebook = rulebook
        self._criteria = criteria
        self._count = count
        self._seen = 0
        self.found: list[ReceivedMail] = []

    def __call__(self) -> list[ReceivedMail] | None:
        """Return the mails that fit if there are enough of them."""
        self._seen, new = self._rulebook.since(self._seen)
        self.found += filter(self._criteria.fits, new)
        return self.found if len(self.found) >= self._count else None


def _is(wanted: Text, address: str) -> bool:
    """Return whether an address is the one that is wanted, by the rule of faults."""
    if isinstance(wanted, str):
        return names(wanted, key_of(address))
    return wanted.search(address) is not None


def _has(wanted: Text, text: str) -> bool:
    if isinstance(wanted, str):
        return wanted.casefold() in text.casefold()
    return is_in(wanted, text)
