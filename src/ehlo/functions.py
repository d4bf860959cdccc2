"""Plain functions as hooks: adapters that give a function its arguments and read its result."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from ehlo.handler import Callbacks, Origin, check_call, is_async, name_of
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
PasswordFunction = Callable[[str, str], Awaitable[bool] | bool]
LoginFunction = Callable[[Peer, str, bytes, bytes, bytes], Awaitable[bool] | bool]
AuthFunction = PasswordFunction | LoginFunction

_Arguments = tuple[Any, ...]
_Function = Callable[..., Any]

# The mechanisms that a function of either form can serve, and those of the longer one alone
_PASSWORDS: Final = frozenset({"PLAIN", "LOGIN"})
_OTHERS: Final = frozenset({"CRAM-MD5", "XOAUTH2", "OAUTHBEARER"})


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


def mechanisms_of(function: AuthFunction) -> frozenset[str]:
    """Return the built-in mechanisms that an auth function can serve. Raises `TypeError`."""
    return _PASSWORDS if _takes_password(function) else _PASSWORDS | _OTHERS


def _takes_password(function: AuthFunction) -> bool:
    """Return whether an auth function has two parameters. Raises `TypeError` for neither form."""
    count = _parameters_of(function)
    if count in (2, 5):
        return count == 2
    taken = "keyword-only parameters" if count is None else f"{count} parameters"
    raise TypeError(
        f"auth_handler ({name_of(function)}) takes {taken}; write (username, password), "
        "or (remote_addr, mechanism, username, password, shared)"
    )


def _parameters_of(function: _Function) -> int | None:
    """Count the positional parameters without a default; `None` if it needs others, too.

    A function with `*args`, or without a readable signature, has the five of the first form.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 5
    required = [each.kind for each in parameters if each.default is each.empty]
    if inspect.Parameter.VAR_POSITIONAL in required:
        return 5
    if inspect.Parameter.KEYWORD_ONLY in required:
        return None
    return len([kind for kind in required if kind is not inspect.Parameter.VAR_KEYWORD])


class Checked(NamedTuple):
    """The result of an auth function, and the user name that it was asked about."""

    username: str
    result: object


def _on_auth(function: AuthFunction) -> _Function:
    if _takes_password(function):
        return _adapted(function, _password_of, lambda result, asked: Checked(asked[0], result))

    def arguments(session: Session, credentials: Credentials) -> _Arguments | None:
        login = _login_of(credentials)
        return None if login is None else (session.peer, *login)

    def checked(result: object, asked: _Arguments) -> Checked:
        username: bytes = asked[2]
        return Checked(username.decode(errors="surrogateescape"), result)

    return _adapted(function, arguments, checked)


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


def _password_of(_session: Session, credentials: Credentials) -> _Arguments | None:
    """Return user name and password, as an auth function of two parameters gets them.

    `None` rejects a login as another user, and bytes that are not UTF-8: no password has them.
    Raises `TypeError` for other credentials.
    """
    if not isinstance(credentials, PasswordCredentials):
        raise _cannot_check(credentials)
    username, password, authzid = credentials.username, credentials.password, credentials.authzid
    try:
        (username + password).encode()
    except UnicodeEncodeError:
        return None
    return (username, password) if authzid in ("", username) else None


def _cannot_check(credentials: Credentials) -> TypeError:
    kind = type(credentials).__name__
    return TypeError(f"auth_handler cannot check {kind}; use a Handler with on_auth")


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
            raise _cannot_check(credentials)
    if not username or authzid not in ("", username):
        return None
    return mechanism, as_bytes(username), as_bytes(secret), challenge
