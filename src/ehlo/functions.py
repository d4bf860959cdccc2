"""Plain functions as hooks: adapters that give a function its arguments and read its result."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from ehlo.handler import Callbacks, Origin, check_call, is_async
from ehlo.message import Message
from ehlo.net import Peer
from ehlo.protocol.address import Address
from ehlo.protocol.auth.credentials import (
    CramMD5Credentials,
    Credentials,
    PasswordCredentials,
    TokenCredentials,
    as_bytes,
)
from ehlo.protocol.reply import Reject, Reply
from ehlo.session import Session

MessageFunction = Callable[
    [Peer, str, list[str], bytes], Awaitable[Reply | str | bool | None] | Reply | str | bool | None
]
RcptFunction = Callable[[Peer, str, str], Awaitable[bool | Reply] | bool | Reply]
AuthFunction = Callable[[Peer, str, bytes, bytes, bytes], Awaitable[bool] | bool]

_Arguments = tuple[Any, ...]
_Function = Callable[..., Any]


def callbacks_of_functions(
    handler: MessageFunction, rcpt: RcptFunction | None, auth: AuthFunction | None
) -> Callbacks:
    """Return hooks that call the functions. A hook is `async def` if its function is.

    Raises `TypeError` for a function that cannot be called with its arguments.
    """
    check_call("handler", handler, ["remote_addr", "mail_from", "rcpt_tos", "data"])
    hooks: dict[str, _Function] = {"on_message": _on_message(handler)}
    origins = {"on_message": Origin("handler", handler)}
    if rcpt is not None:
        check_call("rcpt_handler", rcpt, ["remote_addr", "mail_from", "rcpt_to"])
        hooks["on_rcpt"] = _on_rcpt(rcpt)
        origins["on_rcpt"] = Origin("rcpt_handler", rcpt)
    if auth is not None:
        hooks["on_auth"] = _on_auth(auth)
        origins["on_auth"] = Origin("auth_handler", auth)
    return Callbacks(hooks, origins=origins)


def _on_message(function: MessageFunction) -> _Function:
    def arguments(session: Session, message: Message) -> _Arguments:
        recipients = [str(recipient) for recipient in message.recipients]
        return session.peer, str(message.sender), recipients, message.data

    return _adapted(function, arguments, lambda result, _arguments: result)


def _on_rcpt(function: RcptFunction) -> _Function:
    def arguments(session: Session, recipient: Address, _params: object) -> _Arguments:
        return session.peer, str(session.sender), str(recipient)

    def answer(result: object, _arguments: _Arguments) -> object:
        return result.reply if isinstance(result, Reject) else result

    return _adapted(function, arguments, answer)


def _on_auth(function: AuthFunction) -> _Function:
    def arguments(session: Session, credentials: Credentials) -> _Arguments | None:
        login = _login_of(credentials)
        return None if login is None else (session.peer, *login)

    def identity(accepted: object, asked: _Arguments) -> str | None:
        _not_awaitable(accepted, function)
        if accepted is True:
            username: bytes = asked[2]
            return username.decode(errors="surrogateescape")
        if accepted is False or accepted is None:
            return None
        raise TypeError(f"auth_handler returned {type(accepted).__name__}; return True or False")

    return _adapted(function, arguments, identity)


def _adapted(
    function: _Function,
    arguments: Callable[..., _Arguments | None],
    answer: Callable[[object, _Arguments], object],
) -> _Function:
    """Return a hook that calls `function`, and is `async def` if `function` is.

    `arguments` turns the hook's arguments into those of `function`. If it returns `None`, so does
    the hook, without a call. `answer` turns the result of `function` into the hook's.
    """
    if is_async(function):

        async def hook_async(*given: object) -> object:
            asked = arguments(*given)
            return None if asked is None else answer(await function(*asked), asked)

        return hook_async

    def hook(*given: object) -> object:
        asked = arguments(*given)
        return None if asked is None else answer(function(*asked), asked)

    return hook


def _login_of(credentials: Credentials) -> tuple[str, bytes, bytes, bytes] | None:
    """Return mechanism, user name, password and challenge, as an auth function gets them.

    `None` rejects a login as another user, and a token without a user name: the function could not
    tell. Raises `TypeError` for credentials that are no password, token or digest.
    """
    mechanism, authzid, challenge = "CRAM-MD5", "", b""
    secret: str | bytes
    match credentials:
        case PasswordCredentials(username, secret, authzid, mechanism):
            pass
        case TokenCredentials(username, secret, authzid, mechanism):
            pass
        case CramMD5Credentials(username, secret, challenge):
            pass
        case _:
            kind = type(credentials).__name__
            raise TypeError(f"auth_handler cannot check {kind}; use a Handler with on_auth")
    if not username or authzid not in ("", username):
        return None
    return mechanism, as_bytes(username), as_bytes(secret), challenge


def _not_awaitable(result: object, function: _Function) -> None:
    """Raise `TypeError` for an awaitable: the function has not decided."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"{function!r} returned an awaitable; write it as async def")
