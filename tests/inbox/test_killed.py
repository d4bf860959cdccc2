"""`ehlo --store` is killed amid a load: every mail that got a 250 is in the file."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import smtplib
import threading
from pathlib import Path

import pytest

from ehlo.store import Store
from support.program import Start

SENDERS = 8
ROUNDS = 15 if os.environ.get("EHLO_SOAK") == "1" else 1
ENOUGH = 200  # mails that were acknowledged
DEADLINE = 60.0


class Load:
    """Clients that send mail until the server is gone, and note what was acknowledged."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.acknowledged: dict[str, str] = {}
        self.enough = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(address, number)) for number in range(SENDERS)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, address: tuple[str, int], number: int) -> None:
        try:
            with smtplib.SMTP(*address, local_hostname="c.example", timeout=DEADLINE) as client:
                client.ehlo()
                for count in range(1_000_000):
                    subject = f"{number}-{count}"
                    client.mail("a@x.example")
                    client.rcpt("b@y.example")
                    code, text = client.data(f"Subject: {subject}\r\n\r\n{'x' * (count % 5_000)}")
                    assert code == 250, text
                    found = re.search(rb"queued as (\w+)", text)
                    assert found is not None, text
                    self.acknowledged[found[1].decode()] = subject
                    if len(self.acknowledged) >= ENOUGH:
                        self.enough.set()
        except (smtplib.SMTPException, OSError):
            pass  # the server was killed

    def join(self) -> None:
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_what_was_acknowledged_is_in_the_file(start: Start, tmp_path: Path, number: int) -> None:
    program = start(
        *("-m", "ehlo", "--addr", "127.0.0.1:0", "--web", "127.0.0.1:0", "--no-print"),
        *("--store", "mail.db", "--keep", "0"),
        env={"EHLO_NO_WEB": "0"},
        cwd=tmp_path,
    )
    load = Load(program.listening())
    assert load.enough.wait(DEADLINE)
    program.process.send_signal(signal.SIGKILL)
    load.join()
    program.wait()
    found = asyncio.run(subjects_in(str(tmp_path / "mail.db")))
    assert load.acknowledged.items() <= found.items()


async def subjects_in(path: str) -> dict[str, str]:
    async with Store.open(path, keep=0) as store:
        mails = (await store.list(limit=None)).mails
    return {mail.id: json.loads(mail.summary)["Subject"] for mail in mails}
