"""A Python without what only POSIX systems have, such as that of Windows; and the smallest program.

`support.windows` hides modules, names and methods from a process; it does not change the system.
"""

from __future__ import annotations

import contextlib
import re
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HIDING = f"import runpy; runpy.run_path({str(Path(__file__).parent / 'support/windows.py')!r})\n"
SMALLEST = """
import ehlo

def handler(remote_addr, mail_from, rcpt_tos, data):
    print(f"mail from {mail_from} for {rcpt_tos[0]}: {len(data)} bytes", flush=True)

ehlo.listen_and_serve("127.0.0.1:0", handler, "MyServerApp")
"""
CATCHER = """
import sys
from ehlo.cli import main
sys.exit(main(["--addr", "127.0.0.1:0", "--web", "127.0.0.1:0"]))
"""
LARGE = b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 20_000  # more than spool_threshold
here = pytest.mark.parametrize("before", ["", HIDING], ids=["here", "without POSIX"])


@contextlib.contextmanager
def running(program: str) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """Run a program until the block ends; yield it, its SMTP port and the line that names that."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            while line and " on http" in line:  # the inbox, which is named before
                line = process.stderr.readline()
            port = re.search(r"127\.0\.0\.1:([0-9]+)", line)
            assert port is not None, line + process.stderr.read()
            yield process, int(port[1]), line
        finally:
            process.kill()


def send(port: int, data: bytes) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.sendmail("a@example.com", ["b@example.com"], data)


@here
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_smallest_program_says_where_it_listens_serves_and_stops(
    before: str, number: signal.Signals
) -> None:
    with running(before + SMALLEST) as (process, port, line):
        assert line == f"ehlo listens on 127.0.0.1:{port}; press Ctrl+C to stop\n"
        send(port, b"Subject: small\r\n\r\nhello\r\n")
        send(port, LARGE)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0
    assert errors == ""
    sizes = re.findall("mail from a@example.com for b@example.com: ([0-9]+) bytes\n", output)
    assert len(sizes) == 2
    assert int(sizes[1]) > len(LARGE)


def test_a_program_with_logging_says_it_there_alone() -> None:
    logging = "import logging; logging.basicConfig(level='INFO', format='%(message)s')\n"
    with running(logging + SMALLEST) as (process, port, line):
        assert line == f"listening on 127.0.0.1:{port}\n"
        process.terminate()
        assert "ehlo listens" not in process.communicate(timeout=60)[1]


@here
def test_the_catcher_serves_and_stops(before: str) -> None:
    with running(before + CATCHER) as (process, port, _):
        send(port, b"Subject: small\r\n\r\nhello\r\n")
        process.terminate()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
    assert "hello" in output


@pytest.mark.parametrize(
    "more",
    [
        "ehlo.Server, ehlo.listen_and_serve",
        "ehlo.Handler",
        "ehlo.PasswordFile",
        "import tempfile, ehlo.paths; ehlo.paths.create(f'{tempfile.mkdtemp()}/saved.eml')",
        "ehlo.Server(print, addr='127.0.0.1:0', spool_dir='/tmp').in_thread().__enter__()",
    ],
)
def test_ehlo_does_without_them(more: str) -> None:
    subprocess.run([sys.executable, "-c", f"{HIDING}import ehlo\n{more}"], check=True, timeout=60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("addr='unix:/tmp/x'", "cannot listen on unix:/tmp/x: Unix sockets need a POSIX system"),
        ("user='nobody'", "user needs a POSIX system"),
        ("workers=2", "workers needs a POSIX system"),
        ("control='/tmp/x'", "cannot listen on unix:/tmp/x: Unix sockets need a POSIX system"),
    ],
)
def test_what_needs_a_posix_system_says_so(options: str, message: str) -> None:
    given = options if "addr" in options else f"{options}, addr='127.0.0.1:0'"
    program = f"{HIDING}import ehlo\nehlo.Server('app:handler', {given}).listen_and_serve()"
    program = program.replace("'app:handler'", "'builtins:max'")
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert message in ended.stderr.splitlines()[-1]
