"""A client that sends what it is told to, over a socket of its own."""

from __future__ import annotations

import re
import socket
import ssl
from types import TracebackType
from typing import Self

from .post import ADDRESS, PATIENCE, Office

_LINE_START_DOT = re.compile(rb"(\A|(?<=\r\n))\.")


def ended(mail: bytes) -> bytes:
    """Add a final CRLF where it is missing (RFC 5321 4.1.1.4)."""
    return mail if mail.endswith(b"\r\n") or not mail else mail + b"\r\n"


def stuffed(mail: bytes) -> bytes:
    """Return `mail` dot-stuffed and with its end, for after a 354 (RFC 5321 4.5.2)."""
    return _LINE_START_DOT.sub(b"..", ended(mail)) + b".\r\n"


class Dialogue:
    """Sends one command at a time, and waits for each reply."""

    def __init__(self, office: Office, context: ssl.SSLContext | None = None) -> None:
        self._office = office
        self._context = context
        self._socket = socket.create_connection((ADDRESS, office.port), PATIENCE)
        if office.security == "tls":
            self._secure()
        self._replies = self._socket.makefile("rb")
        self.expect(220)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._replies.close()
        self._socket.close()

    def _secure(self) -> None:
        assert self._context is not None
        self._socket = self._context.wrap_socket(self._socket, server_hostname="localhost")

    def start_tls(self) -> None:
        self.say("STARTTLS", 220)
        self._replies.close()
        self._secure()
        self._replies = self._socket.makefile("rb")

    def say(self, line: str, code: int) -> str:
        """Send a command and read the reply, which must have `code`."""
        self._socket.sendall(line.encode() + b"\r\n")
        return self.expect(code)

    def send(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def expect(self, code: int) -> str:
        lines = []
        while True:
            line = self._replies.readline().decode()
            lines.append(line)
            if line[3:4] != "-":
                break
        reply = "".join(lines)
        assert lines[-1].startswith(f"{code} "), reply
        return reply

    def deliver(self, mail: bytes, parameters: str = " BODY=8BITMIME SMTPUTF8") -> str:
        """Send a message; return the final reply."""
        self.say(f"MAIL FROM:<sender@example.com>{parameters}", 250)
        self.say("RCPT TO:<anna@example.com>", 250)
        self.say("DATA", 354)
        self.send(stuffed(mail))
        return self.expect(250)
