"""What is counted for an address: exact for the busy, and bounded however many there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ehlo.server.limits.counters import MemoryCounter, Rate

HOUR = 3600.0


class FakeClock:
    """Seconds that pass when a test says so."""

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


def test_to_ask_takes_no_memory() -> None:
    counter = MemoryCounter(FakeClock())
    assert counter.add("a", 0, HOUR) == 0
    assert len(counter._by_key) == 0  # noqa: SLF001  the memory is what is tested


def test_a_hundred_thousand_addresses_are_bounded_and_push_out_no_busy_one() -> None:
    counter = MemoryCounter(FakeClock(), most=1000)
    counter.add("busy", 20, HOUR)
    for number in range(100_000):
        counter.add(f"address {number}", 1, HOUR)
    assert len(counter._by_key) == 1000  # noqa: SLF001  likewise
    assert counter.add("busy", 0, HOUR) == 20


@given(st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.integers(1, 3), st.floats(0, 900))))
def test_what_is_counted_is_never_more_than_what_was_done_and_keys_are_bounded(
    done: list[tuple[str, int, float]],
) -> None:
    clock = FakeClock()
    counter = MemoryCounter(clock, most=5)
    total = dict.fromkeys("abcdefghijkl", 0)
    for key, amount, later in done:
        clock.now += later
        total[key] += amount
        assert amount <= counter.add(key, amount, HOUR) <= total[key]
        assert len(counter._by_key) <= 5  # noqa: SLF001  likewise


def test_a_rate_refuses_beyond_its_limit_and_what_it_refuses_does_not_count() -> None:
    clock = FakeClock()
    rate = Rate(MemoryCounter(clock), 3, 60.0)
    assert [rate.admit("a") for _ in range(6)] == [True] * 3 + [False] * 3
    assert rate.admit("b")
    assert all(rate.admit(None) for _ in range(10))
    clock.now += 120
    assert rate.admit("a")


def test_no_limit_is_no_limit() -> None:
    rate = Rate(MemoryCounter(FakeClock()), 0, 60.0)
    assert not rate
    assert all(rate.admit("a") for _ in range(10))
