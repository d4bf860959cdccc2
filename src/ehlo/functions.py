"""Plain functions as hooks: adapters that give a function its arguments and read its result."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from ehlo.handler import (
    Callbacks,
    MessageAnswer,
    Origin,
    check_call,
    check_runs,
    is_async,
    place_of,
)
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

MessageFunction = (
    Callable[[Message], Awaitable[MessageAnswer] | MessageAnswer]
    | Callable[[Session, Message], Awaitable[MessageAnswer] | MessageAnswer]
    | Callable[[Peer, str, list[str], bytes], Awaitable[MessageAnswer] | MessageAnswer]
)
"""A function for messages: `(message)`, `(session, message)` or
`(remote_addr, mail_from, rcpt_tos, data)`. Its result is read as that of `Handler.on_message`."""
RcptFunction = Callable[[Peer, str, str], Awaitable[bool | Reply] | bool | Reply]
PasswordFunction = Callable[[str, str], Awaitable[bool] | bool]
LoginFunction = Callable[[Peer, str, bytes, bytes, bytes], Awaitable[bool] | bool]
AuthFunction = PasswordFunction | LoginFunction

_ONLY_POSITIONAL: Final = inspect.Parameter.POSITIONAL_ONLY
_POSITIONAL: Final = inspect.Parameter.POSITIONAL_OR_KEYWORD

_Arguments = tuple[Any, ...]
_Function = Callable[..., Any]

_Forms = Mapping[int, str]
"""The forms that a function may have, by the number of their parameters. A function whose
parameters are unknown gets the last form, which is the oldest."""

_MESSAGE_FORMS: Final[_Forms] = {
    1: "(message)",
    2: "(session, message)",
    4: "(remote_addr, mail_from, rcpt_tos, data)",
}
_AUTH_FORMS: Final[_Forms] = {
    2: "(username, password)",
    5: "(remote_addr, mechanism, username, password, shared)",
}

# The mechanisms that a function of either form can serve, and those of the longer one alone
_PASSWORDS: Final = frozenset({"PLAIN", "LOGIN"})
_OTHERS: Final = frozenset({"CRAM-MD5", "XOAUTH2", "OAUTHBEARER"})


def callbacks_of_functions(
    handler: MessageFunction, rcpt: RcptFunction | None, auth: AuthFunction | None
) -> Callbacks:
    """Return hooks that call the functions. A hook is `async def` if its function is.

    Raises `TypeError` for a function that cannot be called with its arguments.
    """
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


def _on_message(function: _Function) -> _Function:
    count = _form_of("handler", function, _MESSAGE_FORMS)
    if count == 2:
        return function

    def arguments(session: Session, message: Message) -> _Arguments:
        recipients = [str(recipient) for recipient in message.recipients]
        return session.peer, str(message.sender), recipients, message.data

    def only_message(_session: Session, message: Message) -> _Arguments:
        return (message,)

    chosen = only_message if count == 1 else arguments
    return _adapted(function, chosen, lambda result, _arguments: result)


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
    return _form_of("auth_handler", function, _AUTH_FORMS) == 2


def _form_of(option: str, function: _Function, forms: _Forms) -> int:
    """Return the number of arguments that a function gets, which is that of one of its `forms`.

    Positional parameters without a default are counted. A function with `*args`, or without a
    readable signature, gets the last form. Raises `TypeError` for any other number, and for
    required keyword-only parameters.
    """
    if not callable(function):
        raise TypeError(f"{option} must be a function, not {function!r}")
    check_runs(option, function)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return max(forms)
    if parameters and parameters[0].name == "self":
        raise TypeError(
            f"{option} ({place_of(function)}) is a method without an instance; pass a bound method"
        )
    kinds = [each.kind for each in parameters if each.default is each.empty]
    count = sum(kind in (_ONLY_POSITIONAL, _POSITIONAL) for kind in kinds)
    takes = f"{count} parameter{'' if count == 1 else 's'}"
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        takes = "required keyword-only parameters"
    elif inspect.Parameter.VAR_POSITIONAL in kinds and count <= max(forms):
        return max(forms)
    elif count in forms:
        if [each.name for each in parameters[:2]] == ["message", "session"]:
            raise TypeError(
                f"{option} ({place_of(function)}) takes message first; write (session, message)"
            )
        return count
    *others, last = forms.values()
    may_be_factory = option == "handler" and takes.startswith("0")
    factory = "; if it returns the handler, set factory=True (--factory)" if may_be_factory else ""
    raise TypeError(
        f"{option} ({place_of(function)}) takes {takes}; "
        f"write {', '.join(others)} or {last}{factory}"
    )


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

        return _named(hook_async, function)

    def hook(*given: object) -> object:
        asked = arguments(*given)
        return None if asked is None else answer(function(*asked), asked)

    return _named(hook, function)


def _named(hook: _Function, function: _Function) -> _Function:
    """Return a hook with the name of the function that it calls, by which logs call it."""
    named = function if hasattr(function, "__qualname__") else type(function)
    hook.__module__, hook.__qualname__ = getattr(named, "__module__", ""), named.__qualname__
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
