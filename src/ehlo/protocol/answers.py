"""What an answer changes: the state moves here, when a question was answered.

It moves without one at the end of a body and of the connection only, which `connection.py` sees.

`ACCEPT` and `REFUSE` have a function for each question of `events.py`. `None` accepts in our words.
What they return is told to the caller next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.body import DataReader
from ehlo.protocol.events import Event
from ehlo.protocol.extensions import offered
from ehlo.protocol.reply import Reply
from ehlo.protocol.state import AFTER, State, Transaction

if TYPE_CHECKING:
    from ehlo.protocol.connection import Connection

__all__ = ["ACCEPT", "REFUSE"]

Accept = Callable[["Connection", Any, Reply | None], Event | None]
Refuse = Callable[["Connection", Any, Reply], Event | None]


def _plain(answer: Reply) -> Reply:
    """RFC 2034 4: no enhanced code at the greeting and at HELO, but where a 421 ends it all."""
    return answer if answer.closes else Reply(answer.code, None, answer.text)


def _rejects(verb: str) -> Refuse:
    def reject(connection: Connection, _asked: Event, answer: Reply) -> None:
        connection.output.reject(answer, to=verb)

    return reject


# -- the session ---------------------------------------------------------------------------------


def _greet(connection: Connection, _event: events.Connect, answer: Reply | None) -> None:
    connection.state = State.HELLO
    greeting = connection.settings.greeting
    connection.output.reply(greeting if answer is None else _plain(answer), to="")


def _refuse_connection(connection: Connection, _event: events.Connect, answer: Reply) -> None:
    """RFC 5321 3.1: after a 554 greeting we wait for QUIT, and answer 503 to all else."""
    connection.state = State.REFUSED
    connection.output.reply(_plain(answer), to="")


def _welcome(connection: Connection, event: events.Hello, answer: Reply | None) -> Event | None:
    connection.helo, connection.esmtp = event.name, event.esmtp
    dropped = _drop_transaction(connection)  # RFC 5321 4.1.4: EHLO is a RSET, too
    connection.counts.idle -= connection.state is State.HELLO  # the first is progress
    connection.state = AFTER[connection.state]["EHLO"]
    lines = offered(connection.facts()) if event.esmtp else []
    if answer is None:
        reply = replies.hello(connection.settings.hostname, event.name, lines)
    else:
        reply = Reply(answer.code, None, "\n".join([answer.lines[0], *lines]))
    connection.output.reply(reply, to="EHLO" if event.esmtp else "HELO")
    return dropped


def _refuse_hello(connection: Connection, event: events.Hello, answer: Reply) -> None:
    connection.output.reply(_plain(answer), to="EHLO" if event.esmtp else "HELO")


def _begin_tls(connection: Connection, _event: events.StartTLS, _answer: Reply | None) -> None:
    connection.state = AFTER[connection.state]["STARTTLS"]
    connection.asked = events.Close()  # for good: what comes is TLS, and is not for us
    connection.output.reply(replies.START_TLS, to="STARTTLS")


def _begin_anew(connection: Connection, event: events.XClient, _answer: Reply | None) -> None:
    """XCLIENT: as if the client behind it had just connected."""
    connection.xclient = event.attributes
    connection.helo = event.attributes.get("HELO") or ""
    connection.esmtp = event.attributes.get("PROTO") == "ESMTP"
    connection.authenticated = bool(event.attributes.get("LOGIN"))
    connection.forwarded = None
    connection.state = AFTER[connection.state]["XCLIENT"]


def _verify(connection: Connection, event: events.Vrfy, answer: Reply | None) -> None:
    answer = answer or replies.CANNOT_VRFY
    # RFC 6531 3.7.4.2: no UTF-8 for a client that did not ask for it
    sayable = event.smtputf8 or answer.text.isascii()
    connection.output.reply(answer if sayable else replies.VRFY_IN_UTF8, to="VRFY")


def _answer_command(connection: Connection, event: events.Command, answer: Reply | None) -> None:
    connection.output.reply(answer or replies.OK, to=event.verb)


def _reject_command(connection: Connection, event: events.Command, answer: Reply) -> None:
    connection.output.reject(answer, to=event.verb)


# -- a login -------------------------------------------------------------------------------------


def _log_in(connection: Connection, _event: events.Auth, answer: Reply | None) -> None:
    login, connection.login = connection.login, None
    assert login is not None  # noqa: S101  that is what asked
    login.accept(answer)
    connection.authenticated = True


def _have_no_secret(
    connection: Connection, _event: events.Secret, _answer: Reply | None
) -> Event | None:
    login = connection.login
    assert login is not None  # noqa: S101  that is what asked
    return connection.go_on(login.give(None))


def _refuse_login(
    connection: Connection, event: events.Auth | events.Secret, answer: Reply
) -> Event | None:
    login = connection.login
    assert login is not None  # noqa: S101  that is what asked
    connection.pardon = True
    return connection.go_on(login.refuse(answer, event))


# -- the transaction -----------------------------------------------------------------------------


def _begin(connection: Connection, event: events.Mail, answer: Reply | None) -> None:
    counts = connection.counts
    counts.messages += 1
    counts.idle = 0
    connection.transaction = Transaction(event.sender)
    connection.state = AFTER[connection.state]["MAIL"]
    connection.output.reply(answer or replies.MAIL_OK, to="MAIL")


def _refuse_mail(connection: Connection, _event: events.Mail, answer: Reply) -> None:
    connection.counts.messages += 1  # RFC 9422 4.1: whether they succeed or fail
    connection.output.reply(answer, to="MAIL")


def _add_recipient(connection: Connection, event: events.Rcpt, answer: Reply | None) -> None:
    recipient, transaction = event.recipient, connection.transaction
    assert transaction is not None  # noqa: S101  RCPT comes within one
    transaction.recipients.append(recipient)
    if connection.settings.max_recipient_domains and recipient.domain:
        connection.counts.add_domain(recipient.domain)
    connection.state = AFTER[connection.state]["RCPT"]
    connection.output.reply(answer or replies.RCPT_OK, to="RCPT")


def _refuse_recipient(connection: Connection, _event: events.Rcpt, answer: Reply) -> None:
    counts, limits = connection.counts, connection.settings.limits
    assert connection.transaction is not None  # noqa: S101  RCPT comes within one
    connection.transaction.refused += 1
    counts.refused_recipients += answer.code >= 500  # a 4xx may be our own trouble
    too_many = counts.refused_recipients >= limits.refused_recipients
    connection.output.reply(replies.TOO_MANY_REFUSED if too_many else answer, to="RCPT")


def _start_body(connection: Connection, _event: events.Data, answer: Reply | None) -> None:
    transaction = connection.transaction
    assert transaction is not None  # noqa: S101  a body has a transaction
    if transaction.chunks is not None:
        _start_chunks(connection, transaction)
        return
    connection.intake.reader = DataReader()
    connection.state = AFTER[connection.state]["DATA"]
    connection.output.reply(answer or replies.START_DATA, to="DATA")


def _start_chunks(connection: Connection, transaction: Transaction) -> None:
    connection.intake.reader = transaction.chunks
    connection.state = AFTER[connection.state]["BDAT"]


def _refuse_to_start(connection: Connection, _event: events.Data, answer: Reply) -> None:
    """DATA gets its answer now, and BDAT once its octets have gone by."""
    transaction = connection.transaction
    assert transaction is not None  # noqa: S101  a body has a transaction
    if transaction.chunks is None:
        connection.output.reply(answer, to="DATA")
        return
    transaction.refusal = answer
    _start_chunks(connection, transaction)


def _end_message(connection: Connection, event: events.MessageEnd, answer: Reply | None) -> None:
    """Taken or refused, the transaction is over (RFC 5321 3.3)."""
    connection.transaction = connection.forwarded = None
    connection.state = AFTER[connection.state]["."]
    if answer is None or not answer.refuses:
        connection.counts.refusals = 0
    if connection.settings.lmtp:
        connection.output.outcome(answer or replies.QUEUED, event.transaction)
    else:
        connection.output.reply(answer or replies.QUEUED, to=".")


def _reset(connection: Connection, _event: events.Reset, answer: Reply | None) -> Event | None:
    dropped = _drop_transaction(connection)
    connection.state = AFTER[connection.state]["RSET"]
    connection.output.reply(answer or replies.OK, to="RSET")
    return dropped


def _drop_transaction(connection: Connection) -> events.BodyDropped | None:
    transaction = connection.transaction
    connection.transaction = connection.forwarded = None
    begun = transaction is not None and transaction.chunks is not None
    return events.BODY_DROPPED if begun else None


# -- the tables ----------------------------------------------------------------------------------

# A plain dict, as it is looked up for each command
ACCEPT: Final[Mapping[type, Accept]] = {
    events.Connect: _greet,
    events.Hello: _welcome,
    events.Mail: _begin,
    events.Rcpt: _add_recipient,
    events.Data: _start_body,
    events.MessageEnd: _end_message,
    events.Secret: _have_no_secret,
    events.Auth: _log_in,
    events.StartTLS: _begin_tls,
    events.Vrfy: _verify,
    events.Reset: _reset,
    events.XClient: _begin_anew,
    events.Command: _answer_command,
}

REFUSE: Final[Mapping[type, Refuse]] = MappingProxyType(
    {
        events.Connect: _refuse_connection,
        events.Hello: _refuse_hello,
        events.Mail: _refuse_mail,
        events.Rcpt: _refuse_recipient,
        events.Data: _refuse_to_start,
        events.MessageEnd: _end_message,
        events.Secret: _refuse_login,
        events.Auth: _refuse_login,
        events.StartTLS: _rejects("STARTTLS"),
        events.Vrfy: _rejects("VRFY"),
        events.Reset: _rejects("RSET"),
        events.XClient: _rejects("XCLIENT"),
        events.Command: _reject_command,
    }
)
