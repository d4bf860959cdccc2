"""AUTH: the command, the lines of a login, and what the answer to it changes (RFC 4954)."""

from __future__ import annotations

from typing import Final

from ehlo.protocol import events
from ehlo.protocol import reply as replies
from ehlo.protocol.auth.mechanism import (
    AuthContext,
    Exchange,
    MechanismError,
    SecretWanted,
    Step,
    StepAwaited,
    decoded,
)
from ehlo.protocol.conversation import Conversation
from ehlo.protocol.output import UNKNOWN
from ehlo.protocol.reply import ProtocolError, Reply
from ehlo.protocol.state import State
from ehlo.protocol.verbs.verb import Ask, Outcome, Question, Verb


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
        lacks_tls = mechanism.needs_tls and not conversation.tls
        offered = lacks_tls and conversation.settings.tls_available
        return replies.MECHANISM_NEEDS_TLS if offered else replies.NO_SUCH_MECHANISM
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


def _fail_auth(conversation: Conversation, _argument: str, reply: Reply) -> Reply:
    """Let the client send a stray `*` after any AUTH that was rejected, as Go's net/smtp does."""
    conversation.pardon = True
    return reply


AUTH: Final = Verb(
    "AUTH",
    since={State.READY},
    to=None,
    parse=_parse_auth,
    accept=_accept_auth,
    fail=_fail_auth,
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
    if conversation.output.narrator is not None:
        conversation.output.narrator.response(line)
    if exchange.spent:
        conversation.output.reject(replies.TOO_MANY_LOGINS, to=UNKNOWN)
        return None
    if len(line) > settings.limits.auth_line:
        return _follow(conversation, exchange, replies.AUTH_LINE_TOO_LONG)
    if settings.strict_eol and line[-2:] != b"\r\n":
        return _follow(conversation, exchange, replies.BARE_LINE_END)
    text = line.decode("ascii", "replace").rstrip("\r\n \t")
    return _follow(conversation, exchange, exchange.respond(text))


def give(conversation: Conversation, derived: object) -> Ask | None:
    """Give what was derived of the secret that was asked for, or the outcome of a step."""
    exchange = _under_way(conversation)
    if exchange.decision is not None:
        _conclude(conversation, exchange.conclude(exchange.decision, derived))
        return None
    return _follow(conversation, exchange, exchange.give(derived))


def _follow(conversation: Conversation, exchange: Exchange, step: Step) -> Ask | None:
    """Take a step: send a challenge, ask a question, or end the login with a rejection.

    An exchange that has got a secret and then fails, or is cancelled, is a failed login.
    """
    name = exchange.mechanism.name
    match step:
        case Reply() if exchange.undecided:
            return LOGIN, events.Auth(name, exchange.failed, step)
        case bytes() | Reply():
            _answer(conversation, step)
            return None
        case StepAwaited():
            return STEP, events.LoginStep(name, exchange.username, step.proceed)
        case SecretWanted():
            return SECRET, events.Secret(name, step.username, step.derived)
        case _:
            return LOGIN, events.Auth(name, step)


def _answer(conversation: Conversation, step: bytes | Reply) -> None:
    """Send a challenge, or end the login with a rejection; after too many, all of it."""
    if isinstance(step, bytes):
        conversation.output.challenge(step)
        return
    conversation.pardon = True
    exchange, most = _under_way(conversation), conversation.settings.limits.failed_logins
    exchange.spent = conversation.counts.failed_logins >= most
    conversation.exchange = exchange if exchange.spent else None
    if step is replies.AUTH_TROUBLE:
        conversation.output.reject(step, to="AUTH")
    else:
        conversation.output.mistake(step, to="AUTH")


# -- questions -----------------------------------------------------------------------------------


def _accept_secret(
    conversation: Conversation, event: events.Secret, _answer: Reply | None
) -> Ask | None:
    """Go on without a secret: the user is unknown."""
    return give(conversation, event.derive(None))


def _accept_step(
    conversation: Conversation, _event: events.LoginStep, _answer: Reply | None
) -> Ask | None:
    """Go on without the step, which was not awaited: that is a failure of the server."""
    return give(conversation, MechanismError("its step was not awaited"))


def _accept_login(conversation: Conversation, event: events.Auth, answer: Reply | None) -> Outcome:
    if event.conclusion is not None:  # it has failed, whatever the answer is
        return _reject_login(conversation, event, event.conclusion)
    return _decide(conversation, answer or replies.AUTHENTICATED)


def _decide(conversation: Conversation, decision: Reply) -> Ask | None:
    """End the login, or ask for the last step of its mechanism."""
    exchange = _under_way(conversation)
    step = exchange.decide(decision)
    if isinstance(step, StepAwaited):
        name = exchange.mechanism.name
        return STEP, events.LoginStep(name, exchange.username, step.proceed, last=True)
    _conclude(conversation, step)
    return None


def _conclude(conversation: Conversation, step: bytes | Reply) -> None:
    """End the login with the reply that was decided on, or send a challenge before it."""
    if isinstance(step, bytes) or step.refuses:
        _answer(conversation, step)
        return
    conversation.exchange = None
    conversation.authenticated = True
    conversation.output.reply(step, "AUTH")


def _reject_login(
    conversation: Conversation,
    event: events.Auth | events.Secret | events.LoginStep,
    answer: Reply,
) -> Outcome:
    """End the login; a 4xx is a local error and not counted.

    A mechanism that has shown its proof may send one more challenge before the rejection.
    """
    exchange, counts = _under_way(conversation), conversation.counts
    conclusion = event.conclusion if isinstance(event, events.Auth) else None
    if conclusion is not None and not answer.closes:
        answer = conclusion
    conversation.pardon = True
    if answer.code < 500 or answer.closes:
        conversation.exchange = None
        return answer
    counts.add_failed_login(event.username, event.mechanism)
    exchange.undecided = False
    if isinstance(event, events.Auth) and conclusion is None:
        return _decide(conversation, answer)
    _answer(conversation, answer)
    return None


SECRET: Final = Question(
    "AUTH",
    to=None,
    accept=_accept_secret,
    reject=_reject_login,
    event=events.Secret,
    always=True,
)
STEP: Final = Question(
    "AUTH",
    to=None,
    accept=_accept_step,
    reject=_reject_login,
    event=events.LoginStep,
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
