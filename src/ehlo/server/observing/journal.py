"""One line for each thing that happens, for the loggers `ehlo.*`; and it is counted as it happens.

A line costs one look whether anybody wants it. It is `key=value` text, and has the same as `extra`
fields for a log in JSON. What a client said is quoted and escaped where it is not plain; a verb is
only shown when we know it, since a hasty client may say its password in the place of one.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import MutableMapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from ehlo.protocol import events
from ehlo.protocol.auth.credentials import (
    CramMD5Credentials,
    PasswordCredentials,
    ProvedCredentials,
)
from ehlo.protocol.output import Tally
from ehlo.protocol.reply import Reply
from ehlo.server.observing.stats import Stats, reason_of

if TYPE_CHECKING:
    from ehlo.net import Peer
    from ehlo.server.driver import Driver
    from ehlo.server.hooks.hookrun import HookRun
    from ehlo.server.hooks.hooks import Answer
    from ehlo.session import TLSInfo

__all__ = ["Journal", "about", "reload_failed", "reloaded", "shown", "turned_away"]

_connection = logging.getLogger("ehlo.connection")
_login = logging.getLogger("ehlo.login")
_message = logging.getLogger("ehlo.message")
_refusal = logging.getLogger("ehlo.refusal")
_server = logging.getLogger("ehlo.server")
_handler = logging.getLogger("ehlo.handler")

_PLAIN: Final = re.compile(r"[!#-<>-\[\]-~]+")  # ASCII without space, quote, backslash and "="
_MOST_CLAIMED: Final = 100  # characters of a name that is nobody's, maybe
_VERBS: Final = {"": "-", ".": "END-OF-DATA"}


def shown(value: object) -> str:
    """A value as it stands in a line: bare where that is plain, else as a JSON string."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    printable = text.isprintable()
    return json.dumps(text, ensure_ascii=not printable).replace("\x7f", "\\u007f")


class _About(logging.LoggerAdapter[logging.Logger]):
    """Whose lines are all about one session: in their text, and as a field."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        session_id = (self.extra or {})["session"]
        return f"session {session_id}: {msg}", {**kwargs, "extra": self.extra}


def about(logger: logging.Logger, session_id: str) -> logging.LoggerAdapter[logging.Logger]:
    """The logger, for lines about that session; an empty id is of one that is none yet."""
    if not session_id:
        return logging.LoggerAdapter(logger)
    return _About(logger, {"session": session_id})


def _write(
    logger: logging.Logger,
    event: str,
    fields: dict[str, Any],
    level: int = logging.INFO,
    error: BaseException | None = None,
) -> None:
    told = {name: value for name, value in fields.items() if value is not None}
    line = " ".join([event, *(f"{name}={shown(value)}" for name, value in told.items())])
    logger.log(level, "%s", line, extra={"event": event, **told}, exc_info=error)


def turned_away(stats: Stats, peer: Peer, reason: str, why: str = "") -> None:
    """Somebody has connected who gets no session. `reason` is one of few, `why` says more."""
    stats.turned_away[reason] += 1
    if _connection.isEnabledFor(logging.INFO):
        about = {"peer": str(peer), "reason": reason, "why": why or None}
        _write(_connection, "connection turned away", about)


def reloaded(what: str, **about: Any) -> None:
    """Something was taken anew, and is what is used from now on."""
    _write(_server, "reloaded", {"what": what, **about})


def reload_failed(what: str, reason: str, error: BaseException | None = None) -> None:
    """Something could not be taken anew; `error` has its traceback shown."""
    fields = {"what": what, "reason": reason, "in_use": "previous"}
    _write(_server, "reload failed", fields, logging.ERROR, error)


class Journal(Tally):
    """That of one session; its connection tells it of refusals."""

    __slots__ = ("_began", "_login_told", "_stats", "messages", "peer", "session_id", "took")

    def __init__(self, stats: Stats, session_id: str, peer: Peer) -> None:
        self.said = stats.said  # all that Tally has, without a call for each connection
        self._stats = stats
        self._began = 0.0
        self._login_told = False  # the next refusal is that of a login which has its line
        self.session_id = session_id
        self.peer = peer
        self.messages = 0  # accepted
        self.took = 0.0  # the last hook, in seconds

    def _tell(self, logger: logging.Logger, event: str, **fields: Any) -> None:
        _write(logger, event, {"session": self.session_id, "peer": str(self.peer), **fields})

    # -- the connection --------------------------------------------------------------------------

    def opened(self, driver: Driver) -> None:
        """A session begins."""
        self._stats.connections += 1
        self._began = monotonic()
        if self._stats.logs_connections:
            proxy = driver.session.proxy
            local = str(driver.session.local)
            by = None if proxy is None else str(proxy.peer)
            self._tell(_connection, "connection opened", local=local, proxy=by)

    def secured(self, info: TLSInfo) -> None:
        """A TLS handshake is done."""
        self._stats.tls[info.version] += 1
        if _connection.isEnabledFor(logging.INFO):
            name = info.sni or None
            self._tell(
                _connection, "connection secured", tls=info.version, cipher=info.cipher, sni=name
            )

    def tls_failed(self, reason: str | None) -> None:
        """A handshake failed, or what came under TLS is none."""
        self._stats.tls_failures += 1
        if _connection.isEnabledFor(logging.INFO):
            self._tell(_connection, "TLS failed", reason=reason or "unknown")

    def speaks_for(self, peer: Peer) -> None:
        """XCLIENT: the client is another than we thought."""
        if _connection.isEnabledFor(logging.INFO):
            self._tell(_connection, "connection speaks for", client=str(peer))
        self.peer = peer

    def seen(self, driver: Driver) -> dict[str, Any]:
        """What there is to see of the session now."""
        session, connection = driver.session, driver.connection
        return {
            "id": self.session_id,
            "peer": str(self.peer),
            "state": connection.state.name,
            "hook": driver.hook,
            "seconds": round(monotonic() - self._began, 3),
            "received": driver.wire.received,
            "sent": driver.wire.sent,
            "messages": self.messages,
            "on_disk": driver.delivery.holding.on_disk_octets,
            "tls": session.tls.version if session.tls is not None else None,
            "user": session.user,
            "helo": session.helo,
        }

    def closed(self, driver: Driver) -> None:
        """The session has ended, its hooks included."""
        stats = self._stats
        seconds = monotonic() - self._began
        stats.received += driver.wire.received
        stats.sent += driver.wire.sent
        stats.session_seconds.values.append(seconds)
        if stats.logs_connections:
            self._tell(
                _connection,
                "connection closed",
                seconds=round(seconds, 3),
                received=driver.wire.received,
                sent=driver.wire.sent,
                messages=self.messages,
            )

    # -- what happens in it ----------------------------------------------------------------------

    def failed(self, error: Exception) -> None:
        """A parser or a mechanism of the user's own has failed."""
        about(_handler, self.session_id).error("%s", error, exc_info=error.__cause__)

    def hook_ended(self, run: HookRun) -> None:
        """A hook has returned or raised; it may be one that nobody waits for any more."""
        self.took = took = monotonic() - run.asked
        self._stats.hook_seconds[run.hook.name].values.append(took)

    def accepted(self, driver: Driver, event: events.MessageEnd, answer: Answer) -> None:
        """A message has its answer; a refusal of all of it is told by the core, and not here."""
        refused = 0 if answer is None else _refused(answer)
        if refused < 0:
            return
        stats, size = self._stats, event.transaction.size
        self.messages += 1
        stats.message_octets.values.append(size)
        if not stats.logs_messages:
            return
        session, message = driver.session, driver.delivery.message
        self._tell(
            _message,
            "message accepted",
            message_id=message.id if message is not None else None,
            sender=f"<{event.transaction.sender}>",
            recipients=len(event.transaction.recipients),
            refused=refused or None,
            size=size,
            tls=session.tls.version if session.tls is not None else None,
            user=session.user,
            ms=round(self.took * 1000, 1),
        )

    def logged_in(self, driver: Driver, event: events.Auth) -> None:
        """A login was accepted."""
        self._stats.logins[f"{event.mechanism} accepted"] += 1
        if _login.isEnabledFor(logging.INFO):
            user = driver.session.user
            self._tell(_login, "login accepted", user=user, mechanism=event.mechanism)

    def login_failed(self, event: events.Auth | events.Secret, answer: Reply) -> None:
        """A login was refused, by a hook or a proof that is wrong; its reply may wait a while."""
        self._stats.logins[f"{event.mechanism} refused"] += 1
        self._login_told = True
        if _login.isEnabledFor(logging.INFO):
            # People type a password there, too
            claimed = _claimed(event) if _login.isEnabledFor(logging.DEBUG) else None
            code = answer.code
            self._tell(
                _login, "login refused", claimed=claimed, mechanism=event.mechanism, code=code
            )

    def refused(self, verb: str, reply: Reply, *, wholly: bool = True) -> None:
        """The core has refused something, or said the refusal of a hook."""
        verb = _VERBS.get(verb, verb)
        reason = reason_of(reply)
        stats = self._stats
        stats.refusals[f"{verb} {reply.code} {reason}"] += 1
        stats.refused += verb == "END-OF-DATA" and wholly
        told, self._login_told = self._login_told, False
        if _refusal.isEnabledFor(logging.INFO) and not (told and verb == "AUTH"):
            code, text = reply.code, reply.text.replace("\n", " ")
            enhanced = reply.enhanced
            self._tell(
                _refusal,
                "refused",
                verb=verb,
                code=code,
                enhanced=enhanced,
                reason=reason,
                text=text,
            )


def _refused(answer: Reply | list[Reply | None]) -> int:
    """For how many recipients a message is refused alone; -1 where it is for all."""
    answers = answer if isinstance(answer, list) else [answer]
    refused = sum(each is not None and each.refuses for each in answers)
    return refused if refused < len(answers) else -1


def _claimed(event: events.Auth | events.Secret) -> str | None:
    """Who the client says to be, as far as a line has room. Of a token nothing is shown."""
    if isinstance(event, events.Secret):
        return event.username[:_MOST_CLAIMED]
    named = PasswordCredentials | CramMD5Credentials | ProvedCredentials
    if not isinstance(event.credentials, named):
        return None
    return event.credentials.username[:_MOST_CLAIMED]
