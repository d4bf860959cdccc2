"""Servers as child processes: started on their core, found by their port, stopped by their id."""

import os
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from load import Endpoint, LoadError, program
from measure import pinned
from scenarios import AIOSMTPD, EHLO_ASYNC, EHLO_DEF, EHLO_HOURLY, EHLO_ONE, EHLO_TWO, SMTP_SINK

READY_WITHIN = 15.0  # seconds
STOPPED_WITHIN = 15.0
BACKLOG = "1024"
MANY = "4096"  # more connections at once than any scenario holds; smtp-sink's own limit is 256
SERVERS = Path(__file__).parent / "servers"

SCRIPTS = {
    AIOSMTPD: ("aiosmtpd_server.py",),
    EHLO_ASYNC: ("ehlo_server.py", "--handler", "async"),
    EHLO_DEF: ("ehlo_server.py", "--handler", "def"),
    EHLO_HOURLY: ("ehlo_server.py", "--handler", "async", "--hourly"),
    EHLO_ONE: ("ehlo_workers.py", "--workers", "1"),
    EHLO_TWO: ("ehlo_workers.py", "--workers", "2"),
}
SERVING = {EHLO_ONE: 1, EHLO_TWO: 2}  # how many processes say by their id that they serve


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate for localhost, its key, and the authority that signed it, as files."""

    chain: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class Running:
    """A server that accepts connections."""

    process: subprocess.Popen[bytes]
    endpoint: Endpoint
    serving: tuple[int, ...] = ()
    """The ids of the processes that serve, where they say so: workers, or the server itself."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of all processes: also that of a parent, which serves nobody itself."""
        return tuple({self.pid, *self.serving})


@dataclass(frozen=True, slots=True)
class Taken:
    """What a server says it was given, when it stops: the sum over its processes."""

    messages: int
    octets: int


def make_certificate(directory: Path) -> Certificate:
    """Make an authority of our own and have it sign a certificate (ECDSA, P-256)."""
    files = Certificate(directory / "chain.pem", directory / "key.pem", directory / "ca.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(files.key))
    for part in issued.cert_chain_pems:
        part.write_to_path(str(files.chain), append=True)
    authority.cert_pem.write_to_path(str(files.authority))
    return files


def _trust(certificate: Certificate | None) -> ssl.SSLContext | None:
    """What a client needs to trust the certificate."""
    return ssl.create_default_context(cafile=certificate.authority) if certificate else None


def _python_command(name: str, certificate: Certificate | None) -> list[str]:
    script, *rest = SCRIPTS[name]
    command = [sys.executable, str(SERVERS / script), *rest]
    if certificate is not None:
        command += ["--cert", str(certificate.chain), "--key", str(certificate.key)]
    return command


def _sink_command(port: int) -> list[str]:
    unprivileged = ["-u", "nobody"] if os.geteuid() == 0 else []
    return [program("smtp-sink"), *unprivileged, "-m", MANY, f"127.0.0.1:{port}", BACKLOG]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _printed(process: subprocess.Popen[bytes], count: int) -> list[bytes]:
    """The first lines of a Python server: `host port`, then an id from each that serves."""
    assert process.stdout is not None  # noqa: S101  it was started with a pipe
    fd = process.stdout.fileno()  # a buffer would hide from `select` what is there
    deadline = time.monotonic() + READY_WITHIN
    printed = b""
    while printed.count(b"\n") < count:
        left = max(0.0, deadline - time.monotonic())
        octets = os.read(fd, 4096) if select.select([fd], [], [], left)[0] else b""
        if not octets:
            raise LoadError(f"the server ended or was not ready in time: {process.args!r}")
        printed += octets
    return printed.splitlines()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), READY_WITHIN).close()
    except ConnectionRefusedError:
        return False
    return True


def _await_port(process: subprocess.Popen[bytes], port: int) -> int:
    """Connect until it is accepted: smtp-sink tells nobody when it listens."""
    deadline = time.monotonic() + READY_WITHIN
    while not _accepts(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise LoadError(f"the server ended or does not listen: {process.args!r}")
    return port


@contextmanager
def _child(command: list[str], cores: Sequence[int]) -> Iterator[subprocess.Popen[bytes]]:
    """A process on these cores, which does not outlive the block whatever happens in it.

    Workers end by themselves when their parent has gone.
    """
    with pinned(*cores):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
    with process:
        try:
            yield process
        finally:
            process.kill()  # by its id; nothing is done when it was already waited for


@contextmanager
def running(name: str, cores: Sequence[int], certificate: Certificate | None) -> Iterator[Running]:
    """A server on its cores, with TLS from the start of a connection if given a certificate."""
    if name == SMTP_SINK:
        port = _free_port()
        with _child(_sink_command(port), cores) as process:
            yield Running(process, Endpoint(_await_port(process, port)))
        return
    with _child(_python_command(name, certificate), cores) as process:
        first, *others = _printed(process, 1 + SERVING.get(name, 0))
        endpoint = Endpoint(int(first.split()[1]), _trust(certificate))
        yield Running(process, endpoint, tuple(map(int, others)))


def stop(server: Running) -> Taken:
    """Have a Python server end by itself and tell what it took."""
    server.process.terminate()
    output, _ = server.process.communicate(timeout=STOPPED_WITHIN)
    told = [tuple(map(int, line.split())) for line in output.splitlines()]
    return Taken(sum(messages for messages, _ in told), sum(octets for _, octets in told))
