"""Entries: what is put into a queue, and what comes out of it, as immutable values.

Texts of addresses and sessions are JSON without control characters (see `facts`). Times are
relative where a consumer reads them, since each database has a clock of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from ehlo.protocol.address import Address

State = Literal["waiting", "running", "held", "failed", "dead"]
"""What a delivery is: `failed` was ended by a 5xx, `dead` by its attempts or its age."""

Act = Literal["retry", "hold", "drop"]
"""What a person does with deliveries."""

Levels = Mapping[str, float]
"""The number of deliveries by state, and `oldest_due`: for how many seconds the oldest is due."""

ENDED: Final = "the process ended during the attempt"
PLACES: Final = 1 << 20
"""Maximum recipients of one message.

The number of a delivery is that of its message times this, plus the place of its recipient.
"""


Envelope = tuple[Address, Sequence[Address]]
"""A sender and recipients."""


class Arrival(NamedTuple):
    """Describes a message that was accepted, without its body; the texts are JSON."""

    id: str
    sender: str
    recipients: Sequence[str]
    facts: str
    size: int
    trace: bytes
    seed: bytes
    """What its digest begins with, before the body."""
    envelope: Envelope | None = None
    """The addresses, unless they have parameters: these may be anything until they are JSON."""


class Due(NamedTuple):
    """A delivery that was claimed; `attempts` counts this attempt, too."""

    number: int
    recipient: str
    attempts: int


class Claimed(NamedTuple):
    """A message that was claimed, with all of its recipients that are due."""

    number: int
    id: str
    digest: str
    accepted: float
    """Seconds since the epoch."""
    sender: str
    facts: str
    size: int
    trace: bytes
    body: bytes | None
    """Its body; `None` if it is so large that it is read when the attempt begins."""
    place: str | None
    """Where a large body is: the name of its file (SQLite), `row` or `chunks` (PostgreSQL)."""
    age: float
    """Seconds since it was accepted."""
    deliveries: list[Due]
    envelope: Envelope | None = None
    """The sender, and a path for each delivery, where they need not be read."""


class Haul(NamedTuple):
    """Holds the result of one claim."""

    claimed: list[Claimed]
    next_in: float | None
    """Seconds until the next delivery is due that was not claimed; `None` if there is none."""
    died: list[tuple[str, str]]
    """The ids and recipients of deliveries that have used up their attempts in crashes."""


class Settled(NamedTuple):
    """Describes the end of an attempt for one delivery. Without a `state`, it is done."""

    number: int
    state: State | None = None
    wait: float = 0.0
    """Seconds until the next attempt of one that waits."""
    error: str = ""
    uncounted: bool = False
    """Whether the attempt does not count, since it was not the message that ended it."""


class Listed(NamedTuple):
    """A delivery, as a person sees it."""

    id: str
    accepted: float
    sender: Address
    size: int
    recipient: Address
    state: State
    due: float | None
    attempts: int
    error: str
