"""A small SMTP server that is right, and wrong in just the ways that a test asks for.

Each of its faults is a switch: a reply that is replaced, a sequence that ends a line or a message
although it does not, a state that is kept.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from ehlo import Peer

SIZE = 100_000
LONGEST_LINE = 1000
KEYWORDS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES", "HELP")

_PATH = re.compile(
    r'<(?:@[^:>]+:)?(?:(?P<local>"(?:\\.|[^"\\])*"|[^"<>@\s]+)(?:@(?P<domain>\[[^\]\s]+\]|[^<>\s@\[\]]+))?)?>'
)
_CLASSES = {"2": "2.0.0 ", "4": "4.0.0 ", "5": "5.0.0 "}


@dataclass(frozen=True)
class Faults:
    """What the server does wrong."""

    says: Mapping[str, str] = field(default_factory=dict)
    """Replies by a pattern of the state and the command: `rcpt DATA` is DATA after RCPT."""
    line_ends: Sequence[bytes] = ()
    """Patterns of what ends a command, as well as CRLF."""
    ends: Sequence[bytes] = ()
    """Patterns of what ends a message, as well as CRLF.CRLF."""
    packet_ends: Sequence[bytes] = ()
    """What ends a message where it is the end of a packet."""
    keywords: Sequence[str] = KEYWORDS
    kinds: frozenset[str] = frozenset()
    """All others, by name."""


class Toy:
    """Listens on a free port while a `with` block runs."""

    def __init__(self, faults: Faults | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.faults = faults or Faults()
        self.tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Peer("127.0.0.1", self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            thread.start()
            self._threads.append(thread)

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = Session(self, client)
        with contextlib.suppress(OSError):
            session.run()
        session.sock.close()


class Session:
    """One client."""

    def __init__(self, toy: Toy, sock: socket.socket) -> None:
        self.toy = toy
        self.faults = toy.faults
        self.kinds = toy.faults.kinds
        self.sock = sock
        self.buffer = b""
        self.state = "start"
        self.tls = False
        self.chunks: bool = False
        self.last_chunk = False
        self.recipients = 0
        self.line_end = re.compile(b"|".join((b"\r\n", *self.faults.line_ends)))
        self.message_end = re.compile(b"|".join((rb"\r\n\.\r\n", *self.faults.ends)))

    def run(self) -> None:
        self.say(self.faults.says.get("greeting", "220 toy.example ready"))
        if "talks in advance" in self.kinds:
            self.say("250 2.0.0 Ok")
        while (line := self.command()) is not None:
            if not self.obey(line) or (self.buffer and "closes when there is more" in self.kinds):
                return

    def receive(self) -> bool:
        data = self.sock.recv(65_536)
        self.buffer += data
        return bool(data)

    def say(self, *lines: str) -> None:
        last = len(lines) - 1
        text = [
            f"{line[:3]}-{line[4:]}" if number < last else line for number, line in enumerate(lines)
        ]
        self.sock.sendall("".join(f"{line}\r\n" for line in text).encode())

    def reply(self, code: int, text: str = "text") -> None:
        codes = "" if "no codes" in self.kinds else _CLASSES.get(str(code)[0], "")
        self.say(f"{code} {codes}{text}")

    # -- commands --------------------------------------------------------------------------------

    def command(self) -> str | None:
        while (found := self.line_end.search(self.buffer)) is None:
            if not self.receive():
                return None
            if "takes a packet for a line" in self.kinds:
                line, self.buffer = self.buffer, b""
                return line.decode().rstrip("\r\n")
        line, self.buffer = self.buffer[: found.start()], self.buffer[found.end() :]
        if "cuts long lines" in self.kinds and len(line) > LONGEST_LINE:
            line, self.buffer = line[:LONGEST_LINE], line[LONGEST_LINE:] + b"\r\n" + self.buffer
        if "drops what is pipelined" in self.kinds:
            self.buffer = b""
        return line.decode("utf-8", "surrogateescape")

    def obey(self, line: str) -> bool:
        """Reply to a command; return whether the session goes on."""
        for pattern, said in self.faults.says.items():
            if re.fullmatch(pattern, f"{self.state} {line}", re.DOTALL):
                for each in said.split("|"):
                    self.say(*each.split("/"))
                return not said.startswith("421")
        if len(line.encode("utf-8", "surrogateescape")) > LONGEST_LINE:
            self.reply(500)
            return True
        text = line if "minds blanks" in self.kinds else line.rstrip(" ")
        verb, space, argument = text.partition(" ")
        if "minds case" not in self.kinds:
            verb = verb.upper()
        method = getattr(self, f"do_{verb.lower()}", None) if verb.isupper() else None
        if method is None or (verb == "BDAT" and "CHUNKING" not in self.faults.keywords):
            self.reply(500)
            return True
        if verb in ("RSET", "QUIT", "DATA", "STARTTLS") and space:
            self.reply(501)
            return True
        return bool(method(argument))

    def do_ehlo(self, name: str) -> bool:
        if not name:
            self.reply(501)
            return True
        if "keeps after EHLO" not in self.kinds:
            self.forget()
        keywords = [*self.faults.keywords, f"SIZE {SIZE}"]
        if self.toy.tls is not None and (not self.tls or "offers TLS twice" in self.kinds):
            keywords.append("STARTTLS")
        self.say("250 toy.example", *(f"250 {keyword}" for keyword in keywords))
        return True

    def do_helo(self, name: str) -> bool:
        if not name:
            self.reply(501)
            return True
        if "keeps after HELO" not in self.kinds:
            self.forget()
        self.say("250 toy.example")
        return True

    def forget(self) -> None:
        self.state = "ready"
        self.chunks = self.last_chunk = False
        self.recipients = 0

    def do_noop(self, _argument: str) -> bool:
        self.reply(250)
        return True

    def do_vrfy(self, _argument: str) -> bool:
        self.reply(252)
        return True

    def do_help(self, _argument: str) -> bool:
        self.reply(214)
        return True

    def do_rset(self, _argument: str) -> bool:
        if "keeps after RSET" not in self.kinds:
            self.state = "ready" if self.state != "start" else "start"
        if "keeps chunks" not in self.kinds:
            self.chunks = self.last_chunk = False
        if "forgets EHLO" in self.kinds:
            self.state = "start"
        self.reply(250)
        return True

    def do_quit(self, _argument: str) -> bool:
        self.reply(221)
        return "stays after QUIT" in self.kinds

    def do_mail(self, argument: str) -> bool:
        if self.state != "ready":
            if "MAIL ends the transaction" in self.kinds:
                self.state = "ready"
            self.reply(503)
            return True
        if self.accepts("FROM:", argument):
            self.state = "mail"
        elif "a rejected MAIL ends all" in self.kinds:
            self.state = "start"
        return True

    def do_rcpt(self, argument: str) -> bool:
        if self.state not in ("mail", "rcpt") or self.last_chunk:
            self.reply(503)
            return True
        if self.recipients >= 50 and "few recipients" in self.kinds:
            self.reply(452)
            return True
        if self.accepts("TO:", argument):
            self.state = "rcpt"
            self.recipients += 1
        elif "a rejected RCPT ends all" in self.kinds:
            self.forget()
        return True

    def accepts(self, mark: str, argument: str) -> bool:
        """Reply to MAIL or RCPT; return whether it is accepted."""
        head = argument[: len(mark)]
        found = _PATH.match(argument, len(mark))
        params = argument[found.end() :].split(" ") if found else []
        is_empty = mark == "TO:" and found is not None and found["local"] is None
        if head.upper() != mark or found is None or params[0] or is_empty:
            self.reply(501)
        elif mark == "TO:" and found["domain"] is None and found["local"].lower() != "postmaster":
            self.reply(550)
        else:
            code = self.code_of(found[0], params[1:])
            self.reply(code)
            return code == 250
        return False

    def code_of(self, path: str, params: Sequence[str]) -> int:
        given = {name.upper(): value for name, _, value in (each.partition("=") for each in params)}
        if not path.isascii() and "SMTPUTF8" not in given:
            return 553
        if given.keys() - {"SIZE", "BODY", "SMTPUTF8"}:
            return 555
        if not given.get("SIZE", "0").isdigit():
            return 501
        if given.get("BODY", "7BIT").upper() not in ("7BIT", "8BITMIME"):
            return 501
        return 552 if int(given.get("SIZE", "0")) > SIZE else 250

    # -- content ---------------------------------------------------------------------------------

    def do_data(self, _argument: str) -> bool:
        if self.state != "rcpt" or self.chunks:
            self.reply(503)
            return True
        self.say("354 go on")
        data = b"\r\n"
        while True:
            data, self.buffer = data + self.buffer, b""
            found = self.message_end.search(data)
            if found is not None:
                data, self.buffer = data[: found.start()], data[found.end() :]
                break
            if any(data.endswith(end) for end in self.faults.packet_ends):
                break
            if not self.receive():
                return False
        if "drops what is pipelined" in self.kinds:
            self.buffer = b""
        self.accept(data)
        return True

    def accept(self, data: bytes) -> None:
        if "keeps after a message" not in self.kinds:
            self.state = "ready"
        says = self.faults.says.get("a message")
        if says is not None:
            self.say(*says.split("/"))
        else:
            self.reply(552 if len(data) > SIZE else 250)
            if "replies twice" in self.kinds:
                self.reply(250)

    def do_bdat(self, argument: str) -> bool:
        found = re.fullmatch(r"(\d{1,10})( LAST)?", argument, re.IGNORECASE)
        if found is None:
            self.reply(501)
            return False
        size, is_last = int(found[1]), found[2] is not None
        refused = self.state != "rcpt" or self.last_chunk
        if not (
            (refused and "reads rejected chunks" in self.kinds)
            or (size > SIZE and "reads large chunks" in self.kinds)
        ):
            while len(self.buffer) < size:
                if not self.receive():
                    return False
            chunk, self.buffer = self.buffer[:size], self.buffer[size:]
            if b"\r\n.\r\n" in chunk and "looks for dots in chunks" in self.kinds:
                chunk, _, rest = chunk.partition(b"\r\n.\r\n")
                self.buffer = rest + self.buffer
        if refused:
            self.reply(503)
        elif is_last:
            self.accept(b"x" * size)
            self.chunks = False
        else:
            self.chunks = True
            self.reply(250)
        return True

    # -- TLS -------------------------------------------------------------------------------------

    def do_starttls(self, _argument: str) -> bool:
        if self.toy.tls is None or (self.tls and "takes TLS twice" not in self.kinds):
            self.reply(503)
            return True
        if "answers before TLS" in self.kinds and self.buffer:
            self.say("220 go on", *())
            self.say("250 toy.example")
            return True
        self.reply(220)
        if self.tls:
            return True
        if self.buffer and "keeps bytes before TLS" not in self.kinds:
            return False
        self.sock = self.toy.tls.wrap_socket(self.sock, server_side=True)
        self.tls = True
        if "keeps after TLS" not in self.kinds:
            self.state = "start"
        return True
