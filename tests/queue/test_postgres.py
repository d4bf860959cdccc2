"""The queue on PostgreSQL: what it needs at the start, what it stores, and several processes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ehlo import Queue, Reply, Retry
from ehlo.message import Spool
from ehlo.net import Peer
from ehlo.queue.books import open_books
from ehlo.queue.entries import Arrival, Haul
from ehlo.queue.postgres import cluster, taking
from ehlo.queue.postgres.batches import Packed, store
from ehlo.queue.postgres.schema import check_durable, ensure_schema
from ehlo.queue.timing import Persistence
from ehlo.queue.urls import DatabaseURL, is_postgres, shown
from ehlo.sqlite.errors import StoreError
from interop.peers import peer
from support.client import Client
from support.postgres import Database
from support.program import Start, completed
from support.queueing import Player, PostgresBench, deliver, serving, wait_until

QUEUED = "250 2.0.0 Ok: queued as "
MIB = 1 << 20


@pytest.fixture
def bench(database: Database) -> PostgresBench:
    return PostgresBench(database)


# -- the start -------------------------------------------------------------------------------------


class Configured:
    """A connection whose server has these settings, in the order in which they are asked for."""

    def __init__(self, **settings: str) -> None:
        usual = {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "synchronous_standby_names": "",
            "server_encoding": "UTF8",
        }
        self._row = [*{**usual, **settings}.values()]

    async def fetchrow(self, query: str, *values: object) -> list[Any]:
        return [*self._row, False]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"fsync": "off"}, "fsync is off, so a crash loses mail; set fsync = on"),
        ({"full_page_writes": "off"}, "full_page_writes is off, .* set full_page_writes = on"),
        ({"synchronous_commit": "off"}, "synchronous_commit is off, .*synchronous_commit = on"),
        (
            {"synchronous_commit": "local", "synchronous_standby_names": "*"},
            "synchronous_commit is local",
        ),
        ({"server_encoding": "LATIN1"}, "the encoding is LATIN1"),
    ],
    ids=str,
)
def test_settings_that_lose_mail_are_an_error(settings: dict[str, str], error: str) -> None:
    connection: Any = Configured(**settings)
    with pytest.raises(StoreError, match=error):
        asyncio.run(check_durable(connection))


@pytest.mark.parametrize("commit", ["on", "local", "remote_write", "remote_apply"])
def test_each_setting_that_flushes_is_accepted(commit: str) -> None:
    connection: Any = Configured(synchronous_commit=commit)
    asyncio.run(check_durable(connection))


def test_a_server_that_would_lose_mail_is_an_error_at_the_start(database: Database) -> None:
    url = f"{database.url}&synchronous_commit=off"
    with (
        pytest.raises(ValueError, match=r"queue: postgresql://.*synchronous_commit is off"),
        serving(Queue(url, Player())),
    ):
        pass


def test_a_server_that_is_not_there_is_an_error_at_the_start(tmp_path: Path) -> None:
    url = f"postgresql://ehlo:secret@/postgres?host={tmp_path}"
    for accepts in (True, False):
        with (
            pytest.raises(ValueError, match=r"cannot be reached .*; start PostgreSQL") as caught,
            serving(Queue(url, Player(), accepts=accepts)),
        ):
            pass
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql://u:secret@h/d?statement_cache_size=x", "must be a whole number"),
        ("postgresql://u:secret@h:x/d", "cannot be read; write postgresql://"),
        ("postgres://u:secret@[h/d", "not a URL; write postgresql://"),
    ],
)
def test_a_wrong_url_is_an_error_without_its_password(url: str, error: str) -> None:
    with pytest.raises(ValueError, match=error) as caught, serving(Queue(url, Player())):
        pass
    assert "secret" not in str(caught.value)


def test_without_asyncpg_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'ehlo\[postgres\]'"):
        Queue("postgresql://h/d", Player())


def test_a_url_is_shown_without_its_password() -> None:
    url = "postgresql://u:secret@h:5433/d?password=secret&statement_cache_size=0&search_path=mail"
    assert Queue(url, Player()).url == "postgresql://u@h:5433/d"
    parts = DatabaseURL.of(url)
    assert parts.is_pooled
    assert "statement_cache_size" not in parts.dsn
    assert "secret" in parts.dsn
    with pytest.raises(ValueError, match="two queues") as caught:
        Queue(url, Queue(url, Player()))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql://u:secret/x@h/d", "postgresql://..."),
        ("postgresql://u:secret#x@h/d", "postgresql://..."),
        ("postgresql://u:secret?x@h/d", "postgresql://..."),
        ("postgresql://u:secret/d", "postgresql://..."),
        ("postgresql://u:secret@x@h:5433,[::1]:5434/d", "postgresql://u@h:5433,[::1]:5434/d"),
        ("postgresql://u@/d?host=/run&sslpassword=secret", "postgresql://u@/d"),
        ("postgresql+asyncpg://u:secret@h/d", "postgresql+asyncpg://u@h/d"),
        ("POSTGRESQL://u:secret@h/d", "POSTGRESQL://u@h/d"),
        ("u:secret@h://d", "://..."),
    ],
)
def test_no_url_is_shown_with_a_password(url: str, wanted: str) -> None:
    assert shown(url) == wanted
    if not is_postgres(url):
        with pytest.raises(ValueError, match="not supported") as caught:
            Queue(url, Player())
        assert "secret" not in str(caught.value)


def test_front_ends_that_start_together_make_one_schema(bench: PostgresBench) -> None:
    async def start() -> None:
        connections = await asyncio.gather(*(asyncpg.connect(bench.url) for _ in range(8)))
        made = [ensure_schema(each) for each in connections]
        failures = await asyncio.gather(*made, return_exceptions=True)
        await asyncio.gather(*(each.close() for each in connections))
        assert failures == [None] * 8

    asyncio.run(start())
    assert bench.database.fetch("SELECT version FROM ehlo_schema") == [(1,)]


def test_the_tables_of_a_newer_ehlo_are_an_error(bench: PostgresBench) -> None:
    with serving(bench.queue(Player())):
        pass
    bench.database.execute("UPDATE ehlo_schema SET version = 2")
    with (
        pytest.raises(ValueError, match=r"made by a newer ehlo .*; upgrade ehlo"),
        serving(bench.queue(Player())),
    ):
        pass


# -- what is stored --------------------------------------------------------------------------------


def test_whatever_an_envelope_holds_is_stored_and_read_again(bench: PostgresBench) -> None:
    longest = "l" * 64 + "@" + ".".join(["d" * 61] * 4)
    recipients = ["δοκιμή@пример.test", '"a\\"b\\\\ c"@x.test', longest, "'; DROP TABLE x@x.test"]
    recipients[3] = '"\'; DROP TABLE ehlo_messages; --"@x.test'
    player = Player(OSError("\0 \ud800 \x1b é"))
    with serving(bench.queue(player)) as server, Client(server.addresses[0]) as client:
        client.reply()
        client.say("EHLO client.example")
        client.send("MAIL FROM:<é@x.test> SMTPUTF8\r\n".encode())
        assert client.reply().startswith("250")
        for each in recipients:
            client.send(f"RCPT TO:<{each}>\r\n".encode())
            assert client.reply().startswith("250")
        client.say("DATA")
        body = bytes(range(256)).replace(b"\r", b"").replace(b"\n", b"") + b"\r\n"
        client.send(body + b".\r\n")
        assert client.reply().startswith(QUEUED)
        _, message = player.next()
        assert message.body == body
        assert [str(each) for each in message.recipients] == recipients
        assert message.sender == "é@x.test"
        wait_until(server, lambda: {row[0] for row in bench.rows("state")} == {"waiting"})
        ((error,),) = set(bench.rows("deliveries.error"))
        assert error == "OSError: \\x00 \\ud800 \\x1b é"
        bench.advance(10)
        _, message = player.next()
        assert [str(each) for each in message.recipients] == recipients


@pytest.mark.parametrize("size", [0, 70_000, MIB, MIB + 1, 3 * MIB])
def test_a_body_of_any_size_comes_as_it_was(bench: PostgresBench, size: int) -> None:
    line = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789ab\r\n"
    body = (line * (size // len(line) + 1))[: size - 2] + b"\r\n" if size else b""
    player = Player(Retry(after=1))
    with serving(bench.queue(player), spool_threshold=100_000) as server:
        deliver(server, "b@x.test", "c@x.test", body=body)
        _, first = player.next()
        assert (first.body, first.size) == (body, size)
        assert first.spooled == (size > MIB)
        assert b"".join(first.stream()) == first.data == first.trace + body
        ((chunks,),) = bench.database.fetch("SELECT count(*) FROM ehlo_bodies")
        assert chunks == (-(-size // MIB) if size > MIB else 0)
        wait_until(server, lambda: bench.rows("state") == [("waiting",)] * 2)
        with open_books(bench.url) as books:
            assert b"".join(books.content(first.id)) == first.data
        bench.advance(2)
        _, second = player.next()
        assert (second.digest, second.body) == (first.digest, body)
        bench.expect(server, "state")
        assert bench.database.fetch("SELECT 1 FROM ehlo_bodies, ehlo_messages") == []


@pytest.mark.parametrize("commit", ["off", "local", "remote_apply"])
def test_mail_is_flushed_although_another_client_of_a_pooler_has_set_otherwise(
    bench: PostgresBench, commit: str
) -> None:
    async def put() -> str:
        connection: Any = await asyncpg.connect(bench.url)
        await ensure_schema(connection)
        await connection.execute(f"SET synchronous_commit = {commit}")
        await connection.execute(
            "CREATE TABLE seen(value text);"
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;"
            "CREATE CONSTRAINT TRIGGER note AFTER INSERT ON ehlo_messages"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()"
        )
        arrival = Arrival("id", '["",""]', ['["b","x"]'], "{}", 1, b"", b"")
        await store(connection, [1], [Packed(arrival, "digest", b"x")])
        assert await connection.fetchval("SHOW synchronous_commit") == commit
        await connection.close()
        return str(bench.database.fetch("SELECT value FROM seen")[0][0])

    assert asyncio.run(put()) == ("on" if commit in ("off", "local") else commit)


def test_a_message_that_the_database_refuses_costs_no_other(bench: PostgresBench) -> None:
    player = Player()
    with serving(bench.queue(player)) as server:
        bench.database.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE check_violation; END $$;"
            "CREATE TRIGGER refuse BEFORE INSERT ON ehlo_deliveries FOR EACH ROW"
            " WHEN (new.recipient LIKE '%bad%') EXECUTE FUNCTION refuse()"
        )

        def send(number: int) -> str:
            return deliver(server, f"bad{number}@x.test" if number % 3 == 0 else "b@x.test")

        with ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(send, range(24)))
        assert [reply[:3] for reply in replies] == ["451", "250", "250"] * 8
        assert all(player.next()[1].recipients == ["b@x.test"] for _ in range(16))


def test_a_full_disk_is_452_until_there_is_room(bench: PostgresBench) -> None:
    player = Player()
    with serving(bench.queue(player)) as server:
        bench.database.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE disk_full; END $$;"
            "CREATE TRIGGER full_disk BEFORE INSERT ON ehlo_messages EXECUTE FUNCTION full_disk()"
        )
        for body in (b"x\r\n", b"x" * 900 + b"\r\n" + b"y\r\n" * MIB):
            assert deliver(server, "b@x.test", body=body).startswith("452 4.3.1")
        bench.database.execute("DROP TRIGGER full_disk ON ehlo_messages")
        assert deliver(server, "c@x.test").startswith(QUEUED)
        assert player.next()[1].recipients == ["c@x.test"]


def test_a_full_disk_of_this_machine_is_named_and_is_no_lost_connection(
    bench: PostgresBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_spool: Spool, _chunks: list[bytes]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    body = b"0123456789abcdef0123456789abcd\r\n" * (MIB // 16)
    with serving(bench.queue(Player(), deliveries=0)) as front:
        deliver(front, "b@x.test", body=body)
    monkeypatch.setattr(Spool, "write", fail)
    with serving(bench.queue(Player(), accepts=False)) as server:
        bench.expect(server, "state, attempts", ("waiting", 1))
    ((error,),) = bench.rows("deliveries.error")
    assert "No space left on device; check the directory for temporary files" in error
    assert "reached" not in error


# -- several processes -----------------------------------------------------------------------------


def test_consumers_share_what_two_front_ends_accept_and_each_message_is_delivered_once(
    bench: PostgresBench,
) -> None:
    players = [Player() for _ in range(3)]
    with contextlib.ExitStack() as stack:
        fronts = [
            stack.enter_context(serving(Queue(bench.url, Player(), deliveries=0))) for _ in range(2)
        ]
        for each in players:
            stack.enter_context(serving(Queue(bench.url, each, accepts=False)))

        def send(number: int) -> str:
            return deliver(fronts[number % 2], "b@x.test", "c@x.test").removeprefix(QUEUED)

        with ThreadPoolExecutor(8) as pool:
            sent = list(pool.map(send, range(90)))
        wait_until(fronts[0], lambda: bench.rows() == [])
    got = [
        (message.id, str(each))
        for player in players
        for message in player.taken()
        for each in message.recipients
    ]
    assert sorted(got) == sorted((each, name) for each in sent for name in ("b@x.test", "c@x.test"))


def test_a_lease_that_has_run_out_is_taken_over_and_its_owner_settles_nothing(
    bench: PostgresBench,
) -> None:
    go = asyncio.Event()
    slow, quick = Player(lambda _: go.wait()), Player(Reply(450, "4.2.1", "Later"))
    with serving(bench.queue(slow)) as one:
        message_id = deliver(one, "b@x.test").removeprefix(QUEUED)
        bench.expect(one, "state", ("running",))
        bench.database.advance(61)  # the first one hangs: its clock stands still
        with serving(Queue(bench.url, quick, accepts=False)) as two:
            assert quick.next()[1].id == message_id
            bench.expect(two, "state, attempts", ("waiting", 2))
            assert one.running is not None
            one.running.loop.call_soon_threadsafe(go.set)
            assert slow.next()[1].attempt == 1
            deliver(one, "c@x.test")
            assert {slow.next()[1].id} != {message_id}
            assert bench.rows("state, attempts")[0] == ("waiting", 2)


def test_a_lease_that_has_run_out_is_not_taken_again_by_the_process_that_still_delivers(
    bench: PostgresBench,
) -> None:
    go = asyncio.Event()
    player = Player(lambda _: go.wait())
    with serving(bench.queue(player, max_attempts=1)) as server:
        deliver(server, "slow@x.test", "slower@x.test")
        bench.expect(server, "state", ("running",), ("running",))
        bench.database.advance(61)  # it hangs, and so has renewed nothing
        deliver(server, "b@x.test")
        assert player.next()[1].recipients == ["b@x.test"]
        bench.expect(server, "state, attempts", ("running", 1), ("running", 1))
        assert server.running is not None
        server.running.loop.call_soon_threadsafe(go.set)
        player.next()
        bench.expect(server, "state")


def test_all_recipients_of_a_message_are_due_at_once(bench: PostgresBench) -> None:
    """Otherwise a claim that begins between two of them takes one without the other."""
    with serving(bench.queue(Player(), deliveries=0)) as server:
        deliver(server, *(f"{number}@x.test" for number in range(50)))
    assert bench.database.fetch("SELECT count(DISTINCT due) FROM ehlo_deliveries") == [(1,)]


def test_what_no_process_holds_is_claimed_again_by_its_owner(bench: PostgresBench) -> None:
    """A crash of PostgreSQL undoes outcomes, which do not wait for the disk."""
    owners: list[str] = []

    def fail(_message: object) -> Retry:
        owners.extend(owner for (owner,) in bench.rows("owner"))
        return Retry(after=100)

    player = Player(fail)
    with serving(bench.queue(player)) as server:
        deliver(server, "b@x.test")
        player.next()
        bench.expect(server, "state", ("waiting",))
        (owner,) = owners
        undone = f"state = 'running', due = now(), owner = '{owner}'"
        bench.database.execute(f"UPDATE ehlo_deliveries SET {undone}")  # noqa: S608  the test's
        deliver(server, "c@x.test")
        got = {str(player.next()[1].recipients[0]) for _ in range(2)}
        assert got == {"b@x.test", "c@x.test"}


class Explaining:
    """A connection on which a query is planned and run; the plan is all that it returns."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.plan: Any = None

    async def fetch(self, query: str, *values: object) -> list[Any]:
        explain = "EXPLAIN (ANALYZE, FORMAT JSON) " + query
        ((found,),) = await self._connection.fetch(explain, *values)
        (self.plan,) = json.loads(found)
        return []


def most_rows(plan: Any) -> int:
    """Return the most rows that a step of a plan has returned or thrown away."""
    thrown = sum(count for name, count in plan.items() if name.startswith("Rows Removed"))
    steps = [most_rows(each) for each in plan.get("Plans", ())]
    return max(int(plan["Actual Rows"]) * int(plan["Actual Loops"]) + int(thrown), *steps, 0)


def test_a_claim_reads_no_more_rows_than_it_leases_of_many(bench: PostgresBench) -> None:
    with serving(bench.queue(Player(), deliveries=0)) as server:
        deliver(server, "b@x.test")
    bench.database.execute(
        "INSERT INTO ehlo_deliveries(message, place, recipient)"
        """ SELECT number, 0, '["b","x.test"]' FROM generate_series(2000, 6999) AS number"""
    )

    async def claim() -> None:
        connection: Any = await asyncpg.connect(bench.url)
        try:
            explaining: Any = Explaining(connection)
            await taking.claim(explaining, "owner", 100, 60.0, 12, [])
            assert most_rows(explaining.plan["Plan"]) == 100
        finally:
            await connection.close()

    asyncio.run(claim())
    leased = "SELECT count(*) FROM ehlo_deliveries WHERE state = 'running'"
    assert bench.database.fetch(leased) == [(100,)]


def test_to_count_a_queue_no_query_is_compiled(bench: PostgresBench) -> None:
    """It takes ten times as long as to count 10,000 deliveries, at each look of the metrics."""

    async def count() -> None:
        connection: Any = await asyncpg.connect(bench.url)
        try:
            await cluster._prepare_to_take(connection)  # noqa: SLF001  what it has set is tested
            explaining: Any = Explaining(connection)
            await taking.levels(explaining)
            assert "JIT" not in explaining.plan
        finally:
            await connection.close()

    asyncio.run(count())


def test_what_ended_long_ago_is_deleted_in_slices(
    bench: PostgresBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "_SLICE", 3)
    with serving(bench.queue(Player(False), keep_dead="2h")) as server:
        deliver(server, *(f"{number}@x.test" for number in range(7)))
        bench.expect(server, "state", *[("failed",)] * 7)
        bench.database.execute(
            "CREATE TABLE slices(size integer);"
            "CREATE FUNCTION count_slice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO slices SELECT count(*) FROM gone; RETURN NULL; END $$;"
            "CREATE TRIGGER count_slice AFTER DELETE ON ehlo_deliveries REFERENCING OLD TABLE AS"
            " gone FOR EACH STATEMENT EXECUTE FUNCTION count_slice()"
        )
        bench.advance(2 * 3600 + 1)
        bench.expect(server, "state")
        assert bench.database.fetch("SELECT size FROM slices") == [(3,), (3,), (1,)]
        assert bench.database.fetch("SELECT 1 FROM ehlo_messages") == []


def test_crashes_use_up_the_attempts_of_a_message(bench: PostgresBench) -> None:
    with serving(bench.queue(Player(), deliveries=0)) as server:
        deliver(server, "b@x.test")
    crash = (
        "UPDATE ehlo_deliveries SET state = 'running', owner = 'gone', attempts = 2, due = now()"
    )
    bench.database.execute(crash)
    with serving(bench.queue(Player(), max_attempts=2)) as server:
        ended = ("dead", 2, "the process ended during the attempt")
        bench.expect(server, "state, attempts, deliveries.error", ended)


def test_the_books_show_and_change_the_queue(bench: PostgresBench) -> None:
    player = Player(False, Retry(after=100))
    with serving(bench.queue(player)) as server, open_books(bench.url, writes=True) as books:
        ids = [deliver(server, "b@x.test").removeprefix(QUEUED)]
        player.next()
        ids.append(deliver(server, "c@x.test").removeprefix(QUEUED))
        player.next()
        bench.expect(server, "state", ("failed",), ("waiting",))
        first, second = books.listed()
        assert (first.id, first.state, first.due) == (ids[0], "failed", None)
        assert second.due is not None
        assert 90 < second.due - books.now() <= 100
        assert list(books.listed(["failed", "dead"])) == [first]
        assert list(books.listed((), ids[1])) == [second]
        assert books.act("hold", ids[1]) == 1
        assert bench.rows("state") == [("failed",), ("held",)]
        assert books.act("retry", ids[1]) == 1
        bench.advance(1)
        assert player.next()[1].id == ids[1]
        assert books.act("drop", None) == 1
        bench.expect(server, "state")
        assert bench.database.fetch("SELECT 1 FROM ehlo_messages") == []
        with pytest.raises(LookupError):
            list(books.content("none \0"))


def test_others_are_served_between_the_slices_of_a_purge(
    bench: PostgresBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "_SLICE", 3)
    with serving(bench.queue(Player(False))) as server:
        deliver(server, *(f"{number}@x.test" for number in range(7)))
        bench.expect(server, "state", *[("failed",)] * 7)
    with serving(bench.queue(Player(), deliveries=0)) as server:
        message_id = deliver(server, "b@x.test").removeprefix(QUEUED)

    async def purge() -> tuple[Haul, list[float]]:
        opened = cluster.Cluster(DatabaseURL.of(bench.url))

        async def left() -> float:
            (found,) = (await opened.levels()).values()
            return found["failed"]

        patience = Persistence(5, 3600, 12, float("inf"))
        _, *found, haul = await asyncio.gather(
            *(opened.purge(0), left(), left(), opened.claim("owner", 10, 60, patience, []))
        )
        found.append(await left())
        await opened.close()
        return haul, found

    haul, left = asyncio.run(purge())
    assert [each.id for each in haul.claimed] == [message_id]
    assert left == [4, 4, 0]


def test_books_of_a_database_without_a_queue_are_an_error(bench: PostgresBench) -> None:
    with (
        pytest.raises(StoreError, match="no queue is in this database"),
        open_books(bench.url) as books,
    ):
        list(books.listed())


APP = """
def handler(message):
    print("got", message.id, flush=True)
"""


def test_ehlo_work_delivers_what_ehlo_serve_accepts(
    bench: PostgresBench, tmp_path: Path, start: Start
) -> None:
    (tmp_path / "app.py").write_text(APP)
    queue = ["--queue", bench.url]
    front = start(
        *("-m", "ehlo", "serve", "app.py", "--addr", "127.0.0.1:0", "--queue-deliveries", "0"),
        *queue,
        cwd=tmp_path,
    )
    worker = start("-m", "ehlo", "work", "app.py", *queue, cwd=tmp_path)
    worker.err.until("logger=ehlo.server message=started")
    with Client(Peer(*front.listening())) as client:
        client.begin("MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")
        client.send(b"x\r\n.\r\n")
        message_id = client.reply().removeprefix(QUEUED)
    worker.out.until(f"got {message_id}")
    assert (worker.stop(), front.stop()) == (0, 0)
    listed = completed("queue", "list", bench.url)
    assert (listed.returncode, listed.stdout) == (0, b"")


def test_a_pooler_that_assigns_each_transaction_may_be_in_between(
    bench: PostgresBench, tmp_path: Path, start: Start
) -> None:
    home = bench.database.server.home
    with PgBouncer(peer("pgbouncer"), home) as port:
        schema = bench.url.rpartition("=")[2]
        bench.database.execute(f"ALTER ROLE ehlo IN DATABASE postgres SET search_path = {schema}")
        player = Player(Retry(after=0), OSError("x"))
        url = f"postgresql://ehlo@/postgres?host={home}&port={port}&statement_cache_size=0"
        try:
            with serving(Queue(url, player, retry_after=0.01)) as server:
                with ThreadPoolExecutor(6) as pool:
                    replies = list(pool.map(lambda _: deliver(server, "b@x.test"), range(30)))
                large = deliver(server, "c@x.test", body=b"x" * 900 + b"\r\n" + b"y\r\n" * MIB)
                assert all(reply.startswith(QUEUED) for reply in [*replies, large])
                wait_until(server, lambda: bench.rows() == [])
        finally:
            bench.database.execute("ALTER ROLE ehlo IN DATABASE postgres RESET search_path")
        assert {str(each.recipients[0]) for each in player.taken()} == {"b@x.test", "c@x.test"}


class PgBouncer:
    """A pooler with two connections to a server, on a socket in its directory."""

    def __init__(self, program: str, home: Path) -> None:
        self._port = 6432
        self._config = home / "pgbouncer.ini"
        self._config.write_text(
            f"[databases]\npostgres = host={home} user=ehlo\n"
            f"[pgbouncer]\nlisten_port = {self._port}\nunix_socket_dir = {home}\n"
            "auth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n"
            "max_client_conn = 50\n"
        )
        owner = self._config.parent.stat()
        users: dict[str, Any] = {}
        if os.getuid() == 0:
            users = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        self._process = subprocess.Popen(
            [program, str(self._config)], stderr=subprocess.PIPE, text=True, **users
        )

    def __enter__(self) -> int:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "process up" in line:
                return self._port
        raise AssertionError("pgbouncer did not start")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._config.unlink()
