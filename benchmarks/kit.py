"""Measures a test that sends one mail, with the fixtures of several packages, in pytest itself.

Each figure is CPU time of pytest's process per test, with all its threads, without the start and
the first test, and less a test that does nothing.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from scenarios import EHLO_MEMORY, EHLO_PORT, LOCALSERVER, SMTPDFIX

EMPTY = "empty"

# What counts: the clock after the first test, and after the last one
CONFTEST = """
import time

times = []

def pytest_runtest_logfinish():
    times.append(time.process_time())

def pytest_sessionfinish():
    print("\\nseconds", (times[-1] - times[0]) / (len(times) - 1))
"""

TEST = """
import smtplib
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_one_mail({fixture}number):
    {body}
"""

SENDING = """with smtplib.SMTP({address}, local_hostname="localhost") as client:
        client.sendmail("a@example.com", ["b@example.com"], "Subject: Hello\\n\\nHi there\\n")
    assert len({mails}) == 1"""


@dataclass(frozen=True, slots=True)
class Fixture:
    """A fixture: its plugin, where to send, and where the mails are."""

    plugin: str
    name: str
    address: str
    mails: str

    def source(self, count: int) -> str:
        body = SENDING.format(address=self.address, mails=self.mails)
        return TEST.format(count=count, fixture=f"{self.name}, ", body=body)


FIXTURES = {
    SMTPDFIX: Fixture("smtpdfix.fixture", "smtpd", "smtpd.hostname, smtpd.port", "smtpd.messages"),
    LOCALSERVER: Fixture(
        "pytest_localserver.plugin", "smtpserver", "*smtpserver.addr", "smtpserver.outbox"
    ),
    EHLO_MEMORY: Fixture(
        "ehlo.testing.plugin", "ehlo_memory", '"smtp.example.com", 25', "ehlo_memory"
    ),
    EHLO_PORT: Fixture(
        "ehlo.testing.plugin", "ehlo_smtp", "ehlo_smtp.host, ehlo_smtp.port", "ehlo_smtp"
    ),
}


def seconds_per_test(name: str, count: int) -> float:
    """Return the CPU time of a test with one mail by a fixture, or of one that does nothing."""
    fixture = FIXTURES.get(name)
    source = TEST.format(count=count, fixture="", body="pass")
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    if fixture is not None:
        source = fixture.source(count)
        command += ["-p", fixture.plugin]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "conftest.py").write_text(CONFTEST)
        Path(directory, "test_kit.py").write_text(source)
        Path(directory, "pytest.ini").write_text("[pytest]\n")
        done = subprocess.run(
            command,
            cwd=directory,
            env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stdout}{done.stderr}")
    return float(done.stdout.rpartition("seconds ")[2].split()[0])
