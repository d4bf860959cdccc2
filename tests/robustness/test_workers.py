"""Workers are killed under load: acknowledged messages are kept, the other workers continue.

Workers share their listening sockets, and all places for connections are used.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

from ehlo import Peer
from robustness.scale import DEADLINE, full
from robustness.senders import CLIENTS, Load
from support.client import Client
from support.program import Start
from support.program import start as start

# Each message is in the log, and on the disk, before it is acknowledged
MODULE = """
import os, pathlib

LOG = os.open(pathlib.Path(__file__).with_name("log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def handler(remote_addr, mail_from, rcpt_tos, data):
    os.write(LOG, f"{mail_from}\\n".encode())
    os.fsync(LOG)
"""
KILLS = full(15, short=4)
PLACES = full(200, short=41)  # for connections; not the same number in each of four workers
BETWEEN = 40  # messages that are acknowledged from one kill to the next


def test_acknowledged_messages_survive_killed_workers(start: Start, tmp_path: Path) -> None:
    (tmp_path / "durable.py").write_text(MODULE)
    program = start(
        *("-m", "ehlo", "serve", "durable:handler", "--addr", "127.0.0.1:0", "--workers", "2"),
        cwd=tmp_path,
    )
    alive = [pid_in(program.err.until(" is ready")) for _ in range(2)]
    load = Load(program.listening())
    try:
        for _ in range(KILLS):
            load.wait_for(BETWEEN)
            os.kill(alive.pop(0), signal.SIGKILL)
            program.err.until("was killed by SIGKILL")
            load.wait_for(BETWEEN)  # by the other
            alive.append(pid_in(program.err.until(" is ready")))
        load.wait_for(BETWEEN)
    finally:
        load.stop()
    assert program.stop() == 0
    logged = (tmp_path / "log").read_text().splitlines()
    assert load.cut_off > 0
    assert len(logged) == len(set(logged))
    assert set(load.acknowledged) <= set(logged)
    # messages that were written but not acknowledged were in a killed worker
    assert len(logged) - len(load.acknowledged) <= KILLS * CLIENTS


def test_no_process_is_left_if_the_parent_is_killed_under_load(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "durable.py").write_text(MODULE)
    program = start(
        *("-m", "ehlo", "serve", "durable:handler", "--addr", "127.0.0.1:0", "--workers", "2"),
        cwd=tmp_path,
    )
    pids = [pid_in(program.err.until(" is ready")) for _ in range(2)]
    load = Load(program.listening())
    try:
        load.wait_for(BETWEEN)
        program.process.kill()
        program.wait()  # also for the workers, which share its standard error
    except BaseException:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise
    finally:
        load.stop()
    assert set(load.acknowledged) <= set((tmp_path / "log").read_text().splitlines())


def admitted(address: Peer) -> Client:
    """Return a client that has a place; the server may not have seen yet that another has left."""
    until = time.monotonic() + DEADLINE
    while not (client := Client(address)).reply().startswith("220 "):
        client.close()
        assert time.monotonic() < until, "no place is free"
    return client


def pid_in(line: str) -> int:
    """Return the process id in a line of the log."""
    return int(re.findall(r"process (\d+)", line)[0])


def test_no_client_is_turned_away_before_all_places_are_taken(
    start: Start, tmp_path: Path, loop_name: str
) -> None:
    (tmp_path / "durable.py").write_text(MODULE)
    program = start(
        *("-m", "ehlo", "serve", "durable:handler", "--addr", "127.0.0.1:0", "--loop", loop_name),
        *("--workers", "4", "--max-connections", str(PLACES)),
        cwd=tmp_path,
    )
    address = Peer(*program.listening())
    with contextlib.ExitStack() as held:
        for burst in (PLACES // 2, PLACES // 4, PLACES - PLACES // 2 - PLACES // 4):
            clients = [held.enter_context(Client(address)) for _ in range(burst)]
            assert {client.reply()[:3] for client in clients} == {"220"}
        with Client(address) as client:
            assert client.reply().startswith("421 4.7.0 ")
        for leaves in clients:
            leaves.close()  # in whichever worker it was
        for _ in clients:
            held.enter_context(admitted(address))
    assert program.stop() == 0
