"""Runs servers as child processes: started on their core, stopped by their process id."""

import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from load import Endpoint, LoadError, program
from measure import pinned
from scenarios import (
    AIOSMTPD,
    EHLO_ASYNC,
    EHLO_DEF,
    EHLO_HOURLY,
    EHLO_ONE,
    EHLO_TUNED,
    EHLO_TWO,
    INBOX,
    INBOX_BARE,
    MAILDEV,
    SMTP_SINK,
)

READY_WITHIN = 15.0  # seconds
STOPPED_WITHIN = 15.0
MAILDEV_PACKAGE = "maildev@3.0.0"
BACKLOG = "1024"
MANY = "4096"  # concurrent connections: more than any scenario opens; smtp-sink's default is 256
SERVERS = Path(__file__).parent / "servers"

SCRIPTS = {
    AIOSMTPD: ("aiosmtpd_server.py",),
    EHLO_ASYNC: ("ehlo_server.py", "--handler", "async"),
    EHLO_DEF: ("ehlo_server.py", "--handler", "def"),
    EHLO_TUNED: ("ehlo_server.py", "--handler", "async", "--tune-malloc"),
    EHLO_HOURLY: ("ehlo_server.py", "--handler", "async", "--hourly"),
    EHLO_ONE: ("ehlo_workers.py", "--workers", "1"),
    EHLO_TWO: ("ehlo_workers.py", "--workers", "2"),
    INBOX: ("ehlo_inbox.py",),
    INBOX_BARE: ("ehlo_inbox.py", "--no-index"),
}
SERVING = {
    EHLO_ONE: 1,
    EHLO_TWO: 2,
}  # the number of processes that print their id because they serve


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
    """The ids of the processes that serve, if they print them: workers, or the server itself."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of all processes, including a parent that serves no clients."""
        return tuple({self.pid, *self.serving})


@dataclass(frozen=True, slots=True)
class Totals:
    """What a server reports when it stops: the sum over its processes."""

    messages: int
    size: int
    """Bytes of the messages."""


def make_certificate(directory: Path) -> Certificate:
    """Create an authority and a certificate that it signed (ECDSA, P-256)."""
    files = Certificate(directory / "chain.pem", directory / "key.pem", directory / "ca.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(files.key))
    for part in issued.cert_chain_pems:
        part.write_to_path(str(files.chain), append=True)
    authority.cert_pem.write_to_path(str(files.authority))
    return files


def _trust(certificate: Certificate | None) -> ssl.SSLContext | None:
    """Return a context for a client that trusts the certificate."""
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


@contextmanager
def _maildev() -> Iterator[Callable[[int], list[str]]]:
    """Install MailDev in a directory of its own; return the command for a port."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise LoadError("npm is missing: install Node.js")
    with tempfile.TemporaryDirectory(prefix="ehlo-bench-") as folder:
        install = [npm, "install", "--prefix", folder, "--no-audit", "--no-fund", "--silent"]
        subprocess.run([*install, "--ignore-scripts", MAILDEV_PACKAGE], check=True, timeout=120)
        program = Path(folder) / "node_modules" / "maildev" / "dist" / "bin" / "maildev.js"

        def command(port: int) -> list[str]:
            web = ("--web", str(_free_port()), "--web-ip", "127.0.0.1")
            smtp = ("--smtp", str(port), "--ip", "127.0.0.1")
            return [node, str(program), *smtp, *web, "--max-emails", "500", "--silent"]

        yield command


def has_maildev() -> bool:
    """Return whether npm can be asked for MailDev, and has it."""
    npm = shutil.which("npm")
    if npm is None:
        return False
    asked = subprocess.run(
        [npm, "view", MAILDEV_PACKAGE, "version"], capture_output=True, timeout=60
    )
    return bool(asked.stdout.strip())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _printed(process: subprocess.Popen[bytes], count: int) -> list[bytes]:
    """Read the first lines of a Python server: `host port`, then the ids of its processes."""
    assert process.stdout is not None  # noqa: S101  it was started with a pipe
    fd = process.stdout.fileno()  # unbuffered, so that `select` sees all data
    deadline = time.monotonic() + READY_WITHIN
    printed = b""
    while printed.count(b"\n") < count:
        left = max(0.0, deadline - time.monotonic())
        data = os.read(fd, 4096) if select.select([fd], [], [], left)[0] else b""
        if not data:
            raise LoadError(f"the server ended or was not ready in time: {process.args!r}")
        printed += data
    return printed.splitlines()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), READY_WITHIN).close()
    except ConnectionRefusedError:
        return False
    return True


def _await_port(process: subprocess.Popen[bytes], port: int) -> int:
    """Connect until the server accepts: smtp-sink does not report when it listens."""
    deadline = time.monotonic() + READY_WITHIN
    while not _accepts(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise LoadError(f"the server ended or does not listen: {process.args!r}")
    return port


@contextmanager
def _child(command: list[str], cores: Sequence[int]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process on these cores, and kill it when the block ends.

    Workers end by themselves when their parent is gone.
    """
    with pinned(*cores):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
    with process:
        try:
            yield process
        finally:
            process.kill()  # by its id; does nothing if it was already waited for


@contextmanager
def running(name: str, cores: Sequence[int], certificate: Certificate | None) -> Iterator[Running]:
    """Run a server on its cores, with implicit TLS if `certificate` is given."""
    if name == SMTP_SINK:
        port = _free_port()
        with _child(_sink_command(port), cores) as process:
            yield Running(process, Endpoint(_await_port(process, port)))
        return
    if name == MAILDEV:
        port = _free_port()
        with _maildev() as command, _child(command(port), cores) as process:
            yield Running(process, Endpoint(_await_port(process, port)))
        return
    with _child(_python_command(name, certificate), cores) as process:
        first, *others = _printed(process, 1 + SERVING.get(name, 0))
        endpoint = Endpoint(int(first.split()[1]), _trust(certificate))
        yield Running(process, endpoint, tuple(map(int, others)))


def stop(server: Running) -> Totals:
    """Terminate a Python server and return its report."""
    server.process.terminate()
    output, _ = server.process.communicate(timeout=STOPPED_WITHIN)
    reports = [tuple(map(int, line.split())) for line in output.splitlines()]
    return Totals(sum(messages for messages, _ in reports), sum(size for _, size in reports))
