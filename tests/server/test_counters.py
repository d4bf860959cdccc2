"""Counts per address: exact for busy addresses, and bounded in memory for any number of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ehlo.server.limits import Attempts, MemoryCounter, Rate

HOUR = 3600.0


class FakeClock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now = 36_000.0

    def __call__(self) -> float:
        return self.now


def test_a_count_fades_with_its_window() -> None:
    clock = FakeClock()
    counter = MemoryCounter(clock)
    assert counter.add("a", 10, HOUR) == 10
    assert counter.add("a", 2, HOUR) == 12
    clock.now += HOUR
    assert counter.add("a", 0, HOUR) == 12
    clock.now += HOUR / 2
    assert counter.add("a", 1, HOUR) == 7
    clock.now += 2 * HOUR
    assert counter.add("a", 0, HOUR) == 0


def test_looking_at_a_count_uses_no_memory() -> None:
    counter = MemoryCounter(FakeClock())
    assert counter.add("a", 0, HOUR) == 0
    assert len(counter._by_key) == 0  # noqa: SLF001  tests the memory


def test_a_hundred_thousand_addresses_are_bounded_and_push_out_no_busy_one() -> None:
    counter = MemoryCounter(FakeClock(), most=1000)
    counter.add("busy", 20, HOUR)
    for number in range(100_000):
        counter.add(f"address {number}", 1, HOUR)
    assert len(counter._by_key) == 1000  # noqa: SLF001  as above
    assert counter.add("busy", 0, HOUR) == 20


@given(st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.integers(1, 3), st.floats(0, 900))))
def test_a_count_is_never_more_than_the_total_and_keys_are_bounded(
    done: list[tuple[str, int, float]],
) -> None:
    clock = FakeClock()
    counter = MemoryCounter(clock, most=5)
    total = dict.fromkeys("abcdefghijkl", 0)
    for key, amount, later in done:
        clock.now += later
        total[key] += amount
        assert amount <= counter.add(key, amount, HOUR) <= total[key]
        assert len(counter._by_key) <= 5  # noqa: SLF001  as above


def test_a_rate_rejects_beyond_its_limit_and_rejections_do_not_count() -> None:
    clock = FakeClock()
    rate = Rate(MemoryCounter(clock), 3, 60.0)
    assert [rate.admit("a") for _ in range(6)] == [True] * 3 + [False] * 3
    assert rate.admit("b")
    assert all(rate.admit(None) for _ in range(10))
    clock.now += 120
    assert rate.admit("a")


def test_a_rate_of_zero_is_unlimited() -> None:
    rate = Rate(MemoryCounter(FakeClock()), 0, 60.0)
    assert not rate.spent("a")
    assert all(rate.admit("a") for _ in range(10))


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 70)), max_size=30))
def test_no_window_has_more_than_twice_the_limit(tries: list[tuple[int, float]]) -> None:
    clock = FakeClock()
    rate = Rate(MemoryCounter(clock), 10, 60.0)
    admitted: list[float] = []
    for count, later in tries:
        clock.now += later
        admitted += [clock.now for _ in range(count) if rate.admit("a")]
    for begin in admitted:
        assert sum(begin <= at < begin + 60 for at in admitted) <= 20


def test_two_bursts_at_the_ends_of_two_stretches_are_the_worst_case() -> None:
    clock = FakeClock()
    rate = Rate(MemoryCounter(clock), 200, 60.0)
    clock.now += 59.9
    assert sum(rate.admit("a") for _ in range(1000)) == 200
    later = 0
    for _ in range(598):
        clock.now += 0.1
        later += sum(rate.admit("a") for _ in range(10))
    assert 190 <= later <= 200


def test_an_event_counts_for_its_window_at_least() -> None:
    """It is not forgotten where a stretch ends, a moment after it."""
    clock = FakeClock()
    counter = MemoryCounter(clock)
    clock.now = 599.9
    counter.add("a", 1, 600.0)
    for clock.now in (599.9, 600.1, 900.0, 1199.8):
        assert counter.add("a", 0, 600.0) == 1
    clock.now = 1200.0
    assert counter.add("a", 0, 600.0) == 0


def test_an_attempt_under_way_counts_as_a_failure() -> None:
    attempts = Attempts(MemoryCounter(FakeClock()), 2, HOUR)
    attempts.note("a")
    attempts.begin("a")
    assert not attempts.may_begin("a")
    assert not attempts.spent("a")
    assert attempts.may_begin("b")
    attempts.end("a", failed=False)
    assert attempts.may_begin("a")
    attempts.begin("a")
    attempts.end("a", failed=True)
    assert attempts.spent("a")


def test_an_exempt_or_unlimited_address_may_always_begin_an_attempt() -> None:
    exempt = Attempts(MemoryCounter(FakeClock()), 1, HOUR)
    assert exempt.may_begin(None)
    unlimited = Attempts(MemoryCounter(FakeClock()), 0, HOUR)
    unlimited.begin("a")
    assert unlimited.may_begin("a")
