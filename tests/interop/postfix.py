"""A Postfix with its own configuration, queue and log, apart from the system's."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import kill_group

from support.ports import reserved_port

from .peers import TIMEOUT, absent, peer, run
from .post import Office

HOST = "127.0.0.10"  # no other test takes a port of it before Postfix does

_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}

# Only this machine, and no DNS
inet_interfaces = loopback-only
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
myhostname = relay.example.com
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtpd_peername_lookup = no

# All mail goes to ehlo
smtpd_relay_restrictions = permit_mynetworks, reject
relayhost = [{host}]:{port}
smtputf8_enable = yes
initial_destination_concurrency = 10
smtp_tls_security_level = secure
smtp_tls_secure_cert_match = nexthop
smtp_tls_CAfile = {folder}/ca.pem

# What was sent is what is to arrive: no line is folded, none is too long
smtp_line_length_limit = 0
message_size_limit = 0
mailbox_size_limit = 0

# Soon again
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 1s
"""

_MASTER = """\
{address}:{port} inet n - n - - smtpd
pickup     unix  n - n 60 1 pickup
cleanup    unix  n - n - 0 cleanup
qmgr       unix  n - n 1 1 qmgr
tlsmgr     unix  - - n 1000? 1 tlsmgr
rewrite    unix  - - n - - trivial-rewrite
bounce     unix  - - n - 0 bounce
defer      unix  - - n - 0 bounce
trace      unix  - - n - 0 bounce
verify     unix  - - n - 1 verify
flush      unix  n - n 1000? 0 flush
proxymap   unix  - - n - - proxymap
proxywrite unix  - - n - 1 proxymap
smtp       unix  - - n - - smtp
relay      unix  - - n - - smtp
lmtp       unix  - - n - - lmtp
showq      unix  n - n - - showq
error      unix  - - n - - error
retry      unix  - - n - - error
discard    unix  - - n - - discard
local      unix  - n n - - local
anvil      unix  - - n - 1 anvil
scache     unix  - - n - 1 scache
postlog    unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True)
class Postfix:
    """A running Postfix: its port and its directories."""

    port: int
    folder: Path

    def log(self) -> str:
        """Return its log, for a test that fails."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else "(no log)"

    def wait_for_log(self, pattern: str) -> str:
        """Return its log once a line matches: a daemon of its own writes it, and may be late."""
        until = time.monotonic() + TIMEOUT
        while not re.search(pattern, log := self.log(), re.MULTILINE):
            assert time.monotonic() < until, f"no {pattern!r} in {log}"
            threading.Event().wait(0.02)
        return log

    def submit(self, sender: str, recipients: list[str], mail: bytes) -> None:
        """Submit a message with LF line ends, as local programs do."""
        command: list[str | Path] = [
            *(peer("sendmail"), "-C", self.folder / "conf", "-i", "-f", sender, "--"),
            *recipients,
        ]
        done = run(command, stdin=mail.replace(b"\r\n", b"\n"))
        assert done.returncode == 0, done.stdout.decode()


@contextmanager
def postfix(office: Office, *, main: str = "") -> Iterator[Postfix]:
    """Runs while the block does, and relays all that it gets to `office`.

    `main` is more of its main.cf; a setting there overrides the one here.
    """
    program = peer("postfix")
    if os.geteuid() != 0:
        absent("Postfix can be started by root only")
    # Not below pytest's directory, which Postfix's user may not enter
    folder = Path(tempfile.mkdtemp(prefix="ehlo-postfix-"))
    try:
        folder.chmod(0o755)
        port = reserved_port(HOST)
        _configure(folder, office, port, main)
        started = run([program, "-c", folder / "conf", "start"])
        running = Postfix(port, folder)
        assert started.returncode == 0, started.stdout.decode() + running.log()
        try:
            yield running
        finally:
            # Not by `postfix stop`: that writes into the log first, and waits forever when the
            # socket of the log's daemon is full and the daemon does not read
            kill_group(int((folder / "queue" / "pid" / "master.pid").read_text()))
    finally:
        shutil.rmtree(folder)


def _configure(folder: Path, office: Office, port: int, more: str) -> None:
    for name in ("conf", "queue", "data"):
        (folder / name).mkdir()
    shutil.chown(folder / "data", _default("mail_owner"))
    shutil.copy(office.authority, folder / "ca.pem")
    main = _MAIN.format(folder=folder, host=office.host, port=office.port)
    (folder / "conf" / "main.cf").write_text(main + more)
    (folder / "conf" / "master.cf").write_text(_MASTER.format(address=HOST, port=port))


def _default(name: str) -> str:
    """Return a setting that Postfix was built with."""
    said = run([peer("postconf"), "-dh", name]).stdout.decode()
    return said.splitlines()[-1]  # it may warn first that the system's Postfix is not configured
