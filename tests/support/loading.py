"""A load of mail over many connections, which notes the id of each message that was accepted."""

from __future__ import annotations

import contextlib
import smtplib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from support.serving import DEADLINE

__all__ = ["Load", "loaded", "look_until"]

_PAUSE = 0.02  # seconds before another try where no server listens


class Load:
    """Sends mail of some sizes, each from a thread, to a port that may change, until `stop`."""

    def __init__(self, port: int, sizes: Sequence[int], most: Sequence[int] = ()) -> None:
        """`most` is how many messages of each size are sent at most; others go on until `stop`."""
        self.port = port
        self.acknowledged: list[str] = []
        """The ids of the messages that got a 250."""
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=each)
            for each in zip(sizes, most or (None,) * len(sizes), strict=True)
        ]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        """Stop after the messages that are under way."""
        self._stopped.set()
        self.join()

    def join(self) -> None:
        for each in self._threads:
            each.join()

    def has(self, count: int) -> bool:
        return len(self.acknowledged) >= count

    def _send(self, size: int, most: int | None) -> None:
        body = b"Subject: x\r\n\r\n" + b"0123456789abcde\r\n" * (size // 17)
        sent = 0
        while not self._stopped.is_set() and sent != most:
            client = smtplib.SMTP(timeout=DEADLINE)
            with contextlib.suppress(smtplib.SMTPException, OSError), contextlib.closing(client):
                client.connect("127.0.0.1", self.port)
                client.ehlo("c")
                while not self._stopped.is_set() and sent != most:
                    client.mail("a@x.test")
                    client.rcpt("b@x.test")
                    code, text = client.data(body)
                    if code == 250:
                        self.acknowledged.append(text.decode().rpartition(" ")[2])
                        sent += 1
                client.quit()
            self._stopped.wait(0 if sent == most else _PAUSE)


@contextlib.contextmanager
def loaded(port: int, sizes: Sequence[int]) -> Iterator[Load]:
    """Load a server while the block runs."""
    load = Load(port, sizes)
    load.start()
    try:
        yield load
    finally:
        load.stop()


def look_until(condition: Callable[[], bool], deadline: float = DEADLINE) -> None:
    """Return once `condition()` holds; other threads and programs run meanwhile."""
    until = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        threading.Event().wait(0.01)
