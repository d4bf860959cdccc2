"""SIGTERM under load, again and again: no message is lost or accepted twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustness.process import Launch, Tell
from robustness.scale import full
from robustness.senders import Load

STOPS = full(20, short=2)
BETWEEN = full(400, short=40)  # messages that are acknowledged from one stop to the next
SIZES = (2000, 2000, 2000, 200_000)  # the last one is spooled to disk


@pytest.mark.parametrize(
    ("handler", "workers"),
    [("Log", 1), ("LogInThread", 2), *full([("LogInThread", 1), ("Log", 2)], short=[])],
)
def test_sigterm_under_load_loses_and_doubles_no_message(
    launch: Launch, tell: Tell, tmp_path: Path, handler: str, workers: int
) -> None:
    log = tmp_path / "mail"
    options = ["--spool-threshold", "65536", "--grace", "60"]
    if workers > 1:
        options += ["--workers", str(workers)]
    env = {"SERVED_LOG": str(log)}
    server = launch(handler, "--addr", "127.0.0.9:0", *options, env=env)
    addr = str(server.address)  # between two servers, no other test can take a port of this host
    load = Load(server.address, SIZES)
    try:
        for _ in range(STOPS):
            load.wait_for(BETWEEN)
            load.hold()
            assert server.program.stop() == 0
            server = launch(handler, "--addr", addr, *options, env=env)
            load.go_on()
        load.wait_for(BETWEEN)
    finally:
        load.stop()
    assert server.program.stop() == 0
    logged = log.read_text().splitlines()
    tell(f"{len(logged)} messages, {STOPS} stops, {load.cut_off} sessions were ended by them")
    # Not one more, either: its client would send it again
    assert sorted(load.acknowledged) == sorted(logged)
    assert len(set(logged)) == len(logged)
    assert load.cut_off > 0
