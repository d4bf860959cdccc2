"""Results: what the value that a hook returns means, in one table.

Each hook has a row, and a hook without one has `ASKED`. A result that its row does not name fails
closed: the client gets the row's `trouble`, and the log names the function. Only `on_message` is
different: it has returned, so the message is stored, and rejecting it would deliver it twice.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import AsyncGeneratorType, GeneratorType, MappingProxyType
from typing import Final

from ehlo.functions import Checked
from ehlo.message import Message
from ehlo.protocol import reply as replies
from ehlo.protocol.address import Address
from ehlo.protocol.auth.mechanism import Secret, checked_secret
from ehlo.protocol.reply import Disconnect, Reject, Reply

Answer = Reply | Disconnect | list[Reply | None] | None
"""The answer to an event; a list has one reply per recipient, in LMTP."""

Note = Callable[[str], None]
"""Called for a result that is wrong, with a description of it that has nothing of its content."""

_POSITIVE: Final = range(200, 300)
_NEGATIVE: Final = range(400, 600)
# A code with a text behind it. Three digits alone may well be an id: str(cursor.lastrowid)
_REPLY: Final = re.compile(r"\s*([2-5])[0-9]{2}(?:[ \t]|-[^\n]*\n)")
_BEGINNING: Final = 600  # of text, which may be a whole message
_MOST_LOOKED_AT: Final = 1000  # items of a list, which may be a store of all messages
_TEXT: Final = (str, bytes, bytearray, memoryview)


@dataclass(frozen=True, slots=True)
class Meaning:
    """Says what the results of a hook mean."""

    of: Mapping[bool | None, Reply | None]
    """The answer for those of `None`, `True` and `False` that have one; `None` accepts."""
    returns: str
    """What the hook may return, as the log says it."""
    positive: range = _POSITIVE
    """The codes that a `Reply` may accept with."""
    negative: range = _NEGATIVE
    """The codes that a `Reply` may reject with."""
    trouble: Reply = replies.TROUBLE
    """The reply for any other result, and for an exception."""
    stored: bool = False
    """Whether any other result accepts, unless it reads as a rejection."""
    accepts_none: bool = field(init=False)
    """Whether `None` accepts, as in nearly all."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "accepts_none", self.of.get(None, self.trouble) is None)


def _asked(no: Reply, *, trouble: Reply = replies.TROUBLE, positive: range = _POSITIVE) -> Meaning:
    """Return the row of a hook that accepts by `None` or `True`, and rejects by `False`."""
    answers = {None: None, True: None, False: no}
    return Meaning(answers, "None, True, False or a Reply", positive, trouble=trouble)


ASKED: Final = _asked(replies.REFUSED)
"""The row of a hook that has none of its own."""

_TOLD: Final = Meaning(
    {None: None, True: None, False: None}, "None", positive=range(0), negative=range(0)
)
"""The row of a hook that is told what has happened, and has no answer."""

MEANINGS: Final[Mapping[str, Meaning]] = MappingProxyType(
    {
        "on_connect": _asked(replies.CLIENT_REFUSED, trouble=replies.CONNECT_TROUBLE),
        "on_starttls": Meaning(
            {None: None, True: None, False: replies.TLS_UNAVAILABLE},
            "None, True, False or a Reply that rejects",
            positive=range(0),
            trouble=replies.TLS_UNAVAILABLE,
        ),
        "on_tls": _asked(replies.TLS_REFUSED, trouble=replies.CONNECT_TROUBLE),
        "on_rcpt": _asked(replies.MAILBOX_UNAVAILABLE),
        "rcpt_handler": Meaning(
            {True: None, False: replies.MAILBOX_UNAVAILABLE}, "True, False, a Reply or a Reject"
        ),
        "on_data": _asked(replies.MESSAGE_REFUSED, positive=range(354, 355)),
        "on_message": Meaning(
            {None: None, True: None, False: replies.MESSAGE_REFUSED},
            "None, True, False, a queue id (str) or a Reply",
            stored=True,
        ),
        "on_auth": Meaning(
            {None: replies.BAD_CREDENTIALS, False: replies.BAD_CREDENTIALS},
            "the user's identity (a non-empty str), None, False or a Reply that rejects",
            positive=range(0),
            trouble=replies.AUTH_TROUBLE,
        ),
        "auth_handler": Meaning(
            {None: replies.BAD_CREDENTIALS, False: replies.BAD_CREDENTIALS},
            "True, False or None, and raise Reject for a reply of your own",
            positive=range(0),
            negative=range(0),
            trouble=replies.AUTH_TROUBLE,
        ),
        "mechanism": Meaning({}, "a step", trouble=replies.AUTH_TROUBLE),
        "on_secret": Meaning(
            {},
            "a password, ScramKeys, a list of ScramKeys, or None",
            trouble=replies.AUTH_TROUBLE,
        ),
        "on_replied": _TOLD,
        "on_disconnect": _TOLD,
    }
)
"""The rows by the name of their hook, or of the option that has a function instead."""


def answer_of(meaning: Meaning, result: object, note: Note) -> Reply | Disconnect | None:
    """Return the answer that a hook's result means."""
    if result is None or result is True or result is False:  # 1 == True, and is not meant here
        if result in meaning.of:
            return meaning.of[result]
    elif isinstance(result, Reply) and (
        result.code in meaning.negative or result.code in meaning.positive
    ):
        return result
    elif isinstance(result, Disconnect):
        if meaning.negative:
            return result
    elif meaning.stored:
        return _answer_of_stored(meaning, result, note)
    note(_described(result))
    return meaning.trouble


def _answer_of_stored(meaning: Meaning, result: object, note: Note) -> Reply | None:
    """Return the answer for a message that is stored; text is a queue id."""
    if isinstance(result, str) and result and _REPLY.match(result[:_BEGINNING]) is None:
        try:
            return replies.queued_as(result)
        except ValueError:
            note("a str that cannot be sent as a queue id")
            return None
    rejects = _reads_as_rejection(result)
    is_text = isinstance(result, _TEXT)
    wrong = f"a {type(result).__name__} that is not a queue id" if is_text else _described(result)
    note(wrong if rejects else f"{wrong} (the message was accepted)")
    return meaning.trouble if rejects else None


def _reads_as_rejection(result: object) -> bool:
    """Return whether the message is not accepted, or not stored since the function has not run."""
    if isinstance(result, Mapping | list | tuple):  # of answers, one for each recipient
        values = result.values() if isinstance(result, Mapping) else result
        return any(map(_rejects, islice(values, _MOST_LOOKED_AT)))
    return _rejects(result)


def _rejects(result: object) -> bool:
    if isinstance(result, _TEXT):
        start = result[:_BEGINNING]
        text = start if isinstance(start, str) else bytes(start).decode("latin-1")
        found = _REPLY.match(text)
        return found is not None and found[1] in "45"
    if isinstance(result, Reply):
        return result.refuses
    never_ran = isinstance(result, Awaitable | GeneratorType | AsyncGeneratorType)
    return never_ran or result is False or isinstance(result, Reject)


def _described(result: object) -> str:
    kind = type(result).__name__
    if isinstance(result, Reject):
        return "a Reject instead of raising it"
    if isinstance(result, Reply):
        return f"a Reply that does not fit, {result.code}"
    if isinstance(result, Awaitable):
        if inspect.iscoroutine(result):
            result.close()  # nothing awaits it
        return f"{kind}, which is not awaited (await it, in an async def)"
    if isinstance(result, GeneratorType | AsyncGeneratorType):
        return f"{kind}, which has not run (write the function without yield)"
    return repr(result) if isinstance(result, bool | None) else kind


def answers_of(
    message: Message,
    recipients: Sequence[Address],
    meaning: Meaning,
    result: object,
    note: Note,
) -> Answer:
    """Return the answer for the result of `on_message` in LMTP: one reply, or one per recipient."""
    given: dict[str, Reply | None] = {}
    for_all: Reply | None = None
    by_recipient = isinstance(result, Mapping)
    for key, value in result.items() if isinstance(result, Mapping) else [("", result)]:
        answer = answer_of(meaning, value, note)
        if isinstance(answer, Disconnect):
            return answer  # for all of them, since they have one connection
        if by_recipient:
            given[str(key)] = answer
        else:
            for_all = answer
    strangers = [given.pop(name) for name in given.keys() - set(map(str, recipients))]
    if strangers:
        note(f"a mapping with {len(strangers)} keys that are not recipients")
        if any(answer is not None and answer.refuses for answer in strangers):
            return meaning.trouble  # somebody is to be rejected, and it is not known who
    given.update(message.refusals)
    if not given or (for_all is not None and for_all.refuses):
        return for_all
    return [given.get(str(recipient), for_all) for recipient in recipients]


def identity_of(meaning: Meaning, result: object, note: Note) -> str | Reply | Disconnect:
    """Return the identity that a login has, by the result of the hook, or the rejection.

    Text that reads as a reply is no identity: `535 Wrong password` must not log anybody in.
    """
    if isinstance(result, Checked):
        username, result = result
        if result is True:
            return username or replies.BAD_CREDENTIALS
        return answer_of(meaning, result, note) or meaning.trouble
    if isinstance(result, str) and result:
        if _REPLY.match(result[:_BEGINNING]) is None:
            return result
        note("a str that reads as a reply")
        return meaning.trouble
    return answer_of(meaning, result, note) or meaning.trouble


def secret_of(meaning: Meaning, result: object, note: Note) -> Secret | Reply:
    """Return the secret that is the result of `on_secret`, or the reply if it is none."""
    try:
        return checked_secret(result)
    except (TypeError, ValueError):
        note(_described(result))
        return meaning.trouble
