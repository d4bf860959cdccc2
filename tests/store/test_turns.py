"""Turns: what a search and the index do between two moments in which other threads run is bounded.

A put needs about ten turns. So it waits for ten times what the others do in one turn, at most.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from types import FrameType

import pytest

from ehlo.content.breather import Breather
from ehlo.sqlite.connecting import Database
from ehlo.store import Delivery, Store
from ehlo.store.reading import ReaderPool
from support.storing import fill, in_loop

MOST_STEPS = 30_000  # calls of functions in one turn: a few milliseconds
QUERIES = [
    *("number", "-number", "is:unread", "nu", "subject:number", "number -other"),
    "before:2099-01-01",
]


class Counted:
    """A connection of a reader that counts its statements and the rows that come out."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.statements = 0
        self.rows = 0

    def execute(self, sql: str, values: tuple[object, ...] = ()) -> Counted:
        self.statements += 1
        self._cursor = self._database.execute(sql, values)
        return self

    def fetchone(self) -> object:
        self.rows += 1
        return self._cursor.fetchone()

    def __iter__(self) -> Iterator[object]:
        for row in self._cursor:
            self.rows += 1
            yield row


@pytest.mark.parametrize("query", QUERIES)
@in_loop
async def test_a_search_takes_as_many_turns_for_many_mails_as_for_few(
    query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[tuple[int, int]] = []
    plain = ReaderPool.do

    async def do(self: ReaderPool, read: object) -> object:
        def counted(database: Database) -> object:
            wrapped = Counted(database)
            try:
                return read(wrapped)  # type: ignore[operator]  # any function of a reader
            finally:
                counts.append((wrapped.statements, wrapped.rows))

        return await plain(self, counted)

    monkeypatch.setattr(ReaderPool, "do", do)
    async with Store.open(keep=0) as store:
        for more in (20, 100):
            await fill(store, more)
            await store.search(query, limit=10)
    few, many = counts
    assert many == few
    assert many[1] <= 10 + 2


@in_loop
async def test_the_index_rests_between_mails_and_within_a_long_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: Counter[int] = Counter()
    most = rests = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        steps[threading.get_ident()] += event in ("call", "c_call")

    def rest(_self: Breather) -> None:
        nonlocal most, rests
        rests += 1
        most = max(most, steps[threading.get_ident()])
        steps[threading.get_ident()] = 0

    monkeypatch.setattr(Breather, "rest", rest)
    threading.setprofile(count)
    try:
        store = Store.open(keep=0)
    finally:
        threading.setprofile(None)
    async with store:
        await fill(store, 100)
        await store.put(Delivery(b"Content-Type: text/html\r\n\r\n" + b"<p>a <b>word</b>" * 3_000))
        assert (await store.search("word")).found.total == 1
    assert rests > 500
    assert 0 < most < MOST_STEPS
