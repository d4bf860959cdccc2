"""SIGHUP under load, with certificates that are changed, broken and missing: no mail is harmed."""

from __future__ import annotations

import contextlib
import signal
import ssl
import threading
from pathlib import Path

import pytest

from ehlo import Peer
from support.certificates import Certificates
from support.client import Client
from support.program import Program, Start
from support.program import start as start

DEADLINE = 15.0
CLIENTS = 6
ROUNDS = 4

PROGRAM = """
import logging, os, sys
import ehlo
log_file, cert, key, loop = sys.argv[1:]
logging.basicConfig(level=logging.INFO, format="%(message)s")
log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def deliver(remote_addr, mail_from, rcpt_tos, data):
    os.write(log, mail_from.encode() + b"\\n")

server = ehlo.Server(deliver, addr="127.0.0.1:0", loop=loop)
server.configure_tls(cert, key)
server.listen_and_serve()
"""


class Load:
    """Clients that send all the time: one over its one connection, the others anew for each."""

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
        """Return when some more has been sent."""
        for _ in range(3 * CLIENTS):
            assert self.sent.acquire(timeout=DEADLINE), self.failures

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()


def hang_up(program: Program, said: str) -> None:
    program.process.send_signal(signal.SIGHUP)
    program.err.until(said)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_message_is_lost_or_doubled_and_no_connection_cut_by_reloads(
    start: Start, certificates: Certificates, tmp_path: Path, loop: str
) -> None:
    log, cert, key = tmp_path / "log", tmp_path / "crt", tmp_path / "key"

    def issue() -> None:
        issued = certificates.authority.issue_cert("localhost")
        cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())

    issue()
    program = start("-c", PROGRAM, log, cert, key, loop)
    load = Load(Peer(*program.listening()), certificates.client)
    with contextlib.ExitStack() as stack:
        stack.callback(load.end)
        for _ in range(ROUNDS):
            load.go_on()
            issue()
            hang_up(program, "new handshakes use")
            load.go_on()
            cert.write_text("nonsense")
            hang_up(program, "stays in use")
            load.go_on()
            cert.unlink()
            hang_up(program, "stays in use")
            load.go_on()
            issue()
            key.write_bytes(Path(certificates.other_key_file).read_bytes())
            hang_up(program, "stays in use")
            load.go_on()
            issue()
            hang_up(program, "new handshakes use")
    assert load.failures == []
    assert program.stop() == 0
    delivered = log.read_text().split()
    assert sorted(delivered) == sorted(load.acknowledged)
    assert len(set(delivered)) == len(delivered)
