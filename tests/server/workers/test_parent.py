"""The parent of workers, called in a program; `tests/cli/test_workers.py` has it as a process."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ehlo import Server
from ehlo.server.options.config import Options
from ehlo.server.workers.parent import Parent
from ehlo.server.workers.recipe import recipe
from support.client import Client
from support.program import DEADLINE

MODULE = """
import os

def function(remote_addr, mail_from, rcpt_tos, data):
    return f"by-{os.getpid()}"
"""


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parent:
    """Return the parent of one worker."""
    (tmp_path / "one.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    options = Options("one:function", addr="127.0.0.1:0")
    return Parent(options, recipe(options, Server))


@pytest.fixture
def in_thread(parent: Parent) -> Iterator[threading.Thread]:
    """Return a thread that runs the parent until it is closed."""
    thread = threading.Thread(target=parent.run)
    yield thread
    if thread.ident is not None:
        parent.close()
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_a_parent_that_is_closed_before_it_runs_starts_no_worker(
    parent: Parent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ehlo.server")
    parent.close()
    parent.run()
    assert parent.addresses == []
    assert "worker" not in caplog.text


def test_the_signal_handlers_of_the_program_come_back(parent: Parent) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    parent.close()
    parent.run()
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_busy_address_is_an_error_and_leaves_nothing_open(parent: Parent, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        options = Options("one:function", addr=f"127.0.0.1:{busy.getsockname()[1]}")
        files = open_files()
        with pytest.raises(OSError, match="cannot listen on"):
            Parent(options, recipe(options, Server)).run()
        assert open_files() == files


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_replaced_workers_are_new_processes(
    parent: Parent, in_thread: threading.Thread, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ehlo.server")
    ready = Ready()
    logging.getLogger("ehlo.server").addHandler(ready)
    try:
        in_thread.start()
        ready.wait()
        with Client(parent.addresses[0]) as client:
            client.hello()
            first = client.mail()
        parent.replace_all()
        ready.wait()
        with Client(parent.addresses[0]) as client:
            client.hello()
            second = client.mail()
    finally:
        logging.getLogger("ehlo.server").removeHandler(ready)
    assert {first[:3], second[:3]} == {"250"}
    assert first != second


class Ready(logging.Handler):
    """Waits until a worker is ready."""

    def __init__(self) -> None:
        super().__init__()
        self._ready = threading.Semaphore(0)

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().endswith(" is ready"):
            self._ready.release()

    def wait(self) -> None:
        assert self._ready.acquire(timeout=DEADLINE)
