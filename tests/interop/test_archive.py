"""The example of a cluster: what its Compose file starts, here without containers."""

from __future__ import annotations

import json
import os
import re
import shutil
import smtplib
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.loading import look_until
from support.postgres import Database
from support.postgres import database as database
from support.postgres import postgres_server as postgres_server
from support.program import Program, Start
from support.program import start as start

from .peers import TIMEOUT, peer

EXAMPLE = Path(__file__).parents[2] / "examples" / "archive"
MAIL = "Subject: {}\r\n\r\nAt noon?\r\n"


def ehlo(start: Start, directory: Path, command: list[str], url: str) -> Program:
    """Start what a service of the Compose file runs, on this machine."""
    here = {":2525": "127.0.0.1:0", "172.16.0.0/12": "127.0.0.0/8"}
    words = [here.get(word, word) for word in command]
    return start("-m", "ehlo", *words, cwd=directory, env={"EHLO_QUEUE": url, "DATABASE_URL": url})


@contextmanager
def haproxy(directory: Path, ports: list[int]) -> Iterator[int]:
    """Run HAProxy with the example's configuration, in front of these ports."""
    program, text = peer("haproxy"), (EXAMPLE / "haproxy.cfg").read_text()
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        text = text.replace("bind :2525", f"bind fd@{listening.fileno()}")
        for number, port in enumerate(ports, 1):
            text = text.replace(f"front{number}:2525", f"127.0.0.1:{port}")
        (directory / "haproxy.cfg").write_text(text)
        process = subprocess.Popen(
            [program, "-db", "-f", "haproxy.cfg"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
            env={**os.environ, "LC_ALL": "C"},
        )
        stack.callback(process.wait, TIMEOUT)
        stack.callback(process.kill)
        yield listening.getsockname()[1]


def test_two_front_ends_and_two_consumers_archive_behind_haproxy(
    tmp_path: Path, start: Start, database: Database
) -> None:
    peer("haproxy")
    compose = (EXAMPLE / "compose.yaml").read_text()
    front, consumer = map(json.loads, re.findall(r"^  command: (\[.*\])$", compose, re.MULTILINE))
    shutil.copy(EXAMPLE / "app.py", tmp_path)
    programs = {
        name: ehlo(start, tmp_path, front if kind == "front" else consumer, database.url)
        for name, kind in re.findall(r"^  (\w+): \*(front|consumer)$", compose, re.MULTILINE)
    }
    ports = [programs[name].listening()[1] for name in ("front1", "front2")]
    for name in ("consumer1", "consumer2"):
        programs[name].err.until("logger=ehlo.server message=started")
    with haproxy(tmp_path, ports) as port:
        for number in range(10):  # the fewest connections: both front ends, in turn
            send(port, f"first {number}")
        assert programs["front1"].stop() == 0
        assert programs["consumer1"].stop() == 0
        for number in range(10):  # and now only one of each
            send(port, f"second {number}")
        with (
            smtplib.SMTP("127.0.0.1", port, timeout=TIMEOUT) as client,
            pytest.raises(smtplib.SMTPRecipientsRefused),
        ):
            client.sendmail("a@x.test", "b@elsewhere.test", MAIL)
        wanted = {f"{what} {number}" for what in ("first", "second") for number in range(10)}
        look_until(lambda: subjects(database) == wanted and not database.rows())
    for name in ("front2", "consumer2"):
        assert programs[name].stop() == 0
    traces = database.fetch("SELECT convert_from(raw, 'UTF8') FROM archive")
    assert all("([127.0.0.1])" in trace for (trace,) in traces)


def send(port: int, subject: str) -> None:
    """Send a mail, as a server does: again if there is no front end for it at the moment."""

    def is_accepted() -> bool:
        try:
            with smtplib.SMTP("127.0.0.1", port, timeout=TIMEOUT) as client:
                client.sendmail("a@x.test", "b@archive.example.com", MAIL.format(subject))
        except (smtplib.SMTPException, OSError):
            return False
        return True

    look_until(is_accepted)


def subjects(database: Database) -> set[str]:
    """Return the subjects in the archive."""
    (exists,) = database.fetch("SELECT to_regclass('archive') IS NOT NULL")[0]
    return {each for (each,) in database.fetch("SELECT subject FROM archive")} if exists else set()
