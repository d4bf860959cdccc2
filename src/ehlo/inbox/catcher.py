"""`Catcher`: a handler that catches mail for the inbox, alone or around another handler.

Around a handler, it shows what that handler receives and answers; the reply is the handler's.
Alone, it stores each mail before the 250.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import socket
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Final, NamedTuple, Self

from starlette.types import ASGIApp, Receive, Scope, Send

from ehlo.calling import call_hook
from ehlo.faults import Faults
from ehlo.functions import callbacks_of_functions
from ehlo.handler import AnyServer, Callbacks, Composed, Handler, callbacks_of_handler
from ehlo.inbox.answers import elsewhere
from ehlo.inbox.circumstances import described, facts_of, facts_of_message
from ehlo.inbox.desk import Desk, Traffic, WebOptions
from ehlo.inbox.serving import WebCertificate, WebServer
from ehlo.inbox.site import make_site
from ehlo.inbox.sorting import BY_NONE, DEFAULT, Rule, header_of, inbox_for, rule_of, tags_in
from ehlo.message import Message
from ehlo.net import Peer, is_loopback
from ehlo.protocol import reply as replies
from ehlo.protocol.reply import Reject
from ehlo.server.options.config import AnyHandler
from ehlo.server.system import listener
from ehlo.server.system.privileges import UnusableError
from ehlo.session import Session
from ehlo.store import Delivery, DiskFullError, Store, StoreError
from ehlo.store.rows import new_id
from ehlo.transcript import Line

_REJECTION: Final = re.compile(r"[45][0-9][0-9] ")  # the last line of a reply

logger: logging.Logger = logging.getLogger("ehlo.inbox")


class Catcher(Composed):
    """Catches mail: stores each message, and shows it in a browser and through an API.

    Without a `handler`, the reply is `250` with the message's id in the API, once the message is
    stored, or `452` if the disk is full. With a handler, the reply is the handler's. If it has no
    id, the id in the API is added; the handler finds that id in `message.state.inbox_id`.

    - `store`: the path of the file to keep the mail in; empty for a temporary one.
    - `keep`, `keep_age`: how many mails each inbox keeps, and for how many seconds; 0 is unlimited.
    - `inbox_by`: how mail is sorted into inboxes: by `"user"`, the login; by `"domain"`, that of
      the first recipient; by `"listener"`, the port; or by a function that takes the `Delivery` and
      returns a name. By default there is one inbox, `default`.
    - `faults`: rules by which the server fails on purpose; the API can change them.
    - `web`: the address to show the inbox on, such as `"127.0.0.1:8025"`, or listening sockets;
      empty if `asgi` is mounted in an application instead.
    - `certificate`: for HTTPS on that address.
    - `options`: further options of the pages and of the API.

    The store is open, and the inbox is shown, from `on_startup` to `on_shutdown`. With the server's
    option `transcripts`, each mail has the session that brought it.

    Raises `TypeError` for a wrong `handler`, and `ValueError` for a wrong `inbox_by`.

    Example::

        catcher = ehlo.inbox.Catcher(store="mail.db", web="127.0.0.1:8025")
        ehlo.Server(catcher, addr="127.0.0.1:1025", transcripts="masked").listen_and_serve()
    """

    def __init__(
        self,
        handler: AnyHandler | None = None,
        *,
        store: str = "",
        keep: int = 500,
        keep_age: float = 0,
        inbox_by: str | Rule = "",
        faults: Faults | None = None,
        web: str | Sequence[socket.socket] = "",
        certificate: WebCertificate | None = None,
        options: WebOptions | None = None,
    ) -> None:
        self._inner = _callbacks_of(handler)
        self._is_around = "on_message" in self._inner
        self._path = store
        self._rule = rule_of(inbox_by)
        # A function is for mail: it may look at the recipients
        self._rule_of_sessions = self._rule if isinstance(inbox_by, str) else rule_of("")
        self._options = dataclasses.replace(options or WebOptions(), keep=keep, keep_age=keep_age)
        self.web: str | Sequence[socket.socket] = web
        """The address, or the sockets, to show the inbox on; it is read at the start."""
        self._certificate = certificate
        self._server: WebServer | None = None
        self._site: ASGIApp | None = None
        # By session: the lines before its first mail, and their number at the end of its last one
        self._seen: dict[str, tuple[tuple[Line, ...], int]] = {}
        self.faults: Faults = Faults() if faults is None else faults
        """The rules by which the server fails on purpose."""
        self.traffic: Traffic = Traffic()
        """Counts since the start."""
        self.desk: Desk | None = None
        """What the API and the pages share; `None` before the start and after the end."""
        hooks = {
            **self._inner.by_name,
            "on_message": self._answer if self._is_around else self._catch,
            "on_disconnect": self._leave,
            "on_startup": self._start,
            "on_shutdown": self._stop,
        }
        own = dataclasses.replace(self._inner, by_name=hooks, streams=False)
        struck = self.faults.around_hooks(own)
        super().__init__(callbacks_of_handler(struck))

    @property
    def url(self) -> str:
        """Where the inbox is shown, such as `http://127.0.0.1:8025`; empty without an address."""
        return "" if self._server is None else f"{self._server.url}{self._options.root}"

    # -- mail --------------------------------------------------------------------------------------

    async def _catch(self, session: Session, message: Message) -> str:
        """Store a message; return its id. Raises `Reject`, always with a 4xx."""
        try:
            envelope = _Envelope.of(session, message)
            return await self.deliver(await self._delivery_of(session, message, envelope))
        except DiskFullError:
            raise Reject.of(replies.NO_MEMORY) from None
        except StoreError:
            raise Reject.of(replies.TROUBLE) from None

    async def _answer(self, session: Session, message: Message) -> object:
        """Return what the handler answers, and show it; the store cannot change it."""
        mail_id = message.state.inbox_id = new_id()
        envelope = _Envelope.of(session, message)  # which the handler may change
        try:
            result = await call_hook(self._inner.by_name["on_message"], (session, message))
        except Exception as error:
            await self._show_mail(session, message, envelope, mail_id, error)
            raise
        result = mail_id if result is None or result is True else result
        await self._show_mail(session, message, envelope, mail_id, result)
        return result

    async def _show_mail(
        self, session: Session, message: Message, envelope: _Envelope, mail_id: str, answer: object
    ) -> None:
        """Store a message with what the handler has answered or raised; log why that fails."""
        try:
            envelope.facts["answer"] = described(answer)
            await self.deliver(await self._delivery_of(session, message, envelope, mail_id))
        except StoreError as trouble:
            logger.debug("mail was not shown: error=%s", trouble)
        except Exception:  # the handler has the mail: another reply would bring it once more
            logger.exception("mail was not shown: id=%s", message.id)

    async def deliver(self, delivery: Delivery) -> str:
        """Sort a mail into its inbox, store it, and return its id.

        Raises `StoreError`, and what the rule for inboxes raises.
        """
        traffic = self.traffic
        header = header_of(delivery.message)
        tags = await elsewhere(len(header), lambda: tags_in(header))
        if tags or not delivery.inbox:
            delivery = delivery._replace(
                inbox=delivery.inbox or inbox_for(self._rule, delivery),
                tags=[*delivery.tags, *tags],
            )
        try:
            if self.desk is None:
                raise StoreError("the inbox is closed")
            mail_id = await self.desk.store.put(delivery)
        except StoreError as error:
            level = logging.DEBUG if traffic.trouble else logging.ERROR
            logger.log(level, "mail was not stored: error=%s", error)
            traffic.trouble = str(error)
            raise
        traffic.trouble = ""
        traffic.accepted += 1
        traffic.accepted_size += len(delivery.message)
        return mail_id

    async def _delivery_of(
        self, session: Session, message: Message, envelope: _Envelope, mail_id: str = ""
    ) -> Delivery:
        if message.spooled:
            data = await asyncio.to_thread(lambda: message.body)
        else:
            data = message.body
        return Delivery(
            data,
            envelope.sender,
            envelope.recipients,
            DEFAULT if self._rule is BY_NONE else "",
            username=envelope.username,
            facts=envelope.facts,
            transcript=self._lines_of(session),
            id=mail_id,
        )

    def _lines_of(self, session: Session) -> Sequence[Line]:
        """Return the lines of a session that are about its newest mail."""
        transcript = session.transcript
        if transcript is None:
            return ()
        total = len(transcript) + transcript.omitted
        head, seen = self._seen.get(session.id, ((), 0))
        lines = transcript.newest(total - seen)
        if not seen:
            before_mail = takewhile(lambda line: line.text[:5].upper() != "MAIL ", lines)
            self._seen[session.id] = tuple(before_mail), total
            return lines
        self._seen[session.id] = head, total
        left_out = total - len(head) - len(lines)
        if not lines or left_out <= 0:
            return [*head, *lines]
        note = Line(lines[0].time, "note", f"{left_out} lines of earlier mail left out")
        return [*head, note, *lines]

    async def _leave(self, session: Session) -> None:
        """Count what was rejected, and keep a session that has brought no mail."""
        brought_mail = self._seen.pop(session.id, None) is not None
        lines = list(session.transcript or ())
        for line in lines:
            if line.direction == "server" and _REJECTION.match(line.text):
                self.traffic.rejected += 1
                if self.desk is not None:
                    self.desk.hub.report_error("smtpd", session.peer.host, line.text)
        if not brought_mail and any(line.direction == "client" for line in lines):
            await self._keep_session(session, lines)
        await self._call("on_disconnect", session)

    async def _keep_session(self, session: Session, lines: Sequence[Line]) -> None:
        facts, user = facts_of(session), session.user or ""
        inbox = inbox_for(self._rule_of_sessions, Delivery(b"", username=user, facts=facts))
        try:
            if self.desk is not None:
                await self.desk.store.put_session(lines, facts, inbox=inbox, username=user)
        except StoreError as error:  # mail tells of it, too
            logger.debug("session was not stored: error=%s", error)

    # -- the start and the end ---------------------------------------------------------------------

    async def _start(self, server: AnyServer) -> None:
        options = self._options
        try:
            store = await asyncio.to_thread(
                Store.open, self._path, keep=options.keep, keep_age=options.keep_age
            )
        except StoreError as error:
            raise UnusableError(f"store: {error}") from error
        try:
            await self._show(store, server.addresses)
            await self._call("on_startup", server)
        except BaseException:
            await self._close(store)
            raise

    async def _show(self, store: Store, addresses: Sequence[Peer]) -> None:
        """Make the site, and serve it if there is an address for it."""
        options, sockets = self._options, self.web
        if isinstance(sockets, str):
            sockets = listener.bind(sockets) if sockets else []
        if sockets:
            loopback = all(is_loopback(listener.bound_address(each).host) for each in sockets)
            options = dataclasses.replace(options, is_loopback=loopback)
            self._server = WebServer(self.asgi, sockets, self._certificate)
        smtp = next(((each.host, each.port) for each in addresses if each.port), None)
        options = dataclasses.replace(options, smtp=smtp)
        self.desk = Desk(
            store=store,
            faults=self.faults,
            deliver=self.deliver,
            options=options,
            traffic=self.traffic,
        )
        self._site = make_site(self.desk)
        if self._server is not None:
            await self._server.start()
            logger.info("showing mail on %s", self.url)
            if not options.is_loopback and options.check is None:
                logger.warning(
                    "other machines can read the mail there without a login; set --web-auth, or "
                    "listen on 127.0.0.1"
                )

    async def _stop(self, server: AnyServer) -> None:
        try:
            await self._call("on_shutdown", server)
        finally:
            if self.desk is not None:
                await self._close(self.desk.store)

    async def _close(self, store: Store) -> None:
        if self._server is not None:
            await self._server.stop()
        self.desk = self._server = self._site = None
        await asyncio.to_thread(store.close)

    async def _call(self, name: str, argument: Any) -> None:
        hook = self._inner.by_name.get(name)
        if hook is not None:
            await call_hook(hook, (argument,))

    # -- the site ----------------------------------------------------------------------------------

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the pages and the API, as an ASGI application that can be mounted in another.

        Requests get `503` as long as the server does not run.
        """
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif self._site is not None:
            await self._site(scope, receive, send)
        elif scope["type"] == "http":
            from starlette.responses import PlainTextResponse

            text = "The inbox is closed: the SMTP server does not run."
            await PlainTextResponse(text, 503)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1013})


class _Envelope(NamedTuple):
    """Holds what is stored of an envelope and its session, as it was before any handler saw it."""

    sender: str
    recipients: list[str]
    username: str
    facts: dict[str, object]

    @classmethod
    def of(cls, session: Session, message: Message) -> Self:
        """Copy the envelope of a message."""
        return cls(
            str(message.sender),
            list(map(str, message.recipients)),
            session.user or "",
            {**facts_of(session), **facts_of_message(message)},
        )


async def _live(receive: Receive, send: Send) -> None:
    """Answer the events of a server's life; the SMTP server opens and closes the store."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def _callbacks_of(handler: AnyHandler | None) -> Callbacks:
    if handler is None:
        return Callbacks({})
    if isinstance(handler, type) and issubclass(handler, Handler):
        handler = handler()
    if isinstance(handler, Handler):
        return callbacks_of_handler(handler)
    if isinstance(handler, str | type) or not callable(handler):
        raise TypeError(f"handler must be a function or an ehlo.Handler, not {handler!r}")
    return callbacks_of_functions(handler, None, None)
