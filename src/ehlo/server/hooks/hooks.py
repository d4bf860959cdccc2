"""A handler's hooks, looked at once when the server starts, and what their results mean."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ehlo.handler import Callbacks, is_async
from ehlo.message import Message
from ehlo.protocol import reply as replies
from ehlo.protocol.address import Address
from ehlo.protocol.reply import Reject, Reply
from ehlo.server.observing.journal import about

__all__ = [
    "Answer",
    "Hook",
    "Hooks",
    "Outcome",
    "answer_of",
    "answers_of",
    "failure_of",
    "identity_of",
    "queue_answer_of",
]

Answer = Reply | list[Reply | None] | None
"""A list has one for each recipient, in LMTP."""

Outcome = Callable[[Any], Answer]
"""Turns a hook's result into the answer; raises what is then taken for the hook's own failure."""

logger = logging.getLogger("ehlo.handler")


class Hook(NamedTuple):
    """A hook that the handler has."""

    name: str
    call: Callable[..., Any]
    is_async: bool
    needs_turn: bool = True
    """Whether it is one of those of which `max_handlers` are under way at once."""


class Hooks(NamedTuple):
    """`None` for what the handler does not override: it costs nothing then."""

    startup: Hook | None
    shutdown: Hook | None
    connect: Hook | None
    hello: Hook | None
    tls: Hook | None
    auth: Hook | None
    secret: Hook | None
    mail: Hook | None
    rcpt: Hook | None
    data: Hook | None
    message: Hook | None
    replied: Hook | None
    vrfy: Hook | None
    reset: Hook | None
    command: Hook | None
    disconnect: Hook | None

    @classmethod
    def of(cls, callbacks: Callbacks) -> Hooks:
        """Return the hooks that an application has."""
        return cls(*(_hook(callbacks, f"on_{field}") for field in cls._fields))


def _hook(callbacks: Callbacks, name: str) -> Hook | None:
    call = callbacks.by_name.get(name)
    return None if call is None else Hook(name, call, is_async(call))


def answer_of(result: object) -> Reply | None:
    """What a hook's result says. Raises `TypeError` for what is no answer."""
    if result is None or isinstance(result, Reply):
        return result
    raise _no_answer("a hook returns None or a Reply", result)


def queue_answer_of(result: object) -> Reply | None:
    """What `on_message` returned: a `str` is a queue id. Raises `TypeError`, `ValueError`."""
    if result is None:
        return None
    return replies.queued_as(result) if isinstance(result, str) else answer_of(result)


def answers_of(message: Message, recipients: Sequence[Address], result: object) -> Answer:
    """What `on_message` returned in LMTP: for all, or a mapping from recipient to answer.

    Raises `TypeError` and `ValueError` as `queue_answer_of` does, and for a stranger in a mapping.
    """
    given: dict[str, Reply | None] = {}
    for_all: Reply | None = None
    if isinstance(result, Mapping):
        given = {str(recipient): queue_answer_of(answer) for recipient, answer in result.items()}
    else:
        for_all = queue_answer_of(result)
    strangers = given.keys() - set(map(str, recipients))
    if strangers:
        raise ValueError(f"on_message answers for {len(strangers)} that are no recipients")
    given.update(message.refusals)
    if not given or (for_all is not None and for_all.refuses):
        return for_all
    return [given.get(str(recipient), for_all) for recipient in recipients]


def identity_of(result: object) -> str | Reply:
    """What `on_auth` returned: who it is, or the refusal. Raises `TypeError`."""
    if result is None or result is False:
        return replies.BAD_CREDENTIALS
    if isinstance(result, str) and result:
        return result
    if isinstance(result, Reply) and result.refuses:
        return result
    raise _no_answer("on_auth returns an identity or None", result)


def _no_answer(what: str, result: object) -> TypeError:
    if inspect.iscoroutine(result):
        result.close()  # of a `def` that should have been an `async def`: nobody awaits it
    return TypeError(f"{what}, not {type(result).__name__}")


def failure_of(error: BaseException, hook: Hook, session_id: str, trouble: Reply) -> Reply:
    """What a hook's exception says: a `Reject` its reply; all else is a bug, and is logged."""
    if isinstance(error, Reject):
        return error.reply
    about(logger, session_id).error("%s failed", hook.name, exc_info=error)
    return trouble
