"""SIGHUP under load, with changed, broken and missing certificates: no mail is harmed."""

from __future__ import annotations

import contextlib
import signal
import ssl
import threading
from pathlib import Path

import pytest

from ehlo import Peer
from support.certificates import Certificates, Files
from support.client import Client
from support.examples import quick
from support.manager import Manager
from support.program import DEADLINE, Start
from support.program import start as start

CLIENTS = 6
ROUNDS = 4

MODULE = """
import os, pathlib, ehlo

LOG = os.open(pathlib.Path(__file__).with_name("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def deliver(remote_addr, mail_from, rcpt_tos, data):
    os.write(LOG, mail_from.encode() + b"\\n")
"""


class Load:
    """Clients that send all the time: half of them reconnect for each message."""

    def __init__(self, address: Peer, tls: ssl.SSLContext) -> None:
        self.address = address
        self.tls = tls
        self.acknowledged: list[str] = []
        self.failures: list[BaseException] = []
        self.stop = threading.Event()
        self.sent = threading.Semaphore(0)
        self.threads = [threading.Thread(target=self._send, args=(n,)) for n in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _send(self, number: int) -> None:
        try:
            count = 0
            while not self.stop.is_set():
                count = self._converse(number, count, keeps=number % 2 == 0)
        except BaseException as failure:  # noqa: BLE001  the test tells of it
            self.failures.append(failure)

    def _converse(self, number: int, count: int, *, keeps: bool) -> int:
        with Client(self.address) as client:
            client.hello()
            client.say("STARTTLS")
            client.wrap(self.tls)
            client.say("EHLO c")
            while True:
                sender = f"{number}-{count}@example.com"
                assert client.mail(sender=sender) == "250 2.0.0 Ok: queued"
                self.acknowledged.append(sender)
                self.sent.release()
                count += 1
                if self.stop.is_set() or not keeps:
                    assert client.say("QUIT").startswith("221 ")
                    return count

    def go_on(self) -> None:
        """Wait until more messages have been sent."""
        for _ in range(3 * CLIENTS):
            assert self.sent.acquire(timeout=DEADLINE), self.failures

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()


def shown(address: Peer, tls: ssl.SSLContext) -> bytes | None:
    """Return the certificate that a new client sees."""
    with Client(address) as client:
        client.hello()
        client.say("STARTTLS")
        return client.wrap(tls).getpeercert(binary_form=True)


EACH = [("asyncio", "1"), ("uvloop", "2")]


@pytest.mark.parametrize(
    ("loop", "workers"), quick(EACH, most=[*EACH, ("uvloop", "1"), ("asyncio", "2")])
)
def test_reloads_lose_and_double_no_message_and_cut_no_connection(
    start: Start, certificates: Certificates, tmp_path: Path, loop: str, workers: str
) -> None:
    (tmp_path / "app.py").write_text(MODULE)
    files = Files(certificates.authority, tmp_path)
    manager = Manager(str(tmp_path / "notify"))
    program = start(
        *("-m", "ehlo", "serve", "app:deliver", "--addr", "127.0.0.1:0", "--loop", loop),
        *("--tls-cert", files.cert, "--tls-key", files.key, "--workers", workers),
        *("--log-file", tmp_path / "events"),
        cwd=tmp_path,
        env={"NOTIFY_SOCKET": manager.address},
    )
    (address,) = manager.where()
    load = Load(address, certificates.client)

    def hang_up_and_see(certificate: bytes) -> None:
        program.process.send_signal(signal.SIGHUP)
        manager.hears_of("RELOADING=1")
        manager.hears_of("READY=1")
        assert shown(address, certificates.client) == certificate
        load.go_on()

    with contextlib.ExitStack() as stack:
        stack.callback(manager.close)
        stack.callback(load.end)
        load.go_on()
        for _ in range(ROUNDS):
            good = files.issue("localhost")
            hang_up_and_see(good)
            files.cert.write_text("nonsense")
            hang_up_and_see(good)
            files.cert.unlink()
            hang_up_and_see(good)
            files.issue("localhost")
            files.key.write_bytes(Path(certificates.other_key_file).read_bytes())
            hang_up_and_see(good)
    assert load.failures == []
    assert program.stop() == 0
    events = (tmp_path / "events").read_text()
    # On a busy machine, a server may look at the files before it has handled the signal
    assert events.count("reloaded what=certificates") >= ROUNDS * int(workers)
    assert events.count('"reload failed" what=certificates') >= 3 * ROUNDS * int(workers)
    assert events.count(" cut off") == 0
    delivered = (tmp_path / "log").read_text().split()
    assert sorted(delivered) == sorted(load.acknowledged)
    assert len(set(delivered)) == len(delivered)
