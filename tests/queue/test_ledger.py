"""The statements of the ledger of an SQLite file, without a server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ehlo.queue import ledger
from ehlo.queue.entries import PLACES, Act, Arrival, Settled
from ehlo.queue.timing import Persistence
from ehlo.sqlite.connecting import Database
from ehlo.sqlite.errors import StoreError

STEPS = 1_000  # of SQLite's machine, between two counts
PATIENCE = Persistence(5, 3600, 3, float("inf"))


def row(number: int, recipients: int = 1, file: str | None = None) -> ledger.FiledRow:
    """Return a message for so many recipients."""
    paths = [f'["r{place}","x.test"]' for place in range(recipients)]
    arrival = Arrival(f"id-{number}", '["",""]', paths, "{}", 1, b"", b"")
    return ledger.FiledRow(arrival, None, "d", 0.0, file, None if file else b"x")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with contextlib.closing(ledger.open_ledger(tmp_path / "mail-0.db")) as database:
        yield database


def steps(database: Database, work: Callable[[], object]) -> int:
    """Return how many thousand steps SQLite needs for some work."""
    count = 0

    def note() -> int:
        nonlocal count
        count += 1
        return 0

    database.set_progress_handler(note, STEPS)
    work()
    database.set_progress_handler(None, 0)
    return count


@pytest.mark.parametrize("what", ["retry", "hold", "drop"])
def test_a_message_is_found_by_its_id_without_a_look_at_all_others(
    database: Database, what: Act
) -> None:
    database.execute("BEGIN")
    numbers = ledger.insert(database, [row(number) for number in range(5_000)])
    assert steps(database, lambda: ledger.listed(database)) > 0  # a page of all
    assert steps(database, lambda: ledger.listed(database, (), "id-4000")) == 0
    assert steps(database, lambda: ledger.act(database, what, "id-4000", 1.0)) == 0
    found = ledger.listed(database, (), "id-4000")
    assert [number for number, _ in found] == ([] if what == "drop" else [numbers[4_000] * PLACES])
    database.execute("COMMIT")


def test_a_message_ends_with_its_last_delivery_and_takes_no_neighbor_with_it(
    database: Database,
) -> None:
    first, middle, last = ledger.insert(database, [row(number, 3) for number in range(3)])
    done = [Settled(middle * PLACES + place) for place in (0, 2)]
    ledger.settle(database, done, None, 1.0)
    assert [each.id for _, each in ledger.listed(database)] == [
        *(["id-0"] * 3),
        "id-1",
        *(["id-2"] * 3),
    ]
    ledger.settle(database, [Settled(middle * PLACES + 1)], None, 1.0)
    numbers = [number for (number,) in database.execute("SELECT number FROM messages")]
    assert numbers == [first, last]
    assert len(ledger.listed(database)) == 6


def test_a_claim_has_all_deliveries_of_its_message_and_no_others(database: Database) -> None:
    numbers = ledger.insert(database, [row(number, 3) for number in range(3)])
    ((claimed,), _, _) = ledger.claim(database, 1.0, "one", 60, 1, PATIENCE)
    assert claimed.number == numbers[0]
    assert [due.number for due in claimed.deliveries] == [
        numbers[0] * PLACES + place for place in range(3)
    ]


def test_the_names_of_files_are_returned_if_there_are_some(database: Database) -> None:
    numbers = ledger.insert(database, [row(1, file="one"), row(2), row(3, file="three")])
    kept, *done = [Settled(number * PLACES) for number in numbers]
    assert ledger.settle(database, done, None, 1.0) == ["three"]
    assert ledger.settle(database, [kept], None, 1.0, has_files=False) == []
    assert ledger.files_in_use(database) == set()


def test_a_file_of_the_first_schema_is_upgraded_and_keeps_its_mail(tmp_path: Path) -> None:
    path = tmp_path / "mail-0.db"
    with contextlib.closing(ledger.open_ledger(path)) as old:
        (number,) = ledger.insert(old, [row(1, 2)])
        old.execute("CREATE INDEX deliveries_by_message ON deliveries(message)")
        old.execute("PRAGMA user_version = 1")
    with contextlib.closing(ledger.open_ledger(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)
        index = "SELECT 1 FROM sqlite_schema WHERE name = 'deliveries_by_message'"
        assert database.execute(index).fetchone() is None
        ((claimed,), _, _) = ledger.claim(database, 1.0, "one", 60, 1, PATIENCE)
        assert (claimed.number, len(claimed.deliveries)) == (number, 2)


def test_a_file_whose_deliveries_are_numbered_otherwise_is_refused(tmp_path: Path) -> None:
    """The end of one delivery would delete the message of another."""
    path = tmp_path / "mail-0.db"
    with contextlib.closing(ledger.open_ledger(path)) as old:
        ledger.insert(old, [row(1)])
        old.execute("UPDATE deliveries SET number = 1")
        old.execute("PRAGMA user_version = 1")
    with pytest.raises(StoreError, match="deliver its mail with that one"):
        ledger.open_ledger(path)
