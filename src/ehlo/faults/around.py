"""A handler around a handler: each stage of a session is struck first, then the hook is called.

`Faults` has the function that strikes. A hook without a stage is called as before; one that has no
stage and is not overridden is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Protocol

from ehlo.calling import call_hook
from ehlo.handler import Callbacks, Composed, Handler, is_async
from ehlo.message import Message
from ehlo.protocol.address import Address
from ehlo.protocol.reply import Disconnect, Reject, Reply
from ehlo.session import Session

Stage = Literal["connect", "helo", "starttls", "auth", "mail", "rcpt", "data", "end"]
"""Where a fault strikes: `helo` is HELO, EHLO or LHLO, and `end` the end of a message."""
MailPath = str | Address
Action = Reply | Disconnect | None


class Verdict(NamedTuple):
    """Says what happens now: wait for `delay` seconds, then act.

    Example:

        >>> faults = ehlo.Faults()
        >>> fault = faults.delay("rcpt", 2.5)
        >>> faults.strike("rcpt", to="a@example.com").delay
        2.5
    """

    delay: float = 0.0
    """Seconds to wait before anything else."""
    action: Action = None
    """The rejection to send, a `Disconnect` to close without one, or `None` to go on."""
    refused: Mapping[str, Reply] = MappingProxyType({})
    """The rejections for some of the recipients, where each gets its own (LMTP)."""


class Strike(Protocol):
    """Returns what happens now, and counts it; see `Faults.strike`."""

    def __call__(  # noqa: D102  the class says it
        self,
        at: Stage,
        *,
        mail_from: MailPath | None = None,
        to: MailPath | Iterable[MailPath] | None = None,
        each: bool = False,
    ) -> Verdict: ...


def around(strike: Strike, is_idle: Callable[[], bool], callbacks: Callbacks) -> Handler:
    """Return a handler that calls `strike` before the hooks that have a stage.

    Hooks that do nothing else are not called while `is_idle` returns true.
    """
    hooks = dict(callbacks.by_name)
    silent = dict.fromkeys(_STAGES.keys() - hooks.keys(), is_idle)
    for name, (stage, paths) in _STAGES.items():
        inner = hooks.get(name)
        if inner is not None or stage != "auth":  # without a hook, no login is offered
            hooks[name] = _struck(strike, stage, paths, inner)
    hooks["on_message"] = _struck_message(strike, is_idle, callbacks.by_name["on_message"])
    return Composed(replace(callbacks, by_name=hooks, silent=silent))


def _struck(
    strike: Strike, stage: Stage, paths: _Paths, inner: Callable[..., Any] | None
) -> Callable[..., Any]:
    async def hook(*arguments: Any) -> object:
        mail_from, to = paths(*arguments)
        await _act(strike(stage, mail_from=mail_from, to=to))
        return None if inner is None else await call_hook(inner, arguments)

    return hook if inner is None else functools.wraps(inner)(hook)


def _struck_message(
    strike: Strike, is_idle: Callable[[], bool], inner: Callable[..., Any]
) -> Callable[..., Any]:
    is_on_loop = is_async(inner)

    @functools.wraps(inner)
    async def hook(session: Session, message: Message) -> object:
        if is_on_loop and is_idle():
            return await inner(session, message)
        recipients, each = message.recipients, message.per_recipient
        verdict = strike("end", mail_from=message.sender, to=recipients, each=each)
        refused, action = verdict.refused, verdict.action
        if refused and isinstance(action, Reply):
            await _act(verdict._replace(action=None))
            return {str(path): refused.get(str(path), action) for path in recipients}
        await _act(verdict)
        for path, reply in refused.items():
            message.refuse(path, reply)
        recipients[:] = [path for path in recipients if str(path) not in refused]
        return await call_hook(inner, (session, message))

    return hook


_Paths = Callable[..., tuple[MailPath | None, MailPath | Sequence[MailPath] | None]]


def _none(*_arguments: object) -> tuple[None, None]:
    return None, None


def _of_mail(_session: Session, sender: Address, _params: object) -> tuple[Address, None]:
    return sender, None


def _of_rcpt(
    session: Session, recipient: Address, _params: object
) -> tuple[Address | None, Address]:
    transaction = session.transaction
    return None if transaction is None else transaction.sender, recipient


def _of_data(session: Session) -> tuple[Address | None, Sequence[Address]]:
    transaction = session.transaction
    return (None, ()) if transaction is None else (transaction.sender, transaction.recipients)


_STAGES: Final[Mapping[str, tuple[Stage, _Paths]]] = MappingProxyType(
    {
        "on_connect": ("connect", _none),
        "on_hello": ("helo", _none),
        "on_starttls": ("starttls", _none),
        "on_auth": ("auth", _none),
        "on_secret": ("auth", _none),
        "on_mail": ("mail", _of_mail),
        "on_rcpt": ("rcpt", _of_rcpt),
        "on_data": ("data", _of_data),
    }
)
"""The hooks that have a stage, but `on_message`, with what their arguments say of the mail."""


async def _act(verdict: Verdict) -> None:
    """Wait, then raise what the client gets, if there is anything."""
    if verdict.delay:
        import asyncio  # which programs have not that only use the rules

        await asyncio.sleep(verdict.delay)
    if isinstance(verdict.action, Reply):
        raise Reject.of(verdict.action)
    if verdict.action is not None:
        raise Disconnect
