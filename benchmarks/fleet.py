"""Servers as child processes: started on their core, found by their port, stopped by their id."""

import os
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from load import Endpoint, LoadError, program
from measure import pinned
from scenarios import AIOSMTPD, EHLO_ASYNC, EHLO_DEF, SMTP_SINK

READY_WITHIN = 15.0  # seconds
STOPPED_WITHIN = 15.0
BACKLOG = "1024"
MANY = "4096"  # more connections at once than any scenario holds; smtp-sink's own limit is 256
SERVERS = Path(__file__).parent / "servers"

SCRIPTS = {
    AIOSMTPD: ("aiosmtpd_server.py",),
    EHLO_ASYNC: ("ehlo_server.py", "--handler", "async"),
    EHLO_DEF: ("ehlo_server.py", "--handler", "def"),
}


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

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass(frozen=True, slots=True)
class Taken:
    """What a server says it was given, when it stops."""

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


def _printed_port(process: subprocess.Popen[bytes]) -> int:
    """The port from the first line of a Python server, `host port`."""
    output = process.stdout
    ready = output and select.select([output], [], [], READY_WITHIN)[0]
    line = output.readline() if output and ready else b""
    if not line:
        raise LoadError(f"the server ended or said no port in {READY_WITHIN} s: {process.args!r}")
    return int(line.split()[1])


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
def _child(command: list[str], core: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process on a core, which does not outlive the block whatever happens in it."""
    with pinned(core):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
    with process:
        try:
            yield process
        finally:
            process.kill()  # by its id; nothing is done when it was already waited for


@contextmanager
def running(name: str, core: int, certificate: Certificate | None) -> Iterator[Running]:
    """A server on its core, with TLS from the start of a connection if given a certificate."""
    if name == SMTP_SINK:
        port = _free_port()
        with _child(_sink_command(port), core) as process:
            yield Running(process, Endpoint(_await_port(process, port)))
        return
    with _child(_python_command(name, certificate), core) as process:
        yield Running(process, Endpoint(_printed_port(process), _trust(certificate)))


def stop(server: Running) -> Taken:
    """Have a Python server end by itself and tell what it took."""
    server.process.terminate()
    output, _ = server.process.communicate(timeout=STOPPED_WITHIN)
    messages, octets = output.split()
    return Taken(int(messages), int(octets))
