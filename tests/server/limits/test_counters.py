"""What is counted for an address: exact for the busy, and bounded however many there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ehlo.server.limits.counters import Attempts, MemoryCounter, Rate

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


def test_the_worst_is_a_burst_at_the_end_of_a_stretch_and_another_by_the_end_of_the_next() -> None:
    clock = FakeClock()
    rate = Rate(MemoryCounter(clock), 200, 60.0)
    clock.now += 59.9
    assert sum(rate.admit("a") for _ in range(1000)) == 200
    later = 0
    for _ in range(598):
        clock.now += 0.1
        later += sum(rate.admit("a") for _ in range(10))
    assert 190 <= later <= 200


def test_an_attempt_under_way_takes_the_place_of_a_failure() -> None:
    attempts = Attempts(MemoryCounter(FakeClock()), 2, HOUR)
    attempts.note("a")
    end = attempts.begin("a")
    assert not attempts.may_begin("a")
    assert not attempts.spent("a")
    assert attempts.may_begin("b")
    end()
    assert attempts.may_begin("a")


def test_who_is_exempt_or_without_a_limit_may_attempt_whatever_is_under_way() -> None:
    exempt = Attempts(MemoryCounter(FakeClock()), 1, HOUR)
    exempt.begin(None)()
    exempt.begin(None)
    assert exempt.may_begin(None)
    unlimited = Attempts(MemoryCounter(FakeClock()), 0, HOUR)
    unlimited.begin("a")
    assert unlimited.may_begin("a")
