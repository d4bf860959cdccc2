"""Standard input, output and error that are closed: `ehlo serve app:function <&- 2>&-`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ehlo import Peer
from support.client import Client
from support.program import DEADLINE

SHUT = ["<&-", ">&-", "2>&-", "<&- 2>&-", "<&- >&- 2>&-"]

# Serves by the library alone, and says where in a file
LIBRARY = """
import sys, ehlo
def handler(remote_addr, mail_from, rcpt_tos, data): pass
ehlo.Server(handler, addr="unix:smtp", loop=sys.argv[1]).listen_and_serve()
"""


@contextmanager
def shell(here: Path, shut: str, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Start Python with a command line, and some standard files closed."""
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$0" "$@" {shut}', sys.executable, *command],
        cwd=here,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE)


def wait_for(path: Path, process: subprocess.Popen[str]) -> Peer:
    """Wait until the process listens at `path`."""
    while True:
        assert process.poll() is None, "it has ended"
        try:
            Client(Peer(f"unix:{path}", 0)).close()
        except OSError:
            os.sched_yield()
        else:
            return Peer(f"unix:{path}", 0)


def ends_well(here: Path, shut: str, *command: str) -> None:
    """Check that a server serves and ends, whatever is closed."""
    path = here / "smtp"
    with shell(here, shut, *command) as process:
        with Client(wait_for(path, process)) as client:
            client.hello()
            assert client.mail().startswith("250 ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    assert not path.exists()


@pytest.mark.parametrize("shut", SHUT)
def test_serve_ends_with_0(here: Path, shut: str, loop_name: str) -> None:
    options = ("--addr", "unix:smtp", "--loop", loop_name)
    ends_well(here, shut, "-m", "ehlo", "serve", "app:function", *options)


def test_workers_end_with_0(here: Path, loop_name: str) -> None:
    options = ("--addr", "unix:smtp", "--workers", "2", "--loop", loop_name)
    ends_well(here, SHUT[-1], "-m", "ehlo", "serve", "app:function", *options)


@pytest.mark.parametrize("shut", SHUT)
def test_the_library_ends_well(tmp_path: Path, shut: str, loop_name: str) -> None:
    ends_well(tmp_path, shut, "-c", LIBRARY, loop_name)


def test_without_standard_output_there_is_nothing_to_print_on(tmp_path: Path) -> None:
    with shell(tmp_path, ">&-", "-m", "ehlo", "--addr", "127.0.0.1:0") as process:
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2
    said = (
        "ehlo: standard output is closed; ehlo prints messages there: redirect it to a file, or "
        "write --no-print\n"
    )
    assert errors == f"{said}Try 'ehlo --help'.\n"


def test_without_standard_input_there_is_no_password(tmp_path: Path) -> None:
    with shell(tmp_path, "<&-", "-m", "ehlo", "passwd", "users", "alice") as process:
        _, errors = process.communicate(timeout=DEADLINE)
    said = "ehlo: the password is empty\nTry 'ehlo passwd --help'.\n"
    assert (process.returncode, errors) == (2, said)
