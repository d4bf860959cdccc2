"""Plain functions as a handler: the adapter from the origin's four-argument form to `Handler`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from ehlo.handlers.base import Handler
from ehlo.protocol import reply as replies
from ehlo.protocol.address import Address
from ehlo.protocol.credentials import (
    CramMD5Credentials,
    Credentials,
    PasswordCredentials,
    TokenCredentials,
)
from ehlo.protocol.reply import Reply
from ehlo.session import Message, Peer, Session

__all__ = ["AuthFunction", "MessageFunction", "RcptFunction", "functions_as_handler", "is_async"]

MessageFunction = Callable[
    [Peer, str, list[str], bytes], Awaitable[Reply | str | None] | Reply | str | None
]
RcptFunction = Callable[[Peer, str, str], Awaitable[bool] | bool]
AuthFunction = Callable[[Peer, str, bytes, bytes, bytes], Awaitable[bool] | bool]


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives an awaitable: `async def`, a partial of one, an async `__call__`."""
    return inspect.iscoroutinefunction(inspect.unwrap(function)) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  its kind is asked for, not whether it is
    )


def functions_as_handler(
    handler: MessageFunction, rcpt: RcptFunction | None, auth: AuthFunction | None
) -> Handler:
    """A `Handler` with just the hooks that the functions need, each of its function's own kind."""
    hooks: dict[str, Any] = {"on_message": _on_message(handler)}
    if rcpt is not None:
        hooks["on_rcpt"] = _on_rcpt(rcpt)
    if auth is not None:
        hooks["on_auth"] = _on_auth(auth)
    handler_class: type[Handler] = type("FunctionHandler", (Handler,), hooks)
    return handler_class()


def _on_message(function: MessageFunction) -> Callable[..., Any]:
    if is_async(function):

        async def on_message_async(_self: Handler, session: Session, message: Message) -> Any:
            return await function(*_message_arguments(session, message))  # type: ignore[misc]  # is_async says so

        return on_message_async

    def on_message(_self: Handler, session: Session, message: Message) -> Any:
        return _no_awaitable(function(*_message_arguments(session, message)), function)

    return on_message


def _message_arguments(session: Session, message: Message) -> tuple[Peer, str, list[str], bytes]:
    return (
        session.peer,
        str(message.sender),
        [str(recipient) for recipient in message.recipients],
        message.data,
    )


def _on_rcpt(function: RcptFunction) -> Callable[..., Any]:
    if is_async(function):

        async def on_rcpt_async(
            _self: Handler, session: Session, recipient: Address, _params: Mapping[str, Any]
        ) -> Reply | None:
            taken = await function(session.peer, str(session.sender), str(recipient))  # type: ignore[misc]  # is_async says so
            return None if taken else replies.MAILBOX_UNAVAILABLE

        return on_rcpt_async

    def on_rcpt(
        _self: Handler, session: Session, recipient: Address, _params: Mapping[str, Any]
    ) -> Reply | None:
        taken = function(session.peer, str(session.sender), str(recipient))
        return None if _no_awaitable(taken, function) else replies.MAILBOX_UNAVAILABLE

    return on_rcpt


def _on_auth(function: AuthFunction) -> Callable[..., Any]:
    if is_async(function):

        async def on_auth_async(
            _self: Handler, session: Session, credentials: Credentials
        ) -> object:
            login = _login_of(credentials)
            if _is_refused(login):
                return None
            accepted = await function(session.peer, *_octets(login))  # type: ignore[misc]  # is_async says so
            return _identity(accepted, login)

        return on_auth_async

    def on_auth(_self: Handler, session: Session, credentials: Credentials) -> object:
        login = _login_of(credentials)
        if _is_refused(login):
            return None
        accepted = function(session.peer, *_octets(login))
        return _identity(_no_awaitable(accepted, function), login)

    return on_auth


class Login(NamedTuple):
    """What a function is told of credentials, as far as it can be."""

    mechanism: str
    username: str
    password: str | bytes
    shared: bytes = b""
    authzid: str = ""


def _login_of(credentials: Credentials) -> Login:
    """Raises `TypeError` for what is neither a password, nor a token, nor a digest."""
    match credentials:
        case PasswordCredentials():
            secret = credentials.password
        case TokenCredentials():
            secret = credentials.token
        case CramMD5Credentials(username, digest, challenge):
            return Login("CRAM-MD5", username, digest, challenge)
        case _:
            raise TypeError(f"an auth function takes no {type(credentials).__name__}")
    return Login(credentials.mechanism, credentials.username, secret, authzid=credentials.authzid)


def _is_refused(login: Login) -> bool:
    """Whether a function cannot say if that may be: to act as another, a token for no one named."""
    return not login.username or login.authzid not in ("", login.username)


def _octets(login: Login) -> tuple[str, bytes, bytes, bytes]:
    password = login.password
    return (
        login.mechanism,
        login.username.encode(errors="surrogateescape"),
        password.encode(errors="surrogateescape") if isinstance(password, str) else password,
        login.shared,
    )


def _identity(accepted: object, login: Login) -> object:
    """`True` alone accepts; what is no answer at all must not be taken for one."""
    if accepted is True:
        return login.username
    if accepted is False or accepted is None:
        return None
    raise TypeError(f"an auth function returns a bool, not {type(accepted).__name__}")


def _no_awaitable(result: Any, function: Callable[..., Any]) -> Any:
    """A coroutine is truthy: as an answer it would accept everything."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"{function!r} returned an awaitable: it must be an async def")
    return result
