"""`Exchange`: the exchange of one mechanism in lines of SMTP (RFC 4954 4)."""

from __future__ import annotations

import binascii
from collections.abc import Callable

from ehlo.protocol import reply as replies
from ehlo.protocol.auth.credentials import Credentials, ProvedCredentials
from ehlo.protocol.auth.mechanism import (
    AuthContext,
    Mechanism,
    MechanismError,
    Secret,
    SecretWanted,
    Steps,
    decoded,
)
from ehlo.protocol.reply import Reply

__all__ = ["Exchange", "Step"]

Step = bytes | SecretWanted | Credentials | Reply


class Exchange:
    """One authentication exchange in RFC 4954's lines.

    `start`, `respond` and `give` return the next step: an encoded challenge, the secret wanted,
    credentials to decide on, or the reply that ends the exchange.
    """

    __slots__ = ("_context", "_failed", "_initial", "_refusal", "_steps", "mechanism")

    def __init__(
        self,
        mechanism: Mechanism,
        initial: bytes | None,
        context: AuthContext,
        failed: Callable[[Exception], object],
    ) -> None:
        self._failed = failed  # is told of a `MechanismError`
        self.mechanism = mechanism
        self._initial = initial
        self._context = context
        self._steps: Steps | None = None
        self._refusal: Reply | None = None  # said when the client has answered the last challenge

    def start(self) -> Step:
        """Return the first step."""
        self._steps = self.mechanism.run(self._initial, self._context)
        return self._advance(None)

    def respond(self, line: str) -> Step:
        """Return the step that follows on the client's line."""
        if line == "*":
            return replies.AUTH_CANCELLED
        response = decoded(line)
        if response is None:
            return replies.BAD_BASE64
        return self._refusal or self._advance(response)

    def give(self, secret: Secret) -> Step:
        """Return the step that follows on the secret."""
        return self._advance(secret)

    def accept(self) -> None:
        """Tell the mechanism that the login is good."""
        self._advance(True)

    def refuse(self, answer: Reply) -> bytes | Reply:
        """Return `answer`, or the mechanism's last challenge before it."""
        step = self._advance(False)
        if not isinstance(step, bytes):
            return answer
        self._refusal = answer
        return step

    def _advance(self, sent: object) -> Step:
        assert self._steps is not None  # noqa: S101  start came first
        try:
            step = self._steps.send(sent)
        except StopIteration:
            return ProvedCredentials("", proved=False, mechanism=self.mechanism.name)
        except ValueError:
            return replies.BAD_RESPONSE
        except MechanismError as error:
            self._failed(error)
            return replies.AUTH_TROUBLE
        if isinstance(step, bytes):
            return replies.challenge(binascii.b2a_base64(step, newline=False).decode())
        return step
