"""Plain functions as a handler: the adapter from the origin's four-argument form to `Handler`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ehlo.handlers.base import Handler
from ehlo.protocol import reply as replies
from ehlo.protocol.address import Address
from ehlo.protocol.reply import Reply
from ehlo.protocol.sasl import Credentials, PasswordCredentials
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
            if _acts_as_another(credentials):
                return None
            accepted = await function(*_auth_arguments(session, credentials))  # type: ignore[misc]  # is_async says so
            return _identity(accepted, credentials)

        return on_auth_async

    def on_auth(_self: Handler, session: Session, credentials: Credentials) -> object:
        if _acts_as_another(credentials):
            return None
        accepted = function(*_auth_arguments(session, credentials))
        return _identity(_no_awaitable(accepted, function), credentials)

    return on_auth


def _acts_as_another(credentials: Credentials) -> bool:
    """PLAIN with an authorisation identity: a function cannot say whether that may be."""
    if not isinstance(credentials, PasswordCredentials):
        return False
    return credentials.authzid not in ("", credentials.username)


def _auth_arguments(
    session: Session, credentials: Credentials
) -> tuple[Peer, str, bytes, bytes, bytes]:
    username = credentials.username.encode(errors="surrogateescape")
    if isinstance(credentials, PasswordCredentials):
        password = credentials.password.encode(errors="surrogateescape")
        return session.peer, credentials.mechanism, username, password, b""
    return session.peer, "CRAM-MD5", username, credentials.digest, credentials.challenge


def _identity(accepted: object, credentials: Credentials) -> object:
    """`True` alone accepts; what is no answer at all must not be taken for one."""
    if accepted is True:
        return credentials.username
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
