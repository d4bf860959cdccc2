"""Random sessions by both ways of a packet: replies, events, messages and counts are the same.

The sessions are cut into pieces, which `pytest -n` runs at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from protocol.sessions import plan, play
from robustness.scale import full

PIECES = full(20, short=1)
SESSIONS = full(5_000, short=2_000)  # of a piece


@pytest.mark.parametrize("piece", range(PIECES))
def test_random_sessions_are_the_same_both_ways(piece: int, tell: Callable[[str], None]) -> None:
    usual = 0
    for seed in range(piece * SESSIONS, (piece + 1) * SESSIONS):
        usual += play(plan(Random(seed)))  # noqa: S311  not for secrets
    tell(f"{SESSIONS} sessions, {usual} packets by the usual way")
    assert usual > 2 * SESSIONS
