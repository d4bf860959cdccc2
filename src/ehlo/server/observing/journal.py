"""Writes one log line for each event, to the loggers `ehlo.*`, and counts the events.

A line that is not wanted costs one look. A line is `key=value` text, and has the same fields as
`extra` for a log in JSON. Text from the client is quoted and escaped where it is not plain. A verb
is logged only if it is known, since a client that is out of step may send its password instead.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from time import monotonic
from typing import Final

from ehlo.message import Message
from ehlo.net import Peer
from ehlo.protocol import reply as replies
from ehlo.protocol.address import Address
from ehlo.protocol.auth.credentials import (
    CramMD5Credentials,
    PasswordCredentials,
    ProvedCredentials,
)
from ehlo.protocol.events import Auth, Secret
from ehlo.protocol.output import NOTHING, Observer, Rejected, Tally
from ehlo.protocol.reply import Disconnect, Reply
from ehlo.protocol.state import Transaction
from ehlo.server.observing.failures import escaped, log_failure
from ehlo.server.observing.stats import SessionView, Stats, reason_of
from ehlo.session import Session, TLSInfo

_connection = logging.getLogger("ehlo.connection")
_login = logging.getLogger("ehlo.login")
_message = logging.getLogger("ehlo.message")
_refusal = logging.getLogger("ehlo.refusal")
_server = logging.getLogger("ehlo.server")
_handler = logging.getLogger("ehlo.handler")
_transcript = logging.getLogger("ehlo.transcript")

_PLAIN: Final = re.compile(r"[!#-<>-\[\]-~]+")  # ASCII without space, quote, backslash and "="
_MOST_CLAIMED: Final = 100  # characters of a name that may be anybody's
_MOST_NAMED: Final = 10  # recipients; the count tells of the others
# The argument of MAIL or RCPT: only what follows FROM: or TO: can be no password
_CLAIMED_PATH: Final = re.compile(r"(?:FROM|TO):\s*<?([^<>\s]*)", re.IGNORECASE)
_LONGEST_PATH: Final = 320  # characters
_VERBS: Final = {"": "-", ".": "END-OF-DATA"}
_QUEUED_AS: Final = replies.queued_as("").text

LineCallback = Callable[[Peer, str, str], None]
"""An option's function that is called with the client, the verb and the line."""


def shown(value: object) -> str:
    """Return a value as a log line shows it: bare if it is plain, otherwise as a JSON string."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    printable = text.isprintable()
    return json.dumps(text, ensure_ascii=not printable).replace("\x7f", "\\u007f")


class _About(logging.LoggerAdapter[logging.Logger]):
    """Adds the id of one session to each line, in the text and as a field."""

    def process(
        self, msg: object, kwargs: MutableMapping[str, object]
    ) -> tuple[str, MutableMapping[str, object]]:
        """Return the message and the keywords with the session in them."""
        session_id = (self.extra or {})["session"]
        return f"session {session_id}: {msg}", {**kwargs, "extra": self.extra}


def about(logger: logging.Logger, session_id: str) -> logging.LoggerAdapter[logging.Logger]:
    """Return the logger for lines about a session; an empty id stands for no session."""
    if not session_id:
        return logging.LoggerAdapter(logger)
    return _About(logger, {"session": session_id})


def note(
    logger: logging.Logger,
    event: str,
    fields: Mapping[str, object],
    level: int = logging.INFO,
    error: BaseException | None = None,
) -> None:
    """Log an event with its fields; those that are `None` are left out."""
    if not logger.isEnabledFor(level):
        return
    present = {name: value for name, value in fields.items() if value is not None}
    line = " ".join([event, *(f"{name}={shown(value)}" for name, value in present.items())])
    extra = {"event": event, **present}
    if error is None:
        logger.log(level, "%s", line, extra=extra)
    else:
        log_failure(logger, error, "%s", line, extra=extra)


def turned_away(stats: Stats, peer: Peer, reason: str, why: str = "") -> None:
    """Log a connection that got no session. `reason` is one of a few, `why` has the details."""
    stats.turned_away[reason] += 1
    fields = {"peer": str(peer), "reason": reason, "why": why or None}
    note(_connection, "connection rejected", fields)


def reloaded(what: str, **fields: object) -> None:
    """Log that something was reloaded, and is in use now."""
    note(_server, "reloaded", {"what": what, **fields})


def reload_failed(what: str, reason: str, error: BaseException | None = None) -> None:
    """Log that something could not be reloaded; with `error`, its traceback follows."""
    fields = {"what": what, "reason": reason, "in_use": "previous"}
    note(_server, "reload failed", fields, logging.ERROR, error)


def observer_of(
    session_id: str,
    peer: Peer,
    debug: bool,
    log_read: LineCallback | None,
    log_write: LineCallback | None,
) -> Observer | None:
    """Return what is called for each line of a session; `None` when nothing wants them.

    With `debug` lines are logged at level INFO, otherwise at DEBUG, if that logger is enabled.
    """
    level = logging.INFO if debug else logging.DEBUG
    logged = _transcript.isEnabledFor(level)
    if not logged and log_read is None and log_write is None:
        return None  # nearly always: the cells of `observe` are not made for it
    return _observer(session_id, peer, level if logged else None, log_read, log_write)


def _observer(
    session_id: str,
    peer: Peer,
    level: int | None,
    log_read: LineCallback | None,
    log_write: LineCallback | None,
) -> Observer:
    """Return what logs each line at `level`, if there is one, and passes it on."""
    fields = {"session": session_id, "peer": str(peer)}
    callbacks = {"read": log_read, "write": log_write}

    def observe(direction: str, verb: str, line: str) -> None:
        if level is not None:
            arrow = "<-" if direction == "read" else "->"
            _transcript.log(
                *(level, "%s %s %s %s", session_id, peer, arrow),
                line if line.isprintable() else escaped(line),
                extra=fields,
            )
        callback = callbacks[direction]
        if callback is not None:
            try:
                callback(peer, verb, line)
            except (Exception, SystemExit) as error:  # noqa: BLE001  it must not end the session
                log = about(_transcript, session_id)
                log_failure(log, error, "log_%s failed", direction, users=True)

    return observe


class Journal(Tally):
    """Logs and counts what happens in one session; its connection reports rejections to it."""

    __slots__ = ("_began", "_login_logged", "_stats", "messages", "peer", "session_id", "took")

    def __init__(self, stats: Stats, session_id: str, peer: Peer) -> None:
        # All that Tally has, without a call for each connection
        self.said: list[str | int] = stats.said
        self._stats = stats
        self._began = 0.0
        self._login_logged = False  # the next rejection is of a login that has its line already
        self.session_id: str = session_id
        self.peer: Peer = peer
        self.messages: int = 0  # accepted
        self.took: float = 0.0  # the last hook, in seconds

    def _log(self, logger: logging.Logger, event: str, **fields: object) -> None:
        note(logger, event, {"session": self.session_id, "peer": str(self.peer), **fields})

    # -- the connection --------------------------------------------------------------------------

    def opened(self, session: Session) -> None:
        """Called when the session begins."""
        self._stats.connections += 1
        self._began = monotonic()
        if self._stats.logs_connections:
            proxy = None if session.proxy is None else str(session.proxy.peer)
            self._log(_connection, "connection opened", local=str(session.local), proxy=proxy)

    def secured(self, info: TLSInfo) -> None:
        """Called when a TLS handshake has succeeded."""
        self._stats.tls[info.version] += 1
        fields = {"tls": info.version, "cipher": info.cipher, "sni": info.sni or None}
        self._log(_connection, "connection secured", **fields)

    def tls_failed(self, reason: str | None) -> None:
        """Called when a handshake has failed, or the data after it is not TLS."""
        self._stats.tls_failures += 1
        self._log(_connection, "TLS failed", reason=reason or "unknown")

    def speaks_for(self, peer: Peer) -> None:
        """Called when XCLIENT has named another client address."""
        self._log(_connection, "client address overridden", client=str(peer))
        self.peer = peer

    def seen(
        self,
        session: Session,
        *,
        state: str,
        hook: str | None,
        received: int,
        sent: int,
        on_disk: int,
    ) -> SessionView:
        """Return the session as a snapshot shows it; `hook` is the name of the one under way."""
        return {
            "id": self.session_id,
            "peer": str(self.peer),
            "state": state,
            "hook": hook,
            "seconds": round(monotonic() - self._began, 3),
            "received": received,
            "sent": sent,
            "messages": self.messages,
            "on_disk": on_disk,
            "tls": _version(session),
            "user": session.user,
            "helo": session.helo,
        }

    def closed(self, received: int, sent: int) -> None:
        """Called when the session has ended, its hooks included; the arguments are bytes."""
        stats = self._stats
        seconds = monotonic() - self._began
        stats.received += received
        stats.sent += sent
        stats.session_seconds.values.append(seconds)
        if stats.logs_connections:
            sizes = {"received": received, "sent": sent, "messages": self.messages}
            self._log(_connection, "connection closed", seconds=round(seconds, 3), **sizes)

    # -- what happens in it ----------------------------------------------------------------------

    def failed(self, error: Exception) -> None:
        """Called when an extension or a mechanism of the user has failed."""
        log = about(_handler, self.session_id)
        log_failure(log, error.__cause__ or error, "%s", error, users=True)

    def hook_ended(self, hook: str, asked: float) -> None:
        """Called when a hook has returned or raised; `asked` is when it was called, monotonic."""
        self.took = took = monotonic() - asked
        self._stats.hook_seconds[hook].values.append(took)

    def accepted(
        self,
        session: Session,
        transaction: Transaction,
        answer: Reply | Disconnect | Sequence[Reply | None] | None,
        message: Message | None,
    ) -> None:
        """Called when a message has its answer, for all recipients or for each.

        If the answer rejects it for all of them, `refused` logs that, and this does nothing; nor
        does it for a `Disconnect`, see `dropped`.
        """
        rejected = 0 if answer is None else _rejected(answer)
        if rejected < 0:
            return
        stats, size = self._stats, transaction.size
        self.messages += 1
        stats.message_bytes.values.append(size)
        if not stats.logs_messages:
            return
        fields: dict[str, object] = {
            "message_id": None if message is None else message.id,
            "queue_id": _queue_id(answer),
            **_envelope(transaction),
            "rejected": rejected or None,
            "size": size,
            "tls": _version(session),
            "user": session.user,
            "ms": round(self.took * 1000, 1),
        }
        self._log(_message, "message accepted", **fields)

    def dropped(self, hook: str) -> None:
        """Called when a hook has answered by a `Disconnect`."""
        self._log(_connection, "connection dropped", hook=hook)

    def logged_in(self, user: str | None, mechanism: str) -> None:
        """Called when a login was accepted."""
        self._stats.logins[f"{mechanism} accepted"] += 1
        self._log(_login, "login accepted", user=user, mechanism=mechanism)

    def login_failed(self, event: Auth | Secret, answer: Reply) -> None:
        """Called when a hook or a wrong proof has rejected a login; the reply may be delayed."""
        self._stats.logins[f"{event.mechanism} refused"] += 1
        self._login_logged = True
        # People type a password there, too
        claimed = _claimed(event) if _login.isEnabledFor(logging.DEBUG) else None
        fields = {"claimed": claimed, "mechanism": event.mechanism, "code": answer.code}
        self._log(_login, "login rejected", **fields)

    def login_left(self, mechanism: str) -> None:
        """Called when a client has gone in the middle of its login, which counts as failed."""
        self._stats.logins[f"{mechanism} abandoned"] += 1
        self._log(_login, "login abandoned", mechanism=mechanism)

    def refused(
        self, verb: str, reply: Reply, about: Rejected = NOTHING, *, wholly: bool = True
    ) -> None:
        """Called when a 4xx or 5xx is sent, by the core or for a hook."""
        verb = _VERBS.get(verb, verb)
        reason = reason_of(reply)
        stats = self._stats
        stats.refusals[f"{verb} {reply.code} {reason}"] += 1
        stats.refused += verb == "END-OF-DATA" and wholly
        logged, self._login_logged = self._login_logged, False
        if not (logged and verb == "AUTH"):
            shared = {"code": reply.code, "enhanced": reply.enhanced, "reason": reason}
            text = reply.text.replace("\n", " ")
            if _refusal.isEnabledFor(logging.INFO):
                mail = _rejected_mail(verb, about)
                self._log(_refusal, "rejected", verb=verb, **mail, **shared, text=text)


def _version(session: Session) -> str | None:
    return None if session.tls is None else session.tls.version


def _envelope(transaction: Transaction) -> dict[str, object]:
    """The sender, the first recipients, and their number."""
    recipients = transaction.recipients
    return {
        "from": f"<{transaction.sender}>",
        "to": ",".join(f"<{each}>" for each in recipients[:_MOST_NAMED]),
        "recipients": len(recipients),
    }


def _rejected_mail(verb: str, about: Rejected) -> dict[str, object]:
    """The fields of a rejected command that say which mail it is about."""
    transaction, path = about
    if verb == "MAIL":
        return {"from": _path(path)}
    if transaction is None:
        return {}
    if verb == "RCPT":
        return {"from": f"<{transaction.sender}>", "recipient": _path(path)}
    size = transaction.size if verb == "END-OF-DATA" else None
    return {**_envelope(transaction), "size": size}


def _path(path: object) -> str | None:
    """The path of MAIL or RCPT as `<address>`; of an argument that is none, what may be one."""
    if isinstance(path, Address):
        return f"<{path}>"
    match = _CLAIMED_PATH.match(path) if isinstance(path, str) else None
    return None if match is None else f"<{match[1][:_LONGEST_PATH]}>"


def _rejected(answer: Reply | Disconnect | Sequence[Reply | None]) -> int:
    """For how many recipients a message is not accepted; -1 if it is for all of them."""
    if isinstance(answer, Disconnect):
        return -1
    answers = [answer] if isinstance(answer, Reply) else answer
    rejected = sum(each is not None and each.refuses for each in answers)
    return rejected if rejected < len(answers) else -1


def _queue_id(answer: Reply | Disconnect | Sequence[Reply | None] | None) -> str | None:
    """The id under which the handler has queued a message, if it returned one."""
    if isinstance(answer, Reply) and answer.text.startswith(_QUEUED_AS):
        return answer.text.removeprefix(_QUEUED_AS)
    return None


def _claimed(event: Auth | Secret) -> str | None:
    """The name that the client claims, cut to the room of a line; `None` for a token."""
    if isinstance(event, Secret):
        return event.username[:_MOST_CLAIMED]
    named = PasswordCredentials | CramMD5Credentials | ProvedCredentials
    if not isinstance(event.credentials, named):
        return None
    return event.credentials.username[:_MOST_CLAIMED]
