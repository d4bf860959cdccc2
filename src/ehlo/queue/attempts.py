"""Attempts: one call of the handler for a message of the queue, and what its outcome means."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple

from ehlo.handler import name_of
from ehlo.message import Message, Spool
from ehlo.protocol.address import Address
from ehlo.protocol.reply import Disconnect, Reject, Reply
from ehlo.queue.entries import Claimed, Due, Envelope, Settled
from ehlo.queue.facts import decode_address
from ehlo.queue.timing import LONGEST, Persistence
from ehlo.server.observing.failures import escaped, log_failure
from ehlo.server.results import MEANINGS, answer_of
from ehlo.server.system.threads import Threads
from ehlo.session import Session, current_session

OnMessage = Callable[..., Any]

_MEANING: Final = MEANINGS["on_message"]
_LONGEST: Final = 1_000  # characters of an error
_ATTEMPTS: Final[Callable[[Due], int]] = attrgetter("attempts")

logger: logging.Logger = logging.getLogger("ehlo.queue")


class Retry(Exception):  # noqa: N818  the name says what it asks for
    """Raised by a handler that a queue calls, to be called again later for the same mail.

    `after` is the time until then in seconds; by default, the queue's own waits apply. An attempt
    counts either way. Outside of a queue, the client gets a 451, and sends the mail again.

    Example:

        async def handler(message):
            if not await ledger.is_open():
                raise ehlo.Retry(after=3600)
    """

    def __init__(self, after: float | None = None, text: str = "") -> None:
        super().__init__(text or "the handler asked for another attempt")
        if after is not None and not after >= 0:
            raise ValueError(f"after: {after!r}: write seconds, 0 or more")
        self.after: float | None = after
        """Seconds until the next attempt; `None` for the queue's own wait."""


class QueuedMessage(Message):
    """Describes a message from a queue, as its handler gets it.

    `recipients` are those that are still due. `refuse(recipient, reply)` settles one of them: a 5xx
    ends its delivery as failed, a 4xx tries it again. `state` is empty.

    Example:

        async def handler(message):
            if await archive.has(message.digest):   # tried before, and not acknowledged
                return
            await archive.put(message.digest, message.data)
    """

    __slots__ = ("accepted", "attempt", "digest")

    digest: str
    """A hash of envelope and body, in hexadecimal: equal if a client sends the same mail again."""
    attempt: int
    """The number of this attempt, from 1; the highest of its recipients."""
    accepted: float
    """When the message was accepted, in seconds since the epoch."""


class Attempt(NamedTuple):
    """A message that is to be delivered, and who it is for."""

    claimed: Claimed
    session: Session
    message: QueuedMessage
    paths: Sequence[Address]
    """The recipients, as `claimed.deliveries` has them."""


def prepare(claimed: Claimed, body: bytes | Spool, session: Session, *, streams: bool) -> Attempt:
    """Return the attempt that a claim is for."""
    sender, paths = claimed.envelope or _read_envelope(claimed)
    message = QueuedMessage(
        claimed.id,
        sender,
        [*paths],  # the handler's own
        claimed.trace,
        [body] if isinstance(body, bytes) else [],
        spool=None if isinstance(body, bytes) else body,
        streams=streams,
        per_recipient=True,
    )
    message.digest = claimed.digest
    message.accepted = claimed.accepted
    message.attempt = max(map(_ATTEMPTS, claimed.deliveries))
    return Attempt(claimed, session, message, paths)


def _read_envelope(claimed: Claimed) -> Envelope:
    due = [decode_address(each.recipient) for each in claimed.deliveries]
    return decode_address(claimed.sender), due


class Outcome(NamedTuple):
    """Holds what the handler has returned or raised."""

    result: object = None
    error: BaseException | None = None


DONE: Final = Outcome()
"""The outcome of a handler that has returned `None`, as most do."""


@dataclass(slots=True, eq=False)
class Running:
    """An attempt that is under way; times are the consumer's."""

    claimed: Claimed
    born: float
    """When the message was accepted."""
    until: float
    attempt: Attempt | None = None
    """`None` while a large body is read."""
    task: asyncio.Task[None] | None = None
    late: bool = False


Begun = tuple[Running, Attempt]
"""An attempt that can be made now, and what is noted of it."""


def is_among(claimed: Claimed, others: Iterable[Running]) -> bool:
    """Return whether one of the deliveries is under way in other attempts."""
    numbers = {due.number for each in others for due in each.claimed.deliveries}
    return not numbers.isdisjoint(due.number for due in claimed.deliveries)


async def call_async(handler: OnMessage, attempt: Attempt) -> Outcome:
    """Call an `async def` handler; must be awaited in a context of its own."""
    current_session.set(attempt.session)
    try:
        result = await handler(attempt.session, attempt.message)
        return DONE if result is None else Outcome(result)
    except BaseException as error:  # noqa: BLE001  also SystemExit, which would end the loop
        return Outcome(error=error)


def call_in_thread(
    threads: Threads, handler: OnMessage, attempt: Attempt, ended: Callable[[Outcome], object]
) -> None:
    """Call a `def` handler in a thread; `ended` is called in the running loop."""
    loop = asyncio.get_running_loop()

    def done(result: Outcome | None, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(ended, result or Outcome(error=error))

    threads.submit(partial(_call, handler, attempt), done)


def _call(handler: OnMessage, attempt: Attempt) -> Outcome:
    context = copy_context()
    context.run(current_session.set, attempt.session)
    try:
        result = context.run(handler, attempt.session, attempt.message)
        return DONE if result is None else Outcome(result)
    except BaseException as error:  # noqa: BLE001  whatever it is, the thread goes on
        return Outcome(error=error)


def settled_by(
    outcome: Outcome,
    attempt: Attempt,
    handler: OnMessage,
    age: float,
    patience: Persistence,
    counts: Counter[str],
) -> list[Settled]:
    """Return the outcome of each delivery of an attempt that has ended, `age` in seconds.

    They are counted in `counts`, and logged unless they are a success.
    """
    message = attempt.message
    if outcome is DONE and not message.refusals:  # mostly
        counts["delivered"] += len(attempt.paths)
        return [Settled(each.number) for each in attempt.claimed.deliveries]
    try:
        settled = _settled_by(outcome, attempt, handler, age, patience)
    except Exception as error:  # noqa: BLE001  a text or a key of the handler's may raise
        what = f"the outcome of {name_of(handler)} cannot be read"
        log_failure(logger, error, "%s: id=%s", what, message.id, users=True)
        settled = _settled_by(Outcome(error=Retry(text=what)), attempt, handler, age, patience)
    _note_all(settled, attempt, counts)
    return settled


def _settled_by(
    outcome: Outcome, attempt: Attempt, handler: OnMessage, age: float, patience: Persistence
) -> list[Settled]:
    message = attempt.message
    answers = _answers(outcome, attempt, handler)
    after = outcome.error.after if isinstance(outcome.error, Retry) else None
    found = []
    for due, path in zip(attempt.claimed.deliveries, attempt.paths, strict=True):
        answer = message.refusals.get(str(path)) or answers.get(str(path), answers[""])
        if answer is None:
            found.append(Settled(due.number))
            continue
        error = escaped(answer if isinstance(answer, str) else str(answer))[:_LONGEST]
        if isinstance(answer, Reply) and answer.code >= 500:
            found.append(Settled(due.number, "failed", error=error))
        else:
            found.append(deferred(due, error, age, patience, after))
    return found


def deferred(
    due: Due, error: str, age: float, patience: Persistence, after: float | None = None
) -> Settled:
    """Return the outcome of a delivery that is tried again, `after` seconds, unless it is dead."""
    if end := patience.ends(due.attempts, age):
        return Settled(due.number, "dead", error=f"{error} ({end})")
    wait = patience.wait_after(due.attempts, due.number) if after is None else min(LONGEST, after)
    return Settled(due.number, "waiting", float(wait), error)


def _note_all(settled: Sequence[Settled], attempt: Attempt, counts: Counter[str]) -> None:
    for each, path in zip(settled, attempt.paths, strict=True):
        if each.state is None:
            counts["delivered"] += 1
            continue
        tried_again = each.state == "waiting"
        counts["retried" if tried_again else each.state] += 1
        logger.log(
            logging.WARNING if tried_again else logging.ERROR,
            "delivery %s: id=%s to=%s attempts=%d error=%s",
            *("deferred" if tried_again else each.state, attempt.message.id, path),
            *(attempt.message.attempt, each.error),
        )


_Answer = Reply | str | None
"""A rejection, the text of another failure, or `None` for a delivery that is done."""


def _answers(outcome: Outcome, attempt: Attempt, handler: OnMessage) -> Mapping[str, _Answer]:
    """Return the answers by recipient; that of all others is at `""`."""
    error = outcome.error
    if error is not None:
        return {"": _answer_of_error(error, attempt, handler)}
    result = outcome.result
    if not isinstance(result, Mapping):
        return {"": _answer(result, attempt, handler)}
    by_path = {str(path): _answer(each, attempt, handler) for path, each in result.items()}
    for stranger in by_path.keys() - set(map(str, attempt.paths)):
        if by_path.pop(stranger) is not None:
            _note(attempt, handler, "a mapping that rejects an address that is not a recipient")
            return {"": "the handler rejected an address that is not a recipient"}
    return {"": None, **by_path}


def _answer(result: object, attempt: Attempt, handler: OnMessage) -> _Answer:
    answer = answer_of(_MEANING, result, lambda text: _note(attempt, handler, text))
    if isinstance(answer, Disconnect):
        return "the handler asked to disconnect"
    return answer if answer is not None and answer.refuses else None


def _answer_of_error(error: BaseException, attempt: Attempt, handler: OnMessage) -> _Answer:
    if isinstance(error, Reject | Retry | Disconnect):
        error.__traceback__ = None  # as in `failure_of` of the server
        if isinstance(error, Reject):
            return error.reply
        return str(error) or "the handler asked to disconnect"
    log_failure(logger, error, "%s failed: id=%s", name_of(handler), attempt.message.id, users=True)
    return f"{type(error).__name__}: {error}"


def _note(attempt: Attempt, handler: OnMessage, text: str) -> None:
    logger.error(
        "%s returned %s; return %s: id=%s",
        *(name_of(handler), text, _MEANING.returns, attempt.message.id),
    )
