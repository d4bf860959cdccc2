"""`Verb`: a command as one row, and `Question`: what the server is asked in the name of one.

All that holds for a command stands in its row: when it may be sent, what its argument means, what
the server is asked, what an answer changes. The rows are in the other modules of this package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Generic, TypeAlias, TypeVar

from ehlo.protocol import reply as replies
from ehlo.protocol.conversation import Conversation
from ehlo.protocol.events import BodyDropped, Event
from ehlo.protocol.output import Rejected
from ehlo.protocol.reply import Reply
from ehlo.protocol.state import State

S = TypeVar("S")

SESSION: Final = frozenset({State.HELLO, State.READY, State.MAIL, State.RCPT, State.BDAT})
"""The states in which commands are read."""

_WITHIN: Final = frozenset({State.MAIL, State.RCPT, State.BDAT, State.ENDED})  # a transaction


def _nothing(_event: Event) -> tuple[object, ...]:
    return ()


def _itself(subject: Any) -> Any:
    return subject


def _yes(_conversation: Conversation) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Question(Generic[S]):
    """A question to the server about a subject, such as the `Address` of a sender.

    `accept` and `reject` change the conversation, and return the reply to send, another question,
    or `None`. `accept` gets the server's own words or `None`. An event with one field is made of
    the subject, if the server wants to be asked; any other event is the subject itself.

    Raises `ValueError` for a row that lacks something or contradicts itself, so that the module
    that has it cannot be imported.
    """

    name: str
    """The command in upper case; `""` is the connection, `"."` the end of a message."""
    _: KW_ONLY
    to: State | None
    """The state after acceptance; `None` leaves it as it is."""
    accept: Callable[[Conversation, S, Reply | None], Outcome]
    reject: Callable[[Conversation, S, Reply], Outcome] | None = None
    event: type[Event] | None = None
    """The event that asks the server; `None` accepts without asking."""
    hook: str = ""
    """The method of `Handler` that answers; `""` if the server has its own way."""
    arguments: Callable[[Any], tuple[object, ...]] = _nothing
    """Return what the hook gets after the session, for an event."""
    always: bool = False
    """Whether the server is asked even if it has no hook; otherwise the answer is yes."""
    ends: bool = False
    """Whether acceptance ends the transaction."""
    propose: Callable[[Conversation, S], None] | None = None
    """Show the subject to the server before it is asked; `reject` takes it back."""
    made_of: Callable[[S], Event] = _itself
    """Make the event of a subject; by default the event of one field, or the subject itself."""

    def __post_init__(self) -> None:
        if (self.event is None) != (self.reject is None):
            raise ValueError(f"{self.name}: event and reject go together")
        if self.event is not None and not self.always and not self.hook:
            raise ValueError(f"{self.name}: no hook answers {self.event.__name__}")
        if self.always and self.event is None:
            raise ValueError(f"{self.name}: always asked, without an event")
        event: Any = self.event
        if event is not None and self.made_of is _itself and len(dataclasses.fields(event)) == 1:
            object.__setattr__(self, "made_of", event)

    def ask(self, conversation: Conversation, subject: S) -> Ask:
        """Return the question, for the server to answer."""
        if self.propose is not None:
            self.propose(conversation, subject)
        return self, subject


@dataclass(frozen=True, slots=True)
class Verb(Question[S]):
    """A command that a client may send.

    `parse` gets the argument and returns the subject, or a `Reply` that answers at once, or `None`
    if nothing is left to do. A verb without an event is accepted at once.

    Example:

        Verb("NOOP", since=SESSION, to=None, parse=parse_noop, accept=accept_noop)
    """

    _: KW_ONLY
    since: AbstractSet[State]
    """The states in which it may be sent."""
    parse: Callable[[Conversation, str], S | Reply | None]
    usual: Callable[[Conversation, bytes], S | Reply | None] | None = None
    """Parse a packet that is this command in its plain form, faster than `parse` does.

    It returns what `parse` does, or `None` for any other packet.
    """
    usual_is_whole: bool = False
    """Whether `usual` itself does what `verbs.hear` does for such a row.

    It counts the command as idle, and checks whether it exists.
    """
    fail: Callable[[Conversation, str, Reply], Reply | None] | None = None
    """Called with argument and reply when the core itself rejects; return the reply to send now."""
    elsewhere: Mapping[State, Reply | Callable[[Conversation], Reply]] = field(default_factory=dict)
    """The replies in states where it may not be sent, if not `BAD_SEQUENCE`."""
    progress: bool = False
    """Whether it advances delivery, and so is not counted as idle."""
    before_tls: bool = False
    """Whether it may be sent before TLS where TLS is required."""
    before_login: bool = False
    """Whether it may be sent before a login where one is required."""
    lmtp: bool | None = None
    """Whether it is for LMTP only, or for SMTP only; `None` is both."""
    trusted: bool = False
    """Whether only trusted clients may send it."""
    exists: Callable[[Conversation], bool] = _yes
    """Return whether this server has it; otherwise 502."""
    works: Callable[[Conversation], bool] = _yes
    """Return whether it would do something now; HELP lists it then."""
    simple: bool = field(init=False, repr=False)
    """Whether state and gates alone decide if it may be sent."""

    def __post_init__(self) -> None:
        super(Verb, self).__post_init__()
        if not self.name or not self.name.isupper() or not self.since:
            raise ValueError(f"{self.name!r}: a verb has a name in upper case, and states")
        both = self.since & self.elsewhere.keys()
        if both:
            raise ValueError(f"{self.name}: legal, and out of sequence: {sorted(map(repr, both))}")
        simple = self.lmtp is None and not self.trusted and self.exists is _yes
        object.__setattr__(self, "simple", simple)
        # What `Connection.hear` does not look at
        skipped = (not self.progress or self.ends or not simple) and not self.usual_is_whole
        if self.usual and (skipped or self.to is None or len(self.name) != 4):
            raise ValueError(f"{self.name}: its plain form would skip what `hear` does for it")

    def after(self, state: State) -> State:
        """Return the state that follows on `state` when it is accepted."""
        if self.to is None:
            return State.READY if self.ends and state in _WITHIN else state
        return self.to


AnyQuestion: TypeAlias = Question[Any]
AnyVerb: TypeAlias = Verb[Any]


def take(conversation: Conversation, question: AnyQuestion, subject: object) -> Ask | Told:
    """Return the question if the server wants to be asked; otherwise accept."""
    if question.event in conversation.asks or question.always:
        return question.ask(conversation, subject)
    return accept(conversation, question, subject, None)


def accept(
    conversation: Conversation, question: AnyQuestion, subject: object, answer: Reply | None
) -> Ask | Told:
    """Accept; return what to tell the server, or the question that follows."""
    outcome = question.accept(conversation, subject, answer)
    dropped = conversation.end_transaction() if question.ends else None
    if question.to is not None:
        conversation.state = question.to
    if outcome is None:
        return dropped
    if isinstance(outcome, Reply):
        conversation.output.reply(outcome, question.name)
        return dropped
    return take(conversation, *outcome)


def reject(
    conversation: Conversation, question: AnyQuestion, subject: object, answer: Reply
) -> Ask | Told:
    """Reject, and send the reply, or return the question that follows."""
    assert question.reject is not None  # noqa: S101  a row with an event has it
    outcome = question.reject(conversation, subject, answer)
    if isinstance(outcome, Reply):
        about = Rejected(conversation.transaction, subject)
        conversation.output.reply(outcome, question.name, about)
        return None
    return outcome and take(conversation, *outcome)


# -- what several rows do --------------------------------------------------------------------------


def any_argument(_conversation: Conversation, argument: str) -> str:
    """Parse an argument that changes nothing."""
    return argument


def agree(_conversation: Conversation, _subject: object, answer: Reply | None) -> Reply:
    """Accept in the words of the hook, or with 250."""
    return answer or replies.OK


def say(_conversation: Conversation, _subject: object, answer: Reply) -> Reply:
    """Reject in the words of the hook; nothing changes."""
    return answer


Ask = tuple[AnyQuestion, object]
"""A question and its subject."""

Outcome = Reply | Ask | None

Told = BodyDropped | None
"""What the server is told of an acceptance."""
