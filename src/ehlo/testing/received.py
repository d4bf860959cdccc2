"""`ReceivedMail` and `Rejection`: what an inbox has received, and what it has rejected."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ehlo.content.parsed import parse_email
from ehlo.content.view import Attachment, Content, read_content
from ehlo.net import Peer
from ehlo.session import TLSInfo
from ehlo.transcript import Direction, Transcript, escaped

if TYPE_CHECKING:
    from email.message import EmailMessage

_END: Final = "end of data"
_NO_PARAMETERS: Final[Mapping[str, Any]] = {}


class ReceivedMail:
    r"""Holds one mail as the server received it: its envelope, its content, and its session.

    Example:

        >>> from ehlo.testing import Inbox
        >>> with Inbox(memory=True) as inbox, inbox.smtp() as client:
        ...     refused = client.sendmail(
        ...         "app@example.com", "ada@example.com",
        ...         "Subject: Your code\n\nYour code is 123456.",
        ...     )
        ...     mail = inbox.wait_for(to="ada@example.com")
        >>> mail.subject, mail.rcpt_tos, mail.code()
        ('Your code', ['ada@example.com'], '123456')
    """

    def __init__(
        self,
        mail_id: str,
        mail_from: str,
        rcpt_tos: Sequence[str],
        raw: bytes,
        *,
        session: Transcript,
        peer: Peer,
        params: Mapping[str, Any] = _NO_PARAMETERS,
        user: str | None = None,
        tls: TLSInfo | None = None,
    ) -> None:
        self.id: str = mail_id
        """The id in the reply to the client: `250 2.0.0 Ok: queued as <id>`."""
        self.mail_from: str = mail_from
        """The envelope sender; `""` for a bounce."""
        self.rcpt_tos: list[str] = list(rcpt_tos)
        """The envelope recipients, in their order. Those of Bcc are only here."""
        self.params: Mapping[str, Any] = params
        """The parameters of MAIL by upper-case keyword, parsed, such as `SIZE` and `SMTPUTF8`."""
        self.raw: bytes = raw
        """The message as the client sent it, with CRLF line ends."""
        self.session: Transcript = session
        """The transcript of the session that brought it; `str()` of it is readable."""
        self.peer: Peer = peer
        """The client's address."""
        self.user: str | None = user
        """The user name of the login; `None` without one."""
        self.tls: TLSInfo | None = tls
        """The TLS of the connection; `None` in plaintext. In memory, TLS is only simulated."""

    @cached_property
    def content(self) -> Content:
        """The readable content, as in `ehlo.Message.content`."""
        return read_content(self.raw)

    @cached_property
    def email(self) -> EmailMessage:
        """The message as the standard library parses it."""
        return parse_email(self.raw)

    @property
    def message(self) -> EmailMessage:
        """The same object as `email`."""
        return self.email

    @property
    def subject(self) -> str:
        """The decoded Subject in one line; `""` without one."""
        return self.content.subject

    @property
    def text(self) -> str:
        """The readable text, with LF line ends; made from the HTML where there is no plain text."""
        return self.content.text

    @property
    def html(self) -> str:
        """The HTML; `""` when there is none."""
        return self.content.html or ""

    @property
    def attachments(self) -> Sequence[Attachment]:
        """The attachments, in the order of the message."""
        return self.content.attachments

    @property
    def links(self) -> list[str]:
        """The addresses (URLs) of all links, the best first, each once."""
        return list(dict.fromkeys(each.url for each in self.content.links))

    @property
    def codes(self) -> list[str]:
        """The texts that may be one-time codes, the best first, each once."""
        return list(dict.fromkeys(each.text for each in self.content.codes))

    def link(self, match: str | re.Pattern[str] | None = None) -> str:
        r"""Return the only link that contains `match`: text or a pattern; `None` is in any link.

        Raises `AssertionError`, which shows all links, if there is none or more than one.

        Example:

            >>> from ehlo.testing import Inbox
            >>> with Inbox(memory=True) as inbox, inbox.smtp() as client:
            ...     text = "Subject: Reset\n\nhttps://example.com/reset/7f2a\n"
            ...     refused = client.sendmail("app@example.com", "ada@example.com", text)
            ...     inbox[0].link("/reset/")
            'https://example.com/reset/7f2a'
        """
        __tracebackhide__ = True
        found = [url for url in self.links if match is None or is_in(match, url)]
        if len(found) == 1:
            return found[0]
        wanted = "link" if match is None else f"link with {quoted(match)}"
        raise AssertionError(_not_one(wanted, found, self.links))

    def code(self, digits: int | range = range(4, 9)) -> str:
        r"""Return the one-time code with this number of digits.

        Of several, it is the one with the highest score. Raises `AssertionError`, which shows all
        codes, if there is none, or if two are equally likely.

        Example:

            >>> from ehlo.testing import Inbox
            >>> with Inbox(memory=True) as inbox, inbox.smtp() as client:
            ...     text = "Subject: Your code\n\n271828\n"
            ...     refused = client.sendmail("app@example.com", "ada@example.com", text)
            ...     inbox[0].code(6)
            '271828'
        """
        __tracebackhide__ = True
        lengths = range(digits, digits + 1) if isinstance(digits, int) else digits
        fitting = [
            each
            for each in self.content.codes
            if len(each.text) in lengths and each.text.isdecimal()
        ]
        best = max((each.score for each in fitting), default=0)
        found = list(dict.fromkeys(each.text for each in fitting if each.score == best))
        if len(found) == 1:
            return found[0]
        wanted = f"code of {lengths.start}"
        if len(lengths) > 1:
            wanted += f" to {lengths[-1]}"
        raise AssertionError(_not_one(f"{wanted} digits", found, self.codes))

    def __repr__(self) -> str:
        return f"<ReceivedMail {self.id} to {', '.join(self.rcpt_tos)}: {self.subject!r}>"


def _not_one(wanted: str, found: Sequence[str], all_of_them: Sequence[str]) -> str:
    """Return the message of an `AssertionError`: what was wanted, and what there is."""
    if found:
        head, shown = f"more than one {wanted}; there are {len(found)}:", found
    elif all_of_them:
        head, shown = f"no {wanted}; the mail has:", all_of_them
    else:
        kind = wanted.partition(" ")[0]
        return f"no {wanted}; the mail has no {kind} at all"
    return "\n".join([head, *(f"  {escaped(each)}" for each in shown)])


def is_in(wanted: str | re.Pattern[str], text: str) -> bool:
    """Return whether text is in `text`, or a pattern matches somewhere in it."""
    return wanted in text if isinstance(wanted, str) else wanted.search(text) is not None


def quoted(wanted: str | re.Pattern[str]) -> str:
    """Return text or a pattern for a message."""
    return repr(wanted) if isinstance(wanted, str) else f"/{wanted.pattern}/"


class Rejection(NamedTuple):
    """Names something that the server has rejected.

    Example:

        >>> import smtplib
        >>> from ehlo.testing import Inbox
        >>> with Inbox(memory=True) as inbox, inbox.smtp() as client:
        ...     fault = inbox.fail("mail", "451 4.3.0 Try later")
        ...     try:
        ...         client.sendmail("app@example.com", "ada@example.com", "Subject: Hi")
        ...     except smtplib.SMTPSenderRefused:
        ...         print(inbox.rejected[0].reply)
        451 4.3.0 Try later
    """

    command: str
    """The command, such as `RCPT TO:<gone@example.com>`; `"end of data"` for a whole message, and
    `"connection"` for a client that was not greeted."""
    reply: str
    """The reply, such as `550 5.1.1 No such user`; several lines are joined by ` / `."""
    session: Transcript
    """The transcript of the session."""

    @property
    def code(self) -> int:
        """The code of the reply."""
        return int(self.reply[:3])


class WatchedTranscript(Transcript):
    """A transcript that reports each rejection as it is sent, whatever it keeps of the lines."""

    __slots__ = ("_command", "_is_login", "_rejected", "_reply")

    def __init__(self, rejected: Callable[[Rejection], object], *, secrets: bool) -> None:
        """`rejected` is called with each rejection."""
        super().__init__(secrets)
        self._rejected = rejected
        self._command = "connection"
        self._is_login = False  # whether the next line of the client answers a challenge
        self._reply: list[str] = []

    def add(self, direction: Direction, text: str) -> None:
        """Add a line, and report the rejection that it ends."""
        super().add(direction, text)
        if direction == "client" and not self._is_login:
            self._command = text
        elif direction == "server":
            self._reply.append(text)
            if text[3:4] != "-":
                self._replied(*self._reply)
                self._reply = []

    def _replied(self, first: str, *rest: str) -> None:
        if first[:1] in ("4", "5"):
            reply = " / ".join([f"{first[:3]} {first[4:]}", *(each[4:] for each in rest)])
            self._rejected(Rejection(self._command, reply, self))
        self._is_login = first.startswith("334")
        if first.startswith("354"):
            self._command = _END
