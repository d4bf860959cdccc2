"""Honest clients by smtplib, which send until the test stops them."""

from __future__ import annotations

import smtplib
import threading
from collections.abc import Sequence

from support.program import DEADLINE

__all__ = ["CLIENTS", "Load"]

CLIENTS = 8


class Load:
    """Clients that send one message after the other, and reconnect after they are cut off.

    Their messages have these sizes, in turn.
    """

    def __init__(self, address: tuple[str, int], sizes: Sequence[int] = (2000,)) -> None:
        self.address = address
        self.sizes = sizes
        self.acknowledged: list[str] = []
        self.cut_off = 0
        self._more = threading.Semaphore(0)
        self._over = threading.Event()
        self._there = threading.Event()
        self._there.set()
        self._threads = [
            threading.Thread(target=self._send_all, args=(number,)) for number in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def wait_for(self, count: int) -> None:
        """Wait until `count` more messages are acknowledged."""
        for _ in range(count):
            assert self._more.acquire(timeout=DEADLINE), "nothing is acknowledged any more"

    def hold(self) -> None:
        """Make clients that cannot connect wait for `go_on`."""
        self._there.clear()

    def go_on(self) -> None:
        """Let clients connect again."""
        self._there.set()

    def stop(self) -> None:
        self._over.set()
        self._there.set()
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()

    def _send_all(self, number: int) -> None:
        count = 0
        while not self._over.is_set():
            try:
                with smtplib.SMTP(*self.address, timeout=DEADLINE) as client:
                    while not self._over.is_set():
                        count += 1
                        size = self.sizes[count % len(self.sizes)]
                        self._send(client, f"{number}-{count}@example.com", size)
            except ConnectionRefusedError:
                assert self._there.wait(DEADLINE)
            except (OSError, smtplib.SMTPException):
                self.cut_off += 1

    def _send(self, client: smtplib.SMTP, sender: str, size: int) -> None:
        body = b"Subject: x\r\n\r\n" + (b"x" * 98 + b"\r\n") * (size // 100)
        client.sendmail(sender, ["b@example.com"], body)
        self.acknowledged.append(sender)
        self._more.release()
