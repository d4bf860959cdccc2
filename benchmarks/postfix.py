"""Runs a private Postfix that discards all mail, to compare `ehlo.Queue` with: only root can."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from load import LoadError, program
from processes import kill_group

TICKS = os.sysconf("SC_CLK_TCK")
DRAINED_WITHIN = 120.0  # seconds
HOST = "127.0.0.1"

# Its defaults, except for what keeps it on this machine, and for room for 200 sessions
MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
inet_interfaces = loopback-only
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
myhostname = bench.example
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
default_process_limit = 300
default_transport = discard
relay_transport = discard
"""
MASTER = """\
{host}:{port} inet n - n - - smtpd
pickup     unix  n - n 60 1 pickup
cleanup    unix  n - n - 0 cleanup
qmgr       unix  n - n 300 1 qmgr
rewrite    unix  - - n - - trivial-rewrite
bounce     unix  - - n - 0 bounce
defer      unix  - - n - 0 bounce
trace      unix  - - n - 0 bounce
proxymap   unix  - - n - - proxymap
error      unix  - - n - - error
retry      unix  - - n - - error
discard    unix  - - n - - discard
anvil      unix  - - n - 1 anvil
postlog    unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True, slots=True)
class Postfix:
    """A Postfix that runs."""

    port: int
    folder: Path
    master: int

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its processes, of those that have ended, too."""
        whole = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended, and counts with the master's children
                continue
            if int(path.parent.name) == self.master:
                whole += sum(map(int, fields[11:15]))
            elif int(fields[1]) == self.master:
                whole += int(fields[11]) + int(fields[12])
        return whole / TICKS

    def drain(self) -> None:
        """Wait until its queue is empty."""
        until = time.monotonic() + DRAINED_WITHIN
        queues = [self.folder / "queue" / name for name in ("incoming", "active", "deferred")]
        while any(path.is_file() for queue in queues for path in queue.rglob("*")):
            if time.monotonic() > until:
                raise LoadError("Postfix did not deliver its queue in time")
            time.sleep(0.02)


@contextmanager
def postfix() -> Iterator[Postfix]:
    """Run a Postfix while the block does."""
    if os.geteuid() != 0:
        raise LoadError("Postfix can be started by root only")
    command, folder = program("postfix"), Path(tempfile.mkdtemp(prefix="ehlo-bench-"))
    try:
        folder.chmod(0o755)
        for name in ("conf", "queue", "data"):
            (folder / name).mkdir()
        shutil.chown(folder / "data", "postfix")
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        (folder / "conf" / "main.cf").write_text(MAIN.format(folder=folder))
        (folder / "conf" / "master.cf").write_text(MASTER.format(host=HOST, port=port))
        _start(command, folder)
        pid = int((folder / "queue" / "pid" / "master.pid").read_text())
        try:
            yield Postfix(port, folder, pid)
        finally:
            kill_group(pid)
    finally:
        shutil.rmtree(folder)


def _start(command: str, folder: Path) -> None:
    done = subprocess.run(
        [command, "-c", str(folder / "conf"), "start"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LoadError(f"postfix start: {done.stderr or done.stdout}")
