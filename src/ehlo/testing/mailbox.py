"""`Inbox`: an SMTP server for tests that keeps what it receives, with a port or in memory.

This file is longer than others, since it is the face of the whole kit.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import smtplib
import socket
import ssl
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack, overload

from ehlo.faults import Fault, Faults, Stage
from ehlo.faults.fault import is_number
from ehlo.faults.plan import ForWhom, When
from ehlo.net import Peer
from ehlo.protocol.reply import Reply
from ehlo.testing.criteria import MatchOptions, Search, criteria_of
from ehlo.testing.frameworks import Framework, settings_of
from ehlo.testing.guest import Guest
from ehlo.testing.loopback import Commons, Port
from ehlo.testing.memory import PRETENDED, MemorySocket
from ehlo.testing.offer import Offer, OfferOptions, offer_of
from ehlo.testing.received import ReceivedMail, Rejection
from ehlo.testing.routing import DirectSMTP, MissingNameError
from ehlo.testing.rulebook import Rulebook
from ehlo.testing.showing import explain, report_of
from ehlo.transcript import Transcript

_CLIENT = Peer("127.0.0.1", 0)


class UnusedFaultWarning(UserWarning):
    """Warns of a fault that no client has met: the test has not tested what it seems to test.

    Example:

        >>> import warnings
        >>> from ehlo.testing import Inbox, UnusedFaultWarning
        >>> with warnings.catch_warnings(record=True) as caught, Inbox(memory=True) as inbox:
        ...     warnings.simplefilter("always")
        ...     fault = inbox.drop("end")
        >>> print(caught[0].message)
        drop('end') was never used
    """


class Inbox(Sequence[ReceivedMail]):
    r"""An SMTP server for a test: a sequence of the mails that it has received.

    With a port it serves in a thread. With `memory` there is no socket: as long as the inbox is
    open, smtplib and aiosmtplib of this process talk to it, whatever host and port they name, and
    TLS is simulated. It is open in a `with` block, or from `open` to `close`; after that, clients
    reach the servers that they name.

    Other keywords are those of `offer`.

    Example:

        >>> import smtplib
        >>> from ehlo.testing import Inbox
        >>> with Inbox() as inbox:
        ...     with smtplib.SMTP(inbox.host, inbox.port) as client:
        ...         refused = client.sendmail(
        ...             "app@example.com", ["ada@example.com"], "Subject: Welcome\n\nHello Ada"
        ...         )
        ...     mail = inbox.wait_for(to="ada@example.com")
        >>> mail.subject, mail.text
        ('Welcome', 'Hello Ada\n')
    """

    def __init__(
        self,
        *,
        memory: bool = False,
        bind: str = "127.0.0.1",
        port: int = 0,
        wait_timeout: float = 5.0,
        seed: int | None = None,
        secrets: bool = False,
        commons: Commons | None = None,
        **offer: Unpack[OfferOptions],
    ) -> None:
        """Make an inbox, which is not open yet.

        `bind` and `port` are where it listens; port 0 is a free one. `wait_timeout` is in seconds.
        `seed` is for faults with a probability. `secrets` shows passwords in transcripts. `commons`
        has the thread of several inboxes; the fixtures of pytest pass theirs. Raises `ValueError`
        as `offer` does.
        """
        self.memory: bool = memory
        """Whether it is in memory, and has no port."""
        self.wait_timeout: float = wait_timeout
        """The seconds that `wait_for` waits by default."""
        self.faults: Faults = Faults(seed=seed)
        """The faults that `fail`, `delay`, `drop` and `script` have made."""
        self._bind = (bind, port)
        self._own_commons = commons is None
        self._commons = commons or Commons()
        self._book = Rulebook(offer_of(offer), self.faults, secrets=secrets)
        self._places: dict[Fault, tuple[str, int]] = {}  # where each was made
        self._address: Peer | None = None
        self._stack = contextlib.ExitStack()

    # -- its life --------------------------------------------------------------------------------

    def open(self) -> Self:
        """Begin to receive mail. Raises `OSError` for a port that cannot be bound.

        Where a library lacks what `memory` needs, the inbox gets a port, and a `RuntimeWarning`
        says so. Raises `RuntimeError` if the inbox is open.
        """
        if self._address is not None:
            raise RuntimeError("the inbox is already open; close it first")
        self._book.closed = False
        try:
            self._address = self._open_memory() if self.memory else self._open_port()
        except BaseException:
            self.close()
            raise
        return self

    def _open_memory(self) -> Peer:
        try:
            host = self._commons.next_host()
            self._commons.router.add(host, self._connect)
        except MissingNameError as error:
            self.memory = False
            address = self._open_port()
            warnings.warn(
                f"{error}: the inbox cannot be in memory, and listens on {address} instead; "
                "send mail there",
                RuntimeWarning,
                stacklevel=3,
            )
            return address
        self._stack.callback(self._commons.router.remove, host)
        return Peer(host, 25)

    def _open_port(self) -> Peer:
        self._prepare(self._book.offer)
        port = Port(self._commons, self._book)
        address = port.open(*self._bind)
        self._stack.callback(port.close)
        self._commons.add_port(address)
        self._stack.callback(self._commons.remove_port, address)
        return address

    def close(self) -> None:
        """Disconnect all clients, and close the port. What was received can still be read."""
        self._address = None
        self._book.closed = True
        self._stack.close()
        if self._own_commons:
            self._commons.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        self.close()
        if exc_type is None:
            self.warn_of_unused_faults()

    def warn_of_unused_faults(self) -> None:
        """Warn of each fault that was never used, as the end of a `with` block does.

        The warning names the line that has made the fault.
        """
        for fault in self.faults:
            if not fault.used:
                text = f"{str(fault).partition(', used')[0]} was never used"
                file, line = self._places.get(fault, ("inbox.faults", 0))
                warnings.warn_explicit(text, UnusedFaultWarning, file, line)

    # -- where it is -----------------------------------------------------------------------------

    @property
    def _where(self) -> Peer:
        if self._address is None:
            raise RuntimeError("the inbox is not open; write `with Inbox() as inbox:`")
        return self._address

    @property
    def host(self) -> str:
        """The host to connect to; in memory, a name that is found nowhere else."""
        host = self._where.host
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  not bound here

    @property
    def port(self) -> int:
        """The port to connect to."""
        return self._where.port

    @property
    def url(self) -> str:
        """Its URL, such as `smtp://127.0.0.1:40123`; `smtps:` with implicit TLS."""
        scheme = "smtps" if self._book.offer.implicit_tls else "smtp"
        return f"{scheme}://{Peer(self.host, self.port)}"

    # -- what it has received --------------------------------------------------------------------

    @property
    def messages(self) -> list[ReceivedMail]:
        """The mails so far, as a new list."""
        return self._book.mails

    @property
    def sessions(self) -> list[Transcript]:
        """The transcripts of all sessions so far, also of those that brought no mail."""
        return self._book.sessions

    @property
    def rejected(self) -> list[Rejection]:
        """All rejections so far, by a fault or by the server itself."""
        return self._book.rejected

    def __len__(self) -> int:
        return len(self.messages)

    @overload
    def __getitem__(self, index: int) -> ReceivedMail: ...
    @overload
    def __getitem__(self, index: slice) -> list[ReceivedMail]: ...
    def __getitem__(self, index: int | slice) -> ReceivedMail | list[ReceivedMail]:
        return self._book.mails[index]

    def __iter__(self) -> Iterator[ReceivedMail]:
        return iter(self.messages)

    def clear(self) -> None:
        """Forget all mails, rejections, and sessions that are over. Faults stay."""
        self._book.clear()

    def report(self) -> str:
        """Return all mails and the transcripts of all sessions as text."""
        return report_of(self.messages, self.sessions)

    def save(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write each mail to a file `<id>.eml` in `directory`, which is created if it is missing.

        Returns the paths. Raises `OSError`.
        """
        Path(directory).mkdir(parents=True, exist_ok=True)
        paths = []
        for mail in self:
            path = Path(directory, f"{mail.id}.eml")
            path.write_bytes(mail.raw)
            paths.append(path)
        return paths

    def __repr__(self) -> str:
        where = "closed" if self._address is None else "in memory" if self.memory else self.url
        return f"<Inbox {where}, {len(self)} mail{'s' * (len(self) != 1)}>"

    # -- waiting ---------------------------------------------------------------------------------

    def wait_for(
        self, *, count: int = 1, timeout: float | None = None, **match: Unpack[MatchOptions]
    ) -> ReceivedMail:
        """Wait for a mail, and return it. A mail that has arrived before counts.

        `to` and `mail_from` are the envelope's addresses. `subject` and `text` are parts of the
        text in any case, or patterns. `match` is a function that gets the mail. With `count`, this
        many mails must match, and the last of them is returned. `timeout` is in seconds.

        Raises `AssertionError`, which shows what did arrive and what was rejected.

        Example:

            >>> from ehlo.testing import Inbox
            >>> with Inbox(memory=True) as inbox:
            ...     inbox.wait_for(to="ada@example.com", subject="welcome", timeout=0)
            Traceback (most recent call last):
              ...
            AssertionError: no mail to ada@example.com with subject 'welcome' within 0 s
            <BLANKLINE>
            Nothing arrived: no client has connected.
        """
        __tracebackhide__ = True
        return self.wait_for_all(count=count, timeout=timeout, **match)[count - 1]

    def wait_for_all(
        self, *, count: int = 1, timeout: float | None = None, **match: Unpack[MatchOptions]
    ) -> list[ReceivedMail]:
        """Wait until `count` mails match, and return all that do. Otherwise like `wait_for`.

        Example:

            >>> from ehlo.testing import Inbox
            >>> with Inbox(memory=True) as inbox, inbox.smtp() as client:
            ...     for to in ("ada@example.com", "bob@example.com"):
            ...         refused = client.sendmail("app@example.com", to, "Subject: Hello")
            ...     [mail.rcpt_tos for mail in inbox.wait_for_all(subject="hello", count=2)]
            [['ada@example.com'], ['bob@example.com']]
        """
        __tracebackhide__ = True
        search, seconds = self._search(count, timeout, match)
        found = self._book.wait(search, seconds)
        if found is None:
            raise AssertionError(self._missing(search, count, seconds, match) + _hint())
        return found

    async def wait_for_async(
        self,
        *,
        count: int = 1,
        timeout: float | None = None,  # noqa: ASYNC109  it says what is missing in time
        **match: Unpack[MatchOptions],
    ) -> ReceivedMail:
        """Wait as `wait_for` does, in the event loop of asyncio or trio. Needs anyio."""
        __tracebackhide__ = True
        return (await self.wait_for_all_async(count=count, timeout=timeout, **match))[count - 1]

    async def wait_for_all_async(
        self,
        *,
        count: int = 1,
        timeout: float | None = None,  # noqa: ASYNC109  it says what is missing in time
        **match: Unpack[MatchOptions],
    ) -> list[ReceivedMail]:
        """Wait as `wait_for_all` does, in the event loop of asyncio or trio. Needs anyio."""
        __tracebackhide__ = True
        search, seconds = self._search(count, timeout, match)
        found = await self._book.wait_async(search, seconds)
        if found is None:
            raise AssertionError(self._missing(search, count, seconds, match))
        return found

    def none_within(self, seconds: float, **match: Unpack[MatchOptions]) -> None:
        """Check that no mail matches, now and for `seconds`. Raises `AssertionError` if one does.

        Example:

            >>> from ehlo.testing import Inbox
            >>> with Inbox(memory=True) as inbox:
            ...     inbox.none_within(0, to="ada@example.com")
        """
        __tracebackhide__ = True
        search, seconds = self._search(1, seconds, match)
        if self._book.wait(search, seconds) is not None:
            raise AssertionError(self._explain(f"a mail{criteria_of(match)} has arrived"))

    async def none_within_async(self, seconds: float, **match: Unpack[MatchOptions]) -> None:
        """Check as `none_within` does, in the event loop of asyncio or trio. Needs anyio."""
        __tracebackhide__ = True
        search, seconds = self._search(1, seconds, match)
        if await self._book.wait_async(search, seconds) is not None:
            raise AssertionError(self._explain(f"a mail{criteria_of(match)} has arrived"))

    def _search(
        self, count: int, timeout: float | None, match: MatchOptions
    ) -> tuple[Search, float]:
        """Return what to wait for, and the seconds. Raises `ValueError` and `TypeError`."""
        if count < 1:
            raise ValueError(f"count is {count}; it must be 1 or more, or use none_within()")
        seconds = self.wait_timeout if timeout is None else timeout
        if not (is_number(seconds) and seconds >= 0):
            raise ValueError(f"timeout is {seconds!r}; it must be a number of seconds")
        return Search(self._book, criteria_of(match), count), seconds

    def _missing(self, search: Search, count: int, seconds: float, match: MatchOptions) -> str:
        criteria = criteria_of(match)
        if count == 1:
            return self._explain(f"no mail{criteria} within {seconds:g} s")
        there = len(search.found)
        return self._explain(f"{there} of {count} mails{criteria} within {seconds:g} s")

    def _explain(self, head: str) -> str:
        return explain(head, self.messages, self.rejected, self.sessions)

    # -- what it answers -------------------------------------------------------------------------

    def offer(self, **offer: Unpack[OfferOptions]) -> None:
        """Change what is offered to clients that connect from now on; the port stays open.

        An option that a call does not name has its default again. Raises `ValueError` for
        options that exclude each other, and `ImportError` for TLS without trustme.

        Example:

            >>> from ehlo.testing import Inbox
            >>> with Inbox(memory=True) as inbox:
            ...     inbox.offer(starttls=True, auth={"ada": "secret"}, require_auth=True)
            ...     with inbox.smtp() as client:
            ...         started = client.starttls(context=inbox.client_context)
            ...         client.login("ada", "secret")
            (235, b'2.7.0 Authentication successful')
        """
        new = offer_of(offer)
        self._prepare(new)
        self._book.offer = new

    def _prepare(self, offer: Offer) -> None:
        """Make the certificate that an offer needs, in the test's own thread."""
        if (offer.starttls or offer.implicit_tls) and not self.memory:
            _ = self._commons.server_context

    def fail(
        self, at: Stage, reply: str | Reply = "451 4.3.0 Try later", **when: Unpack[When]
    ) -> Fault:
        """Reject what a client does at a stage, with `reply`; by default once.

        The stages are `connect`, `helo`, `starttls`, `auth`, `mail`, `rcpt`, `data` and `end` (of
        the message). `times` is how often (`None`: always), and `after` how many pass before. `to`
        and `mail_from` are addresses that it is limited to. Raises `ValueError`.

        Example:

            >>> from ehlo.testing import Inbox
            >>> with Inbox(memory=True) as inbox, inbox.smtp() as client:
            ...     fault = inbox.fail("rcpt", "550 5.1.1 No such user", to="gone@example.com")
            ...     both = ["ada@example.com", "gone@example.com"]
            ...     client.sendmail("app@example.com", both, "Subject: Hello")
            {'gone@example.com': (550, b'5.1.1 No such user')}
        """
        return self._placed(self.faults.fail(at, reply, **when))

    def delay(self, at: Stage, seconds: float, **when: Unpack[When]) -> Fault:
        """Reply late at a stage; otherwise as `fail`.

        In memory, a client of smtplib with a shorter timeout times out at once.

        Example:

            >>> from ehlo.testing import Inbox
            >>> with Inbox(memory=True) as inbox:
            ...     fault = inbox.delay("connect", 3600)
            ...     client = inbox.smtp(timeout=10)
            Traceback (most recent call last):
              ...
            smtplib.SMTPServerDisconnected: Connection unexpectedly closed: timed out
        """
        return self._placed(self.faults.delay(at, seconds, **when))

    def drop(self, at: Stage, **when: Unpack[When]) -> Fault:
        """Close the connection without a reply at a stage; otherwise as `fail`.

        Example:

            >>> from ehlo.testing import Inbox
            >>> with Inbox(memory=True) as inbox, inbox.smtp() as client:
            ...     fault = inbox.drop("end")
            ...     client.sendmail("app@example.com", "ada@example.com", "Subject: Hello")
            Traceback (most recent call last):
              ...
            smtplib.SMTPServerDisconnected: Connection unexpectedly closed
        """
        return self._placed(self.faults.drop(at, **when))

    def script(self, *replies: str | Reply, **when: Unpack[ForWhom]) -> Fault:
        """Give the replies to whole messages, in order. `to` and `mail_from` are as in `fail`.

        Example:

            >>> import smtplib
            >>> from ehlo.testing import Inbox
            >>> with Inbox(memory=True) as inbox, inbox.smtp() as client:
            ...     fault = inbox.script("450 4.2.0 Busy", "250 2.0.0 Ok")
            ...     for attempt in 1, 2:
            ...         try:
            ...             client.sendmail("app@example.com", "ada@example.com", "Subject: Hi")
            ...         except smtplib.SMTPDataError as error:
            ...             print(attempt, error.smtp_code)
            1 450
            {}
        """
        return self._placed(self.faults.script(*replies, **when))

    def _placed(self, fault: Fault) -> Fault:
        """Note which line of the test has made a fault."""
        frame = inspect.currentframe()
        for _ in range(2):
            frame = frame.f_back if frame is not None else None
        if frame is not None:
            self._places[fault] = frame.f_code.co_filename, frame.f_lineno
        return fault

    # -- clients ---------------------------------------------------------------------------------

    @property
    def client_context(self) -> ssl.SSLContext:
        """A TLS context that trusts this server. Raises `ImportError` without trustme."""
        return self._commons.client_context

    def settings(self, framework: Framework) -> dict[str, Any]:
        """Return the settings with which a program sends its mail here.

        `"django"`, `"flask"` (Flask-Mail) and `"fastapi"` (FastAPI-Mail) are for these frameworks,
        and `"env"` is environment variables for another process. Raises `ValueError`, also for
        `"env"` in memory, which another process cannot reach.

        Django trusts the authorities of the system only: for TLS over a port, set the environment
        variable `SSL_CERT_FILE` to its value in `"env"`.

        Example:

            >>> from ehlo.testing import Inbox
            >>> with Inbox() as inbox:
            ...     inbox.settings("env")["SMTP_URL"] == inbox.url
            True
        """
        if self.memory and framework == "env":
            raise ValueError("another process cannot reach an inbox in memory; use one with a port")
        return settings_of(framework, self._book.offer, self._where, self.url, self._authority_file)

    def _authority_file(self) -> str:
        """Return the path of the certificate authority, in a file that `close` removes."""
        directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ehlo-"))
        path = Path(directory, "authority.pem")
        self._commons.authority.cert_pem.write_to_path(path)
        return str(path)

    def smtp(self, *, timeout: float = 30.0) -> smtplib.SMTP:
        """Return a client that is connected to this inbox. `timeout` is in seconds."""
        _ = self._where  # it must be open
        return DirectSMTP(partial(self._socket, timeout), timeout)

    def _socket(self, timeout: float) -> socket.socket | MemorySocket:
        """Return a connected socket for a client."""
        tls = self._book.offer.implicit_tls
        if self.memory:
            return MemorySocket(self._begin(tls=tls), timeout)
        sock = socket.create_connection((self.host, self.port), timeout)
        return self.client_context.wrap_socket(sock, server_hostname=self.host) if tls else sock

    def _connect(self, server: Peer, tls: bool) -> Guest | None:
        """Return the guest of a client that is routed here. Raises `TimeoutError`.

        A client that names the port of another inbox is let through.
        """
        if self._commons.has_port(server):
            return None
        if self._book.offer.implicit_tls and not tls:
            raise TimeoutError("timed out: the inbox waits for TLS (implicit_tls)")
        return self._begin(tls=tls)

    def _begin(self, *, tls: bool) -> Guest:
        """Return the guest of a client in memory."""
        guest = Guest(self._book, _CLIENT, implicit_tls=tls)
        if tls:
            guest.secured(PRETENDED)
        return guest


def _hint() -> str:
    """Return what to do where the wait itself may be why no mail has come."""
    asyncio = sys.modules.get("asyncio")
    try:
        if asyncio is not None and asyncio.get_running_loop() is not None:
            return (
                "\n\nwait_for has blocked this event loop; use `await wait_for_async(...)` in it."
            )
    except RuntimeError:
        pass
    return ""
