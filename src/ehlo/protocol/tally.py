"""What is told of a connection that is not asked: what was said, to count it; and refusals.

One tally may serve many connections. What the client has said never becomes a name in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import MutableSequence
from typing import Final

from ehlo.protocol.reply import Reply

__all__ = ["UNKNOWN", "Tally"]

UNKNOWN: Final = "unknown"
"""The verb of a line that is no command that we know."""


class Tally:
    """Takes notes of nothing. Derive from it to count, and to hear of refusals.

    `said` is given the verb of each command and the code of each reply, in turn. To append to a
    list is the cheapest thing that can be done for each of them; who has the list counts later.
    """

    __slots__ = ("said",)

    def __init__(self, said: MutableSequence[str | int] | None = None) -> None:
        self.said = deque[str | int](maxlen=0) if said is None else said

    def refused(self, verb: str, reply: Reply, *, wholly: bool = True) -> None:
        """A 4xx or 5xx was said to `verb`: `""` is the connection, `"."` the end of a message.

        In LMTP a message may be refused for some recipients only: it is not refused `wholly` then.
        """

    def failed(self, error: Exception) -> None:
        """A parser or a mechanism of a user's own failed: a `ParserError` or `MechanismError`."""
