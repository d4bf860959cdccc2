"""SASL (RFC 4422): what a mechanism is, and its exchange in RFC 4954's lines.

A mechanism is a generator that knows nothing of SMTP or base64. It yields what it wants, and is
sent the result:

    bytes           a challenge; the generator is sent the client's response
    SecretWanted    the secret of a user; the generator is sent it, or `None` for an unknown user,
                    or what `derive` makes of it
    Credentials     the login to decide on; the generator is sent `True` or `False`

After `True` it ends. After `False` it may yield one more challenge, which gives the reason; the
response to it is dropped. A mechanism that ends before it has yielded credentials rejects the
login. A response that cannot be read raises `ValueError`, whose text the client never sees.

A mechanism that has to wait, as for a database, is an `async` generator. The core awaits nothing:
each step of it becomes a question to the server, which awaits it.
"""

from __future__ import annotations

import binascii
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ehlo.protocol import reply as replies
from ehlo.protocol.auth.credentials import Credentials, PeerCertificate, ProvedCredentials
from ehlo.protocol.auth.keys import ScramKeys
from ehlo.protocol.grammar import BASE64
from ehlo.protocol.reply import Reply

Secret = str | bytes | ScramKeys | Sequence[ScramKeys] | None
"""What a server may store of a user: the password, or SCRAM keys of one or more algorithms."""


class MechanismError(Exception):
    """Raised when a mechanism fails: a local error, not the client's mistake."""


def _itself(secret: Secret) -> object:
    return secret


@dataclass(frozen=True, slots=True)
class SecretWanted:
    """Asks for the secret of a user, where a mechanism yields it.

    Example:

        def run(initial, context):
            response = (yield b"Username:") if initial is None else initial
            secret = yield ehlo.SecretWanted(response.decode())
    """

    username: str
    """The name of the user; `on_secret` is called with it."""
    derive: Callable[[Secret], object] = field(default=_itself, repr=False, compare=False)
    """A function that turns the secret into the value that the generator is sent. If that takes
    time, such as the hash of a password, do it here: the server calls this in a thread."""

    def derived(self, secret: object) -> object:
        """Return what the generator is sent for a secret. Raises as `checked_secret` does."""
        return self.derive(checked_secret(secret))


@dataclass(frozen=True, slots=True)
class AuthContext:
    """Holds the facts about connection and server that a mechanism may use.

    Example:

        def run(initial, context):
            response = yield f"<{context.nonce()}@{context.hostname}>".encode()
    """

    nonce: Callable[[], str]
    """A function that returns unpredictable letters and digits, different ones at each call."""
    hostname: str
    """The server's host name."""
    bindings: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """The channel bindings of this TLS connection (RFC 5929) by the name of their type."""
    certificate: PeerCertificate | None = None
    """The client's certificate, if TLS has verified it."""
    offered: Sequence[str] = ()
    """The mechanisms that the client may use."""
    salt_key: bytes = field(default=b"", repr=False)
    """The key of salts that stay the same for a user who has none stored."""


@dataclass(frozen=True, slots=True)
class StepAwaited:
    """Asks for the next step of an `async` generator to be awaited."""

    proceed: Callable[[], Awaitable[object]] = field(repr=False, compare=False)
    """A function to call and await. Its result, which may be an exception, is given back."""


Steps = Generator[bytes | SecretWanted | StepAwaited | Credentials, Any, None]
AsyncSteps = AsyncGenerator[bytes | SecretWanted | Credentials, Any]


def steps_of(steps: Steps | AsyncSteps) -> Steps:
    """Return a generator of the steps, whose steps are to be awaited if those of `steps` are."""
    return _awaited(steps) if isinstance(steps, AsyncGenerator) else steps


def _awaited(steps: AsyncSteps) -> Steps:
    sent: object = None
    while True:
        outcome = yield StepAwaited(partial(_outcome, steps, sent))
        if isinstance(outcome, StopAsyncIteration):
            return
        if isinstance(outcome, BaseException):
            try:
                raise outcome
            finally:
                del outcome  # its traceback refers to this frame, which has the client's response
        sent = yield outcome


async def _outcome(steps: AsyncSteps, sent: object) -> object:
    """Return the next step, or the exception that it ends in. A cancellation comes through."""
    try:
        return await steps.asend(sent)
    except (Exception, SystemExit) as error:  # noqa: BLE001  raised where it is given back
        return error


@dataclass(frozen=True, slots=True)
class Mechanism:
    """Describes a way to log in: how it runs, and when it may be used.

    `run` is called with the client's initial response (`None` without one) and an `AuthContext`.
    It returns a generator, which yields a challenge (`bytes`), a `SecretWanted` or `Credentials`.
    The generator is sent the client's response, the secret, or whether the login is accepted.

    A mechanism that waits, as for a database, is an `async` generator. Each of its steps has the
    deadline of a hook, and is canceled if the client leaves. A plain generator must not block.

    Example:

        async def run(initial, context):
            response = (yield b"Pin:") if initial is None else initial
            user = await database.user_of_pin(response.decode())
            yield ehlo.PasswordCredentials(user, response.decode(), mechanism="X-PIN")

        server = ehlo.Server(handler, auth_mechs={"X-PIN": ehlo.Mechanism("X-PIN", run)})
    """

    name: str
    """The name: 1 to 20 upper-case letters, digits, `-` and `_` (RFC 4422 3.1)."""
    run: Callable[[bytes | None, AuthContext], Steps | AsyncSteps]
    """The function that returns the generator, or `async` generator."""
    needs_tls: bool = True
    """Whether it reveals a secret to anyone who reads the connection."""
    client_first: bool = True
    """Whether it accepts an initial response."""
    needs_binding: bool = False
    """Whether it needs a TLS connection with a channel binding."""
    needs_certificate: bool = False
    """Whether it needs a client certificate that TLS has verified."""

    def usable(self, *, tls: bool, binding: bool, certificate: bool) -> bool:
        """Return whether it may be used on such a connection. Only the server calls this."""
        return (
            (tls or not self.needs_tls)
            and (binding or not self.needs_binding)
            and (certificate or not self.needs_certificate)
        )


Step = bytes | SecretWanted | StepAwaited | Credentials | Reply
"""An encoded challenge, a wanted secret, a step to await, credentials to decide on, or the reply
that ends it."""


class Exchange:
    """Runs one authentication exchange: a mechanism in RFC 4954's lines.

    `start`, `respond` and `give` return the next step.
    """

    __slots__ = (
        *("_failed", "_rejection", "_steps", "decision", "mechanism", "spent", "undecided"),
        "username",
    )

    def __init__(
        self,
        mechanism: Mechanism,
        initial: bytes | None,
        context: AuthContext,
        failed: Callable[[Exception], object],
    ) -> None:
        self.mechanism = mechanism
        self._steps = steps_of(mechanism.run(initial, context))
        self._failed = failed  # called with a `MechanismError`
        self._rejection: Reply | None = None  # sent once the client has answered a last challenge
        self.username: str = ""
        """The user whose secret the mechanism has asked for."""
        self.undecided: bool = False
        """Whether a secret or a step was waited for, and the login is neither accepted nor
        rejected."""
        self.decision: Reply | None = None
        """The reply to the login, while the last step is awaited."""
        self.spent = False
        """Whether no further login may fail: the next line of the client ends the session."""

    @property
    def failed(self) -> ProvedCredentials:
        """The credentials of a client that has proved nothing."""
        return ProvedCredentials(self.username, proved=False, mechanism=self.mechanism.name)

    def start(self) -> Step:
        """Return the first step."""
        return self.give(None)

    def respond(self, line: str) -> Step:
        """Return the step that follows the client's line."""
        if line == "*":
            return replies.AUTH_CANCELLED
        response = decoded(line)
        if response is None:
            return replies.BAD_BASE64
        return self._rejection or self.give(response)

    def decide(self, decision: Reply) -> bytes | Reply | StepAwaited:
        """Inform the mechanism of the reply to the login.

        Returns the reply, or the mechanism's last challenge before a rejection, or a step to await,
        with whose outcome `conclude` returns one of the two.
        """
        self.undecided = False
        self.decision = decision
        step = self.give(not decision.refuses)
        return step if isinstance(step, StepAwaited) else self._concluded(decision, step)

    def conclude(self, decision: Reply, outcome: object) -> bytes | Reply:
        """Return what follows on the last step, which was awaited."""
        return self._concluded(decision, self.give(outcome))

    def _concluded(self, decision: Reply, step: Step) -> bytes | Reply:
        self.decision = None
        if not isinstance(step, bytes) or not decision.refuses:
            return decision
        self._rejection = decision
        return step

    def give(self, sent: object) -> Step:
        """Return the step that follows a secret, a response or a decision."""
        try:
            step = self._steps.send(sent)
        except StopIteration:
            return self.failed
        except ValueError:
            return replies.BAD_RESPONSE
        except MechanismError as error:
            self._failed(error)
            return replies.AUTH_TROUBLE
        if isinstance(step, SecretWanted):
            self.username, self.undecided = step.username, True
        elif isinstance(step, StepAwaited) and self.decision is None:
            self.undecided = True
        return replies.challenge(encoded(step)) if isinstance(step, bytes) else step


def encoded(data: bytes) -> str:
    """Encode `data` in padded base64 (RFC 4648 4)."""
    return binascii.b2a_base64(data, newline=False).decode()


def decoded(text: str) -> bytes | None:
    """Decode padded base64 (RFC 4648 4); return `None` if `text` is none."""
    return binascii.a2b_base64(text) if BASE64.fullmatch(text) else None


def unescaped(saslname: str) -> str:
    """Decode a `saslname` (RFC 5802 5.1), which escapes the comma and the `=`."""
    return saslname.replace("=2C", ",").replace("=3D", "=")


def checked_secret(secret: object) -> Secret:
    """Return `secret`, or `None` for an empty one, which no user logs in with.

    Raises `TypeError` for any other type, and `ValueError` for text that is not UTF-8.
    """
    match secret:
        case str():
            secret.encode()
        case None | bytes() | ScramKeys():
            pass
        case list() | tuple() if all(isinstance(keys, ScramKeys) for keys in secret):
            pass
        case _:
            given = type(secret).__name__
            raise TypeError(f"on_secret returned {given}; return a secret, ScramKeys or None")
    return secret or None
