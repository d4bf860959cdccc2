"""`Handler`: one hook for each moment of a session. Only overridden hooks are called.

This file is longer than others, so that a new hook is one method here and a row of its command.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from ehlo.message import Message
from ehlo.protocol.address import Address
from ehlo.protocol.auth.credentials import Credentials
from ehlo.protocol.auth.mechanism import Secret
from ehlo.protocol.parameters import MailParams, RcptParams
from ehlo.protocol.reply import Disconnect, Reply
from ehlo.session import Session

Answer = Awaitable[Reply | Disconnect | bool | None] | Reply | Disconnect | bool | None
"""What a hook that is asked returns, or awaits: `None` or `True` accepts, `False` rejects, a
`Reply` chooses the reply, and a `Disconnect` closes without one."""
MessageAnswer = (
    Reply | Disconnect | str | bool | Mapping[str, Reply | Disconnect | str | bool | None] | None
)
AnyServer = Any  # `ehlo.Server` stands above this module and cannot be named here


class Handler:
    """Decides what the server answers. Subclass it and override the hooks that you need.

    Each hook may be `def` or `async def`. A `def` hook runs in a thread, an `async def` hook on the
    server's event loop. The hooks of one session run one after another; only a `def` hook that
    missed its deadline may still be running when the next one starts.

    A hook accepts by returning `None` or `True`, and rejects by raising `Reject`. `False` rejects
    in the server's words. A `Reply` chooses the reply; a 4xx or 5xx reply rejects. A `Disconnect`,
    returned or raised, closes the connection without a reply. Any other exception, and any other
    result, is logged as an error that names the hook, and the client gets `451 4.3.0` (`421 4.3.0`
    in `on_connect` and `on_tls`, `454 4.7.0` in a login and in `on_starttls`). `on_message`,
    `on_auth` and `on_secret` are different.

    Values that belong to one message go into `session.transaction.state`, which is `message.state`
    in `on_message`; those of the whole session go into `session.state`.

    Raises `TypeError` when a class is made that has a public method `on_...` that is not a hook, or
    a hook of aiosmtpd or smtpd, such as `handle_RCPT`, which would never be called.

    Example:

        class Inbound(ehlo.Handler):
            async def on_rcpt(self, session, recipient, params):
                if recipient.domain.lower() != "example.com":
                    raise ehlo.Reject(550, "5.1.1", "No such user here")

            async def on_message(self, session, message):
                return await store(message)     # "250 2.0.0 Ok: queued as <id>"
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for base in cls.__mro__:  # classes that are mixed in have not been checked
            _check_names(base, vars(base))

    streams: ClassVar[bool] = False
    """Whether the hooks read messages only by `stream()` and `file`.

    If so, the server holds no large message in memory, and `data`, `body` and `email` of a message
    on disk raise `RuntimeError`.
    """

    def on_startup(self, server: AnyServer) -> Awaitable[None] | None:
        """Called when the server listens, before it serves the first client.

        `server` is the `ehlo.Server`. An exception stops the server. If the server is closed while
        this hook runs, the hook has one more second and is then canceled.
        """

    def on_shutdown(self, server: AnyServer) -> Awaitable[None] | None:
        """Called when the last session has ended, if `on_startup` has returned.

        `server` is the `ehlo.Server`. This hook has the rest of the grace period, and at least
        5 seconds. After that an `async def` hook is canceled, and a `def` hook is left running in
        its thread.
        """

    def on_connect(self, session: Session) -> Answer:
        """Called when a client has connected. A returned `Reply` is the greeting.

        `session.peer` is the client's address. `False` is `554`; after a rejection, the client may
        only send QUIT (RFC 5321 3.1). Called again when a proxy names another client by XCLIENT.
        """

    def on_hello(self, session: Session, name: str) -> Answer:
        """Called for HELO, EHLO and LHLO. `session.helo` becomes `name` if this hook accepts.

        `name` is what the client calls itself: a claim, in any syntax (RFC 5321 4.1.4).
        `session.esmtp` is false for HELO. `False` is `550`. The text of a `Reply` that accepts is
        the first line of the reply.
        """

    def on_starttls(self, session: Session) -> Answer:
        """Called for STARTTLS, before the handshake. `False` is `454`.

        If this hook rejects, the session continues in plaintext. A `Reply` must be 4xx or 5xx.
        """

    def on_tls(self, session: Session) -> Answer:
        """Called when a TLS handshake is complete; `session.tls` describes it.

        If this hook rejects, each command of the client but QUIT gets the reply, and a 5xx is sent
        as `554 5.7.0` (RFC 3207 4.1). A 421 closes the connection.
        """

    def on_auth(
        self, session: Session, credentials: Credentials
    ) -> Awaitable[str | bool | Reply | Disconnect | None] | str | bool | Reply | Disconnect | None:
        """Called for a login. Returning a non-empty `str`, the user's identity, accepts it.

        The identity becomes `session.user`. `credentials` is a `PasswordCredentials`, or another
        of the classes of `Credentials`, by the mechanism of the login (RFC 4954). `None`, `False`
        and a 4xx or 5xx `Reply` reject it; the default reply is `535 5.7.8`. Any other value is
        logged as an error, and the client gets `454 4.7.0`.
        """

    def on_secret(self, session: Session, username: str) -> Awaitable[Secret] | Secret:
        """Called for a login by CRAM-MD5 or SCRAM, which are offered if this hook is overridden.

        Return what you store about `username`: the password in plaintext for both mechanisms;
        `ScramKeys`, or a list of them for several algorithms, for SCRAM only; or `None` for an
        unknown user. In a login by SCRAM, `username` has been prepared by SASLprep (RFC 4013).
        """

    def on_mail(self, session: Session, sender: Address, params: MailParams) -> Answer:
        """Called for MAIL. `params` has the ESMTP parameters by upper-case keyword, parsed.

        `sender` is the envelope sender; `sender.is_null` is true for a bounce (RFC 5321 4.5.5).
        `session.transaction` begins here, and ends if this hook rejects. `False` is `550 5.7.1`.
        """

    def on_rcpt(self, session: Session, recipient: Address, params: RcptParams) -> Answer:
        """Called for RCPT. `params` has the ESMTP parameters by upper-case keyword, parsed.

        `recipient` is the envelope recipient. Those that were accepted before it are in
        `session.transaction.recipients`. `False` is `550 5.1.1`, which says that there is no such
        mailbox.
        """

    def on_data(self, session: Session) -> Answer:
        """Called for DATA or the first BDAT, before the body is read.

        All recipients are in `session.transaction.recipients`. `False` is `554 5.7.1`, and a
        `Reply` that accepts must be a 354 (RFC 5321 4.1.1.4).
        """

    def on_message(
        self, session: Session, message: Message
    ) -> Awaitable[MessageAnswer] | MessageAnswer:
        """Called when a message is complete. Every handler must override this hook.

        Returning accepts the message (250); you are then responsible for it. A returned `str` is
        the queue id in the reply: `250 2.0.0 Ok: queued as <id>`. To reject the message, raise
        `Reject`, or return `False` or a 4xx or 5xx `Reply`. Any other result is logged as an error
        and accepts, since the message is stored; but text or bytes that read as a rejection, such
        as `"550 No"`, are `451`.

        In LMTP each recipient gets its own reply. To reject the message for one recipient, call
        `message.refuse`, or return a mapping from recipients to results. The message is accepted
        for recipients that the mapping does not name.
        """
        raise NotImplementedError

    def on_replied(self, session: Session, message: Message, sent: bool) -> Awaitable[None] | None:
        """Called after the final reply to `message`; `sent` is false if it could not be sent.

        Called for every message, unless the grace period of a shutdown is over. Waiting for a free
        thread does not count towards the deadline of this hook.
        """

    def on_vrfy(self, session: Session, text: str) -> Answer:
        """Called for VRFY. The default reply is `252`, which does not reveal who exists.

        `text` is the argument: a user name or an address, as the client wrote it (RFC 5321 3.5.3).
        """

    def on_reset(self, session: Session) -> Answer:
        """Called for RSET.

        If this hook accepts, the transaction ends, if there is one (RFC 5321 4.1.1.5).
        """

    def on_command(self, session: Session, verb: str, argument: str) -> Answer:
        """Called for a command of your own (see `Extension`). The default reply is `250`.

        `verb` is the command in upper case, and `argument` is the text after it, or `""`.
        """

    def on_disconnect(self, session: Session) -> Awaitable[None] | None:
        """Called when the session has ended, as its last hook.

        What it returns is ignored. A client that left in a transaction has ended it:
        `session.transaction` is `None`.
        """


# Hooks of aiosmtpd, which nothing would call here: a rule that is left in one would guard nothing
_FOREIGN: Final = re.compile(r"handle_([A-Z]+|exception)|(ehlo|rset)_hook|auth_[A-Z0-9_]+")
_REPLACED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ehlo_hook": "on_hello",
        "handle_AUTH": "on_auth",
        "handle_DATA": "on_message",
        "handle_EHLO": "on_hello",
        "handle_HELO": "on_hello",
        "handle_MAIL": "on_mail",
        "handle_PROXY": "on_connect",
        "handle_QUIT": "on_disconnect",
        "handle_RCPT": "on_rcpt",
        "handle_RSET": "on_reset",
        "handle_STARTTLS": "on_tls",
        "handle_VRFY": "on_vrfy",
        "process_message": "on_message",
        "rset_hook": "on_reset",
    }
)


class Origin(NamedTuple):
    """Names the function behind a hook for errors."""

    option: str
    """The option that has the function."""
    function: Callable[..., object]


class Measures(Protocol):
    """Is what a handler adds to the metrics of its server."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many deliveries had each outcome, in this process; numbers that only grow."""

    async def levels(self) -> Mapping[str, Mapping[str, float]]:
        """Return what is held now, by the name of what holds it.

        Each has the number of deliveries by their state, and `oldest_due`: for how many seconds the
        oldest of them is due. Processes that hold the same thing return the same name.
        """


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Holds the hooks of an application, which come from a `Handler` or from plain functions."""

    by_name: Mapping[str, Callable[..., object]]
    """The functions to call, without `self`, by the name of the hook."""
    streams: bool = False
    """The value of `Handler.streams`."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """The functions behind hooks that are not methods, by the name of the hook."""
    measures: Measures | None = None
    silent: Mapping[str, Callable[[], bool]] = field(default_factory=dict)
    """By hook, a function; the hook is not called while it returns true."""

    def __contains__(self, name: str) -> bool:
        return name in self.by_name


def _hook_names() -> list[str]:
    return [name for name in vars(Handler) if name.startswith("on_")]


def _check_names(owner: type, members: Mapping[str, object]) -> None:
    """Raise `TypeError` for a method `on_...` that is not a hook, or is one of another server."""
    for name, value in members.items():
        is_value = hasattr(value, "__set__") or isinstance(value, cached_property)
        is_method = callable(value) or (hasattr(value, "__get__") and not is_value)
        if not is_method:
            continue
        if name.startswith("on_") and not hasattr(Handler, name):
            raise TypeError(f"{owner.__qualname__}.{name} is not a hook{_meant(name)}")
        if _FOREIGN.fullmatch(name) or (name == "process_message" and _is_of_smtpd(value)):
            whose = "smtpd" if name == "process_message" else "aiosmtpd"
            own = _REPLACED.get(name, "on_auth" if name.startswith("auth_") else "")
            advice = f"override {own} instead" if own else "ehlo has none for this; remove it"
            raise TypeError(f"{owner.__qualname__}.{name} is a hook of {whose}; {advice}")


def _is_of_smtpd(function: object) -> bool:
    """Return whether smtpd could call it: `process_message(self, peer, mailfrom, rcpttos, data)`.

    A helper of that name has other parameters.
    """
    try:
        inspect.signature(getattr(function, "__func__", function)).bind(*range(5))  # type: ignore[arg-type]  # it is callable, or a TypeError
    except (TypeError, ValueError):
        return False
    return True


def _meant(name: str) -> str:
    import difflib  # for this error alone

    close = difflib.get_close_matches(name, _hook_names(), 1, cutoff=0.7)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; rename it, or override one of {', '.join(_hook_names())}"


def callbacks_of_handler(handler: Handler) -> Callbacks:
    """Return the hooks that `handler` overrides in its class, a base class or the instance.

    Raises `TypeError` if one cannot be called with its arguments, or is not a hook.
    """
    if isinstance(handler, Composed):
        return handler.callbacks
    _check_names(type(handler), getattr(handler, "__dict__", {}))
    for base in type(handler).__mro__:  # which may have got methods since it was made
        _check_names(base, vars(base))
    bound = {name: getattr(handler, name) for name in _hook_names()}
    overridden = {
        name: call
        for name, call in bound.items()
        if getattr(call, "__func__", None) is not vars(Handler)[name]
    }
    for name, call in overridden.items():
        _, *arguments = inspect.signature(vars(Handler)[name]).parameters
        check_call(name, call, arguments)
    return Callbacks(overridden, streams=handler.streams)


def check_call(name: str, function: Callable[..., object], arguments: Sequence[str]) -> None:
    """Raise `TypeError` if `function` cannot be called with `arguments`, given by position."""
    if not callable(function):
        raise TypeError(f"{name} must be a function, not {function!r}")
    check_runs(name, function)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin that does not say what it takes
    try:
        signature.bind(*arguments)
    except TypeError as error:
        takes = ", ".join(arguments)
        raise TypeError(f"{name} ({place_of(function)}) must take ({takes}): {error}") from None


def check_runs(name: str, function: Callable[..., object]) -> None:
    """Raise `TypeError` for a function with `yield`, which a call does not run."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name} ({place_of(function)}) is a generator; write it without yield")


def name_of(function: Any) -> str:
    """Return the full name of a function, or of the class of another object that is called."""
    named = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None)  # a method of a built-in type has none
    return f"{module}.{named.__qualname__}" if module else str(named.__qualname__)


def place_of(function: Any) -> str:
    """Return the full name of a function with its file and line, if they are known."""
    function = inspect.unwrap(function)
    while isinstance(function, partial):
        function = inspect.unwrap(function.func)
    code = getattr(function, "__code__", getattr(type(function).__call__, "__code__", None))
    where = "" if code is None else f" at {code.co_filename}:{code.co_firstlineno}"
    return f"{name_of(function)}{where}"


def is_async(function: Callable[..., object]) -> bool:
    """Return whether `function` is `async def`, wraps or binds one, or has an async `__call__`.

    An `async def` that wraps a `def` is one, too, and an `AsyncMock`.
    """
    call = getattr(function, "__call__", None)  # noqa: B004  not a test whether it is callable
    several = function, inspect.unwrap(function), call
    return any(map(inspect.iscoroutinefunction, several)) or _is_marked(function)


def _is_marked(function: object) -> bool:
    """Return whether it says that it is `async def`, as an `AsyncMock` does before Python 3.12."""
    code = getattr(function, "__code__", None)
    return bool(getattr(code, "co_flags", 0) & inspect.CO_COROUTINE)


class Composed(Handler):
    """Has hooks that were put together: those of another handler, or functions, with more around.

    Example:

        callbacks = callbacks_of_handler(inner)
        outer = Composed(Callbacks({**callbacks.by_name, "on_reset": counted}))
    """

    def __init__(self, callbacks: Callbacks) -> None:
        self.callbacks: Callbacks = callbacks
        """The hooks, and no others."""
