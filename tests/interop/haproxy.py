"""An HAProxy in front of a server: its configuration and its statistics socket."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .peers import TIMEOUT, peer
from .post import ADDRESS, PATIENCE, Office

# It inherits a listening socket, so that the port is free and clients can connect at once. A check
# connects within `inter`, and is answered within `timeout check`: a busy machine takes its time.
_CONFIGURATION = """\
global
    stats socket {folder}/stats mode 600 level user
    log stderr format raw local0

defaults
    mode tcp
    log global
    timeout connect 10s
    timeout client 30s
    timeout server 30s
    timeout check 10s

frontend front
    bind fd@{fd}{bind}
    unique-id-format id-%ci-%cp
    default_backend back
{front}

backend back
    option smtpchk EHLO haproxy.example.com
    option log-health-checks
    server mx {host}:{port} check inter 1s {server}
"""


@dataclass(frozen=True)
class Check:
    """HAProxy's status of the server behind it."""

    status: str
    """`UP`, or another status."""
    last: str
    """The result of the last check: `L7OK`, or why it failed."""


@dataclass(frozen=True)
class HAProxy:
    """A running HAProxy: its address and its statistics."""

    host: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def log(self) -> str:
        """Return its output, for a test that fails."""
        return (self.folder / "log").read_text(errors="replace")

    def check(self) -> Check:
        """Return the result of the last health check."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stats:
            stats.settimeout(TIMEOUT)
            stats.connect(str(self.folder / "stats"))
            stats.sendall(b"show stat\n")
            said = b"".join(iter(lambda: stats.recv(65_536), b"")).decode()
        rows = csv.DictReader(said.removeprefix("# ").splitlines())
        (row,) = [row for row in rows if row["svname"] == "mx"]
        return Check(row["status"], row["check_status"])

    def wait_for_check(self) -> Check:
        """Wait until a health check has ended; return its result."""
        until = time.monotonic() + PATIENCE
        pause = threading.Event()
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log()
            if (self.folder / "stats").exists():
                check = self.check()
                # It is empty or INI before the first check, and has a star during one
                if check.last not in ("", "INI") and "*" not in check.last:
                    return check
            pause.wait(0.05)
        raise AssertionError(f"no health check has ended: {self.log()}")


@contextmanager
def haproxy(
    office: Office,
    server: str,
    *,
    host: str = ADDRESS,
    bind: str = "",
    front: Sequence[str] = (),
) -> Iterator[HAProxy]:
    """Runs while the block does, and passes all that connects to it on to `office`.

    `server` are options of the server's line, `bind` of the frontend's, `front` more lines there.
    """
    program = peer("haproxy")
    with ExitStack() as stack:
        # Not below pytest's directory: the path of a Unix socket must be short
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ehlo-haproxy-")))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = stack.enter_context(socket.create_server((host, 0), family=family))
        (folder / "conf").write_text(
            _CONFIGURATION.format(
                folder=folder,
                fd=listening.fileno(),
                bind=f" {bind}",
                front="".join(f"    {line}\n" for line in front),
                host=ADDRESS,
                port=office.port,
                server=server,
            )
        )
        log = stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen(
            [program, "-db", "-f", folder / "conf"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[listening.fileno()],
            env={**os.environ, "LC_ALL": "C"},
        )
        stack.callback(process.wait, TIMEOUT)
        stack.callback(process.kill)
        yield HAProxy(host, listening.getsockname()[1], folder, process)
