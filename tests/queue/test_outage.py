"""PostgreSQL restarted, killed, and out of reach: 451 meanwhile, and no mail with a 250 is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ehlo import Message, Queue
from ehlo.queue.postgres import cable
from robustness.scale import full
from support.loading import Load, look_until
from support.postgres import Database, PostgresServer, patient, private_server
from support.queueing import Player, deliver, serving, wait_until
from support.serving import DEADLINE

QUEUED = "250 2.0.0 Ok: queued as "
TROUBLE = "451 4.3.0 Requested action aborted: local error in processing"
LARGE = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 200_000
KILLS = full(15, short=1)
BETWEEN = full(400, short=60)  # messages that are acknowledged between two kills


@pytest.fixture(scope="module")
def mortal() -> Iterator[PostgresServer]:
    """A server that tests may stop."""
    with private_server() as server:
        yield server


@pytest.fixture
def own(mortal: PostgresServer) -> Iterator[Database]:
    """A database in it for one test, with a queue that is `patient`."""
    mortal.start_again()
    database = Database(mortal, f"test_{time.monotonic_ns()}")
    with patient():
        yield database
    mortal.start_again()
    database.close()


def test_a_server_that_is_stopped_is_451_until_it_is_back(own: Database) -> None:
    player = Player()
    with serving(Queue(own.url, player)) as front:
        for body in (b"x\r\n", LARGE):
            assert deliver(front, "b@x.test", body=body).startswith(QUEUED)
            assert player.next()[1].body == body
        own.server.stop()
        for body in (b"x\r\n", LARGE, b"x\r\n"):
            assert deliver(front, "c@x.test", body=body) == TROUBLE
        own.server.start()
        for body in (b"x\r\n", LARGE):
            assert deliver(front, "d@x.test", body=body).startswith(QUEUED)
            assert player.next()[1].recipients == ["d@x.test"]


def test_mail_that_comes_while_a_consumer_has_no_connection_is_delivered(
    own: Database,
) -> None:
    player = Player()
    with (
        serving(Queue(own.url, Player(), deliveries=0)) as front,
        serving(Queue(own.url, player, accepts=False)),
    ):
        deliver(front, "a@x.test")
        assert player.next()[1].recipients == ["a@x.test"]
        for number in range(3):
            for pid in own.server.backends():
                if b"ehlo postgres" in cmdline(pid):
                    os.kill(pid, signal.SIGTERM)
            look_until(lambda: deliver(front, f"{number}@x.test").startswith(QUEUED))  # noqa: B023
            assert player.next()[1].recipients == [f"{number}@x.test"]


def cmdline(pid: int) -> bytes:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
        return file.read()
    return b""


@pytest.mark.parametrize("how", ["killed", "restarted"])
def test_what_was_acknowledged_is_delivered_although_postgresql_ends_amid_the_load(
    own: Database, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Two front ends and three consumers use it."""
    delivered: list[str] = []

    async def handler(message: Message) -> None:
        delivered.append(message.id)
        assert len(message.body) > 900

    with contextlib.ExitStack() as stack:

        def begin(**options: object) -> Queue:
            return Queue(own.url, handler, lease=2, retry_after=0.1, **options)  # type: ignore[arg-type]

        fronts = [stack.enter_context(serving(begin(deliveries=0))) for _ in range(2)]
        for _ in range(3):
            stack.enter_context(serving(begin(accepts=False)))
        loads = [
            Load(each.addresses[0].port or 0, sizes)
            for each, sizes in zip(fronts, ([1_000] * 3, [1_000, 2_000_000]), strict=True)
        ]
        for load in loads:
            load.start()
        try:
            for number in range(1, KILLS + 1):
                look_until(lambda: all(load.has(number * BETWEEN) for load in loads))  # noqa: B023
                caplog.clear()
                if how == "killed":
                    own.server.kill()
                else:
                    own.server.stop()
                look_until(lambda: "mail was not accepted: error=" in caplog.text)
                own.server.start()
            look_until(lambda: all(load.has((KILLS + 1) * BETWEEN) for load in loads))
        finally:
            for load in loads:
                load.stop()
        look_until(lambda: own.rows() == [])
        assert own.fetch("SELECT number FROM ehlo_messages") == []
        assert own.fetch("SELECT message FROM ehlo_bodies") == []
    acknowledged = {each for load in loads for each in load.acknowledged}
    assert acknowledged <= set(delivered)
    assert len(delivered) - len(set(delivered)) <= KILLS * 3 * 1_100  # leased, and not settled


class Proxy:
    """A network between a queue and a server, which can lose all packets."""

    def __init__(self, database: Database) -> None:
        self._home = database.server.home
        self._query = f"search_path={database.schema}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = threading.Event()
        self._open.set()
        self._closed = False
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return (
            f"postgresql://ehlo@127.0.0.1:{self._listener.getsockname()[1]}/postgres?{self._query}"
        )

    def freeze(self) -> None:
        """Deliver nothing any more, and close nothing."""
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._closed = True
        self.thaw()
        for sockets in ([self._listener], self._sockets):
            for each in sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            for thread in self._threads[:] if sockets is self._sockets else self._threads[:1]:
                thread.join(DEADLINE)
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                self._open.wait()
                if self._closed:
                    return
                far = socket.socket(socket.AF_UNIX)
                self._sockets.append(far)
                far.connect(f"{self._home}/.s.PGSQL.5432")
                for pair in ((near, far), (far, near)):
                    self._threads.append(
                        threading.Thread(target=self._copy, args=pair, daemon=True)
                    )
                    self._threads[-1].start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._open.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_a_server_that_no_longer_answers_is_451_within_its_time(
    own: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, player = Proxy(own), Player()
    with contextlib.closing(proxy), serving(Queue(proxy.url, player)) as front:
        assert deliver(front, "a@x.test").startswith(QUEUED)
        assert player.next()[1].recipients == ["a@x.test"]
        wait_until(front, lambda: player.calls.empty())
        monkeypatch.setattr(cable, "LIMIT", 0.2)
        monkeypatch.setattr(cable, "_CONNECT", 0.2)
        proxy.freeze()
        for body in (b"x\r\n", LARGE, b"x\r\n"):
            assert deliver(front, "b@x.test", body=body) == TROUBLE
        monkeypatch.undo()
        proxy.thaw()
        look_until(lambda: deliver(front, "c@x.test").startswith(QUEUED))
        got = str(player.next()[1].recipients[0])
        while got != "c@x.test":  # what came before may have been stored, without its 250
            assert got == "b@x.test"
            got = str(player.next()[1].recipients[0])


def test_the_start_ends_with_an_error_if_the_server_does_not_answer(
    own: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cable, "_CONNECT", 0.2)
    proxy = Proxy(own)
    proxy.freeze()
    with (
        contextlib.closing(proxy),
        pytest.raises(ValueError, match=r"queue: postgresql://ehlo@127.*cannot be reached"),
        serving(Queue(proxy.url, Player())),
    ):
        pass


def test_deliveries_go_on_after_a_failure_of_their_own(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    def fail(_self: object) -> None:
        monkeypatch.undo()
        failed.set()
        raise OSError("Too many open files")

    monkeypatch.setattr("ehlo.queue.consumer.Consumer._settle", fail)
    player = Player()
    with serving(Queue(database.url, player)) as front:
        assert failed.wait(60)
        assert deliver(front, "b@x.test").startswith(QUEUED)
        assert player.next()[1].recipients == ["b@x.test"]
    assert "Too many open files" in caplog.text
