"""Slow and obvious models, which the core is held against."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ehlo.protocol import reply as replies
from ehlo.protocol.reply import Reply

__all__ = ["Body", "Chunked", "Lines", "Plan", "body_of", "grown", "normalized"]


class Body(NamedTuple):
    content: bytes
    ended: bool
    rest: bytes


def body_of(data: bytes) -> Body:
    """RFC 5321 4.1.1.4 and 4.5.2: the CRLF of the DATA command counts as the first of the body."""
    seen = b"\r\n"
    for at in range(len(data)):
        seen += data[at : at + 1]
        if seen.endswith(b"\r\n.\r\n"):
            return Body(_unstuffed(seen[:-3]), True, data[at + 1 :])
    return Body(_unstuffed(seen), False, b"")


def _unstuffed(seen: bytes) -> bytes:
    content, at = b"", 0
    while at < len(seen):
        if seen[at : at + 3] == b"\r\n.":
            content += b"\r\n"
            at += 3
        else:
            content += seen[at : at + 1]
            at += 1
    return content[2:]


def units(data: bytes) -> list[bytes]:
    """The line ends and other bytes: a LF is one with all CRs before it, a CR alone is one."""
    found: list[bytes] = []
    for octet in (data[at : at + 1] for at in range(len(data))):
        while octet[-1:] == b"\n" and found and found[-1] == b"\r":
            octet = found.pop() + octet
        found.append(octet)
    return found


def normalized(data: bytes) -> bytes:
    """Each line end is CRLF."""
    return b"".join(b"\r\n" if unit[-1:] in (b"\r", b"\n") else unit for unit in units(data))


def grown(data: bytes) -> int:
    """How many bytes it takes: a line end is at least two."""
    return sum(max(len(unit), len(normalized(unit))) for unit in units(data))


class Lines:
    """The buffer's lines, from all that was ever fed."""

    def __init__(self) -> None:
        self._data = b""

    @property
    def empty(self) -> bool:
        return not self._data

    def feed(self, data: bytes) -> None:
        self._data += data

    def take_line(self, limit: int) -> bytes | None:
        line, found, rest = self._data.partition(b"\n")
        if not found:
            return None
        self._data = rest
        line += b"\n"
        return line if len(line) <= limit else line[: limit + 1]

    def take(self, count: int) -> bytes:
        taken, self._data = self._data[:count], self._data[count:]
        return taken


class Plan(NamedTuple):
    """What a server of chunks is told, and what its hooks answer. `keep` has BINARYMIME, too."""

    lmtp: bool
    policy: str
    max_size: int
    no_data: Reply | None = None
    no_message: Reply | None = None
    deliveries: Mapping[str, Reply] = MappingProxyType({})


class Chunked:
    """A session that has BDAT (RFC 3030), and its LMTP form (RFC 2033 4.3).

    It is told what the client does, keeps what the client sends for it, and foretells the replies
    and the messages. A body is all of its bytes so far, looked at from its beginning each time.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sent = b""
        self.replies: list[Reply] = []
        self.messages: list[tuple[str, list[str], bytes]] = []
        self.closed = False
        self._hello = False
        self._end()

    def _end(self) -> None:
        self._sender: str | None = None
        self._binary = False
        self._recipients: list[str] = []
        self._refused = 0
        self._octets: bytes | None = None  # of the body, once it has begun
        self._failed = False

    def _say(self, line: str, *answers: Reply) -> None:
        if not self.closed:
            self.sent += line.encode() + b"\r\n"
            self.replies += answers

    # -- commands --------------------------------------------------------------------------------

    def hello(self) -> None:
        self._hello = True
        self._end()
        lhlo = Reply(250, None, "ENHANCEDSTATUSCODES")  # the last of its lines
        answer = lhlo if self.plan.lmtp else replies.hello("localhost", "c")
        self._say("LHLO c" if self.plan.lmtp else "HELO c", answer)

    def noop(self) -> None:
        self._say("NOOP", replies.OK)

    def rset(self) -> None:
        self._end()
        self._say("RSET", replies.OK)

    def mail(self, sender: str, *, binary: bool) -> None:
        line = f"MAIL FROM:<{sender}>{' BODY=BINARYMIME' if binary else ''}"
        if not self._hello:
            self._say(line, replies.HELLO_FIRST)
        elif self._octets is not None:
            self._say(line, replies.AMID_CHUNKS)
        elif self._sender is not None:
            self._say(line, replies.NESTED_MAIL)
        elif binary and self.plan.policy != "keep":
            self._say(line, replies.unknown_parameter("BODY"))
        else:
            self._sender, self._binary = sender, binary
            self._say(line, replies.MAIL_OK)

    def rcpt(self, recipient: str) -> None:
        line = f"RCPT TO:<{recipient}>"
        if self._sender is None:
            self._say(line, replies.MAIL_FIRST)
        elif self._octets is not None:
            self._say(line, replies.AMID_CHUNKS)
        elif recipient.startswith("bad"):
            self._refused += 1
            self._say(line, replies.MAILBOX_UNAVAILABLE)
        else:
            self._recipients.append(recipient)
            self._say(line, replies.RCPT_OK)

    def data(self, body: bytes) -> None:
        """The body is sent where there is a 354; it has no bare line ends and no dots."""
        if self._octets is not None:
            self._say("DATA", replies.AMID_CHUNKS)
        elif not self._recipients:
            self._say("DATA", self._no_recipient(replies.RCPT_FIRST))
        elif self._binary:
            self._say("DATA", replies.BINARY_NEEDS_BDAT)
        elif self.plan.no_data is not None:
            self._say("DATA", self.plan.no_data)
        else:
            self._say("DATA", replies.START_DATA)
            self._octets = body
            self.sent += b"" if self.closed else body + b".\r\n"
            self._finish(self._reason(last=True))

    def bdat(self, form: str, content: bytes, *, last: bool) -> None:
        """A chunk; `form` has a place for its size."""
        self._say(form.format(len(content)))
        if self.closed:
            return
        self.sent += content
        if not self._recipients:
            if self.plan.lmtp and last and self._sender is not None:
                self._end()
            else:
                self.replies.append(self._no_recipient(replies.RCPT_BEFORE_BDAT))
            return
        self._octets = (self._octets or b"") + content
        reason = self._reason(last=last)
        if last:
            self._finish(reason)
        elif reason is None:
            self.replies.append(replies.octets_received(len(content)))
        else:
            self.replies.append(replies.CHUNK_FAILED if self._failed else reason)
            self._failed = True

    def announce(self, form: str, size: int, *, last: bool) -> None:
        """A chunk that is far over the limit: what follows is not read."""
        answers = [replies.TOO_LARGE]
        if not self._recipients:
            answers = [self._no_recipient(replies.RCPT_BEFORE_BDAT)]
        elif self.plan.lmtp and last:
            answers *= len(self._recipients)
        self._say(form.format(size), *answers)
        self.closed = True

    # -- what becomes of a body ------------------------------------------------------------------

    def _no_recipient(self, nothing_tried: Reply) -> Reply:
        if not self._refused:
            return nothing_tried
        lmtp = self.plan.lmtp
        return replies.NO_VALID_RECIPIENTS_LMTP if lmtp else replies.NO_VALID_RECIPIENTS

    def _reason(self, *, last: bool) -> Reply | None:
        """Why the body is refused, as far as it is known."""
        octets = self._octets or b""
        known = octets if last else octets.rstrip(b"\r")  # a LF may follow
        size = len(octets)
        if self.plan.policy == "normalize":
            size += grown(known) - len(known)
        if size > self.plan.max_size > 0:
            return replies.TOO_LARGE
        if self.plan.no_data is not None:
            return self.plan.no_data
        bare = self.plan.policy == "reject" and (
            len(octets) - len(known) > 1 or normalized(known) != known
        )
        return replies.BARE_NEWLINE if bare else None

    def _finish(self, reason: Reply | None) -> None:
        lmtp, recipients = self.plan.lmtp, self._recipients
        answers = [reason] * len(recipients)
        if reason is None:
            answers = self._take()
        elif self._failed and not lmtp and reason.code >= 500:
            answers = [replies.CHUNK_FAILED]
        self.replies += [answer or replies.QUEUED for answer in answers[: None if lmtp else 1]]
        self._end()

    def _take(self) -> list[Reply | None]:
        if self.plan.no_message is not None:
            return [self.plan.no_message] * len(self._recipients)
        body = self._octets or b""
        if self.plan.policy == "normalize":
            body = normalized(body)
        self.messages.append((self._sender or "", self._recipients, body))
        if not self.plan.lmtp:
            return [None]
        return [self.plan.deliveries.get(recipient) for recipient in self._recipients]
