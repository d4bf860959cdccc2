"""AUTH: the command, the lines of a login, and what the answer to it changes (RFC 4954)."""

from __future__ import annotations

from typing import Final

from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.auth.mechanism import (
    AuthContext,
    Exchange,
    SecretWanted,
    Step,
    checked_secret,
    decoded,
)
from ehlo.protocol.conversation import Conversation
from ehlo.protocol.reply import ProtocolError, Reply
from ehlo.protocol.state import State
from ehlo.protocol.verbs.verb import Ask, Outcome, Question, Verb

__all__ = ["AUTH", "LOGIN", "SECRET", "give", "respond"]


def _parse_auth(conversation: Conversation, argument: str) -> Exchange | Reply:
    """Parse the mechanism and its initial response, if any (RFC 4954 4)."""
    if conversation.authenticated:
        return replies.AUTH_REPEATED
    name, _, initial = argument.strip().partition(" ")
    if not name:
        return replies.ARGUMENT_REQUIRED
    mechanism = conversation.settings.mechanisms.get(name.upper())
    if mechanism is None:
        return replies.NO_SUCH_MECHANISM
    usable = conversation.usable_mechanisms()
    if mechanism.name not in usable:
        return replies.NO_SUCH_MECHANISM if conversation.tls else replies.MECHANISM_NEEDS_TLS
    initial = initial.strip()
    if initial and not mechanism.client_first:
        return replies.NO_INITIAL_RESPONSE
    # RFC 4954 4: a single "=" is an initial response of no bytes
    response = decoded("" if initial == "=" else initial)
    if response is None:
        return replies.BAD_BASE64
    context = AuthContext(
        nonce=conversation.nonce,
        hostname=conversation.settings.hostname,
        bindings=conversation.bindings,
        certificate=conversation.certificate,
        offered=usable,
        salt_key=conversation.settings.salt_key,
    )
    failed = conversation.output.note_failure
    return Exchange(mechanism, response if initial else None, context, failed)


def _accept_auth(
    conversation: Conversation, exchange: Exchange, _answer: Reply | None
) -> Ask | None:
    conversation.exchange = exchange
    return _follow(conversation, exchange, exchange.start())


AUTH: Final = Verb(
    "AUTH",
    since={State.READY},
    to=None,
    parse=_parse_auth,
    accept=_accept_auth,
    before_login=True,
    progress=True,
    exists=lambda conversation: bool(conversation.settings.mechanisms),
    works=lambda conversation: bool(conversation.usable_mechanisms()),
    elsewhere={
        State.HELLO: replies.HELLO_FIRST,
        State.MAIL: replies.AUTH_IN_TRANSACTION,
        State.RCPT: replies.AUTH_IN_TRANSACTION,
        State.BDAT: replies.AUTH_IN_TRANSACTION,
    },
)


# -- the exchange --------------------------------------------------------------------------------


def _under_way(conversation: Conversation) -> Exchange:
    if conversation.exchange is None:
        raise ProtocolError("no login is under way")
    return conversation.exchange


def respond(conversation: Conversation, line: bytes) -> Ask | None:
    """Take a line of a login, with its end; return the next question, if there is one."""
    exchange, settings = _under_way(conversation), conversation.settings
    if len(line) > settings.limits.auth_line:
        return _follow(conversation, exchange, replies.AUTH_LINE_TOO_LONG)
    if conversation.output.transcript is not None:
        conversation.output.transcript.response()
    if settings.strict_eol and line[-2:] != b"\r\n":
        return _follow(conversation, exchange, replies.BARE_LINE_END)
    text = line.decode("ascii", "replace").rstrip("\r\n \t")
    return _follow(conversation, exchange, exchange.respond(text))


def give(conversation: Conversation, secret: object) -> Ask | None:
    """Give the secret that was asked for. Raises as `checked_secret` does."""
    exchange = _under_way(conversation)
    return _follow(conversation, exchange, exchange.give(checked_secret(secret)))


def _follow(conversation: Conversation, exchange: Exchange, step: Step) -> Ask | None:
    """Take a step: send a challenge, ask a question, or end the login with a rejection."""
    name = exchange.mechanism.name
    match step:
        case bytes():
            conversation.output.challenge(step)
            return None
        case Reply():
            conversation.exchange = None
            if step is replies.AUTH_TROUBLE:
                conversation.output.reject(step, to="AUTH")
            else:
                conversation.output.mistake(step, to="AUTH")
            return None
        case SecretWanted():
            return SECRET, events.Secret(name, step.username)
        case _:
            return LOGIN, events.Auth(name, step)


# -- questions -----------------------------------------------------------------------------------


def _accept_secret(
    conversation: Conversation, _event: events.Secret, _answer: Reply | None
) -> Ask | None:
    """Go on without a secret: the user is unknown."""
    return give(conversation, None)


def _accept_login(conversation: Conversation, _event: events.Auth, answer: Reply | None) -> Reply:
    _under_way(conversation).accept()
    conversation.exchange = None
    conversation.authenticated = True
    return answer or replies.AUTHENTICATED


def _reject_login(
    conversation: Conversation, event: events.Auth | events.Secret, answer: Reply
) -> Outcome:
    """End the login; a 4xx is a local error and not counted.

    A mechanism that has shown its proof may send one more challenge before the rejection.
    """
    exchange, counts = _under_way(conversation), conversation.counts
    conversation.pardon = True
    if answer.code >= 500:
        counts.failed_logins += 1
        if counts.failed_logins >= conversation.settings.limits.failed_logins:
            answer = replies.TOO_MANY_LOGINS
    if answer.code < 500 or answer.closes:
        conversation.exchange = None
        return answer
    proved = isinstance(event, events.Auth)
    return _follow(conversation, exchange, exchange.reject(answer) if proved else answer)


SECRET: Final = Question(
    "AUTH",
    to=None,
    accept=_accept_secret,
    reject=_reject_login,
    event=events.Secret,
    always=True,
)
LOGIN: Final = Question(
    "AUTH",
    to=None,
    accept=_accept_login,
    reject=_reject_login,
    event=events.Auth,
    always=True,
)
