"""Random sessions by both ways of a packet: replies, events, messages and counts are the same."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from protocol.sessions import plan, play
from robustness.scale import full

SESSIONS = full(100_000, short=2_000)


def test_random_sessions_are_the_same_both_ways(tell: Callable[[str], None]) -> None:
    usual = 0
    for seed in range(SESSIONS):
        usual += play(plan(Random(seed)))  # noqa: S311  not for secrets
    tell(f"{SESSIONS} sessions, {usual} packets by the usual way")
    assert usual > 2 * SESSIONS
