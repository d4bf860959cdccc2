"""Offers: the lines of EHLO after the first one, made of the rows of the extensions.

If the functions of a user's row fail, the row is left out, and the session continues without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable

from ehlo.protocol.extensions import TABLE, Extension, is_constant
from ehlo.protocol.parameters import ExtensionError, Facts
from ehlo.protocol.reply import Reply


class Offers:
    """Makes the lines of EHLO after the first one.

    They are made once for each kind of client, unless a row has functions of the user, or was made
    with the argument of an option. Then all rows are asked at each EHLO.
    """

    __slots__ = ("_kept", "_lasting", "_rows")

    def __init__(self, table: Iterable[Extension], keywords: Collection[str]) -> None:
        """`keywords` are those of the rows that may be offered at all."""
        self._rows = tuple(
            row
            for row in table
            if row.keyword in keywords and (not row.needs or row.needs in keywords)
        )
        self._lasting = all(row in TABLE or is_constant(row) for row in self._rows)
        self._kept: dict[Hashable, Reply | None] = {}

    def lines(self, facts: Facts, failed: Callable[[ExtensionError], object]) -> list[str]:
        """Return the lines for a client with these facts.

        A row of the user whose functions fail is left out, and `failed` is called with the error.
        """
        found: list[str] = []
        for row in self._rows:
            try:
                if row.offered(facts):
                    found.append(f"{row.keyword} {row.argument(facts)}".rstrip())
            except ExtensionError as error:
                failed(error)
        return found

    def reply(
        self,
        kind: Hashable,
        facts: Callable[[], Facts],
        failed: Callable[[ExtensionError], object],
    ) -> Reply | None:
        """Return the lines for a client of a `kind`, which decides on its facts, as one reply.

        `None` stands for none; `failed` is as above.
        """
        if kind in self._kept:
            return self._kept[kind]
        lines = self.lines(facts(), failed)
        reply = Reply(250, None, "\n".join(lines)) if lines else None
        if self._lasting:
            self._kept[kind] = reply
        return reply
