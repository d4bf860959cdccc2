"""Plain functions as hooks: the adapter from the four-argument form to what the server calls.

An answer that could mean anything is never taken for "yes".
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from ehlo.handler import Callbacks, is_async
from ehlo.message import Message
from ehlo.net import Peer
from ehlo.protocol import reply as replies
from ehlo.protocol.address import Address
from ehlo.protocol.auth.credentials import (
    CramMD5Credentials,
    Credentials,
    PasswordCredentials,
    TokenCredentials,
)
from ehlo.protocol.reply import Reply
from ehlo.session import Session

__all__ = ["AuthFunction", "MessageFunction", "RcptFunction", "callbacks_of_functions"]

MessageFunction = Callable[
    [Peer, str, list[str], bytes], Awaitable[Reply | str | None] | Reply | str | None
]
RcptFunction = Callable[[Peer, str, str], Awaitable[bool] | bool]
AuthFunction = Callable[[Peer, str, bytes, bytes, bytes], Awaitable[bool] | bool]


def callbacks_of_functions(
    handler: MessageFunction, rcpt: RcptFunction | None, auth: AuthFunction | None
) -> Callbacks:
    """Return the hooks that the functions stand for, each `def` or `async def` as its function."""
    hooks: dict[str, Callable[..., Any]] = {"on_message": _on_message(handler)}
    if rcpt is not None:
        hooks["on_rcpt"] = _on_rcpt(rcpt)
    if auth is not None:
        hooks["on_auth"] = _on_auth(auth)
    return Callbacks(hooks)


def _on_message(function: MessageFunction) -> Callable[..., Any]:
    def arguments(session: Session, message: Message) -> tuple[Peer, str, list[str], bytes]:
        return (
            session.peer,
            str(message.sender),
            [str(recipient) for recipient in message.recipients],
            message.data,
        )

    return _adapted(function, arguments, lambda result, _arguments: result)


def _on_rcpt(function: RcptFunction) -> Callable[..., Any]:
    def arguments(
        session: Session, recipient: Address, _params: Mapping[str, Any]
    ) -> tuple[Peer, str, str]:
        return session.peer, str(session.sender), str(recipient)

    def answer(accepted: object, _arguments: tuple[Any, ...]) -> Reply | None:
        return None if accepted else replies.MAILBOX_UNAVAILABLE

    return _adapted(function, arguments, answer)


def _on_auth(function: AuthFunction) -> Callable[..., Any]:
    def arguments(session: Session, credentials: Credentials) -> tuple[Any, ...] | None:
        claim = _claim_of(credentials)
        return None if claim.is_beyond_functions else (session.peer, *claim.as_bytes())

    def identity(accepted: object, asked: tuple[Any, ...]) -> str | None:
        if accepted is True:
            username: bytes = asked[2]
            return username.decode(errors="surrogateescape")
        if accepted is False or accepted is None:
            return None
        raise TypeError(f"an auth function returns a bool, not {type(accepted).__name__}")

    return _adapted(function, arguments, identity)


def _adapted(
    function: Callable[..., Any],
    arguments: Callable[..., tuple[Any, ...] | None],
    answer: Callable[[Any, tuple[Any, ...]], Any],
) -> Callable[..., Any]:
    """Return a hook of the same kind as `function`.

    `arguments` makes the function's arguments from the hook's (`None` rejects, and the function is
    not called); `answer` makes the hook's answer from the function's result.
    """
    if is_async(function):

        async def hook_async(*given: Any) -> Any:
            asked = arguments(*given)
            return None if asked is None else answer(await function(*asked), asked)

        return hook_async

    def hook(*given: Any) -> Any:
        asked = arguments(*given)
        return None if asked is None else answer(_no_awaitable(function(*asked), function), asked)

    return hook


class _Claim(NamedTuple):
    """Describes credentials as far as a function can be told of them."""

    mechanism: str
    username: str
    secret: str | bytes
    shared: bytes = b""
    authzid: str = ""

    @property
    def is_beyond_functions(self) -> bool:
        """Whether no function can decide on it: acting as another user, a token without a user."""
        return not self.username or self.authzid not in ("", self.username)

    def as_bytes(self) -> tuple[str, bytes, bytes, bytes]:
        """Return mechanism, user name, password and shared challenge, as the origin passes them."""
        secret = self.secret
        return (
            self.mechanism,
            self.username.encode(errors="surrogateescape"),
            secret.encode(errors="surrogateescape") if isinstance(secret, str) else secret,
            self.shared,
        )


def _claim_of(credentials: Credentials) -> _Claim:
    """Describe a password, a token or a digest. Raises `TypeError` for any other credentials."""
    match credentials:
        case PasswordCredentials():
            secret = credentials.password
        case TokenCredentials():
            secret = credentials.token
        case CramMD5Credentials(username, digest, challenge):
            return _Claim("CRAM-MD5", username, digest, challenge)
        case _:
            raise TypeError(f"an auth function takes no {type(credentials).__name__}")
    return _Claim(credentials.mechanism, credentials.username, secret, authzid=credentials.authzid)


def _no_awaitable(result: Any, function: Callable[..., Any]) -> Any:
    """Return `result`; a coroutine is truthy, and as an answer would accept everything."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"{function!r} returned an awaitable: it must be an async def")
    return result
