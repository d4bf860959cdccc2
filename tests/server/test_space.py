"""Memory and disk that sessions share: claims wait for smaller ones, and sums are bounded."""

from __future__ import annotations

import threading

import pytest

from ehlo.server.space import Claim, Disk, Memory, Stored

LIMIT = 100


class Claims:
    """Claims memory, and knows which claims were granted after they had waited, in order."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.granted: list[str] = []

    def claim(self, name: str, size: int, key: str | None = None) -> Claim:
        claim = self._memory.claim(size, key, lambda: self.granted.append(name))
        assert claim is not None
        return claim


# -- memory --------------------------------------------------------------------------------------


def test_a_claim_is_granted_at_once_where_there_is_memory() -> None:
    memory = Memory(LIMIT)
    claims = Claims(memory)
    claim = claims.claim("all", LIMIT)
    assert claim.granted
    assert (claims.granted, memory.held, memory.claims) == ([], LIMIT, [])


def test_a_claim_of_more_than_there_ever_is_is_none() -> None:
    assert Memory(LIMIT).claim(LIMIT + 1, None, lambda: None) is None


def test_nothing_is_reserved_while_a_claim_waits_and_then_it_is_granted() -> None:
    memory = Memory(LIMIT)
    claims = Claims(memory)
    assert memory.reserve(60)
    claims.claim("large", 50)
    assert not memory.reserve(1)
    assert not memory.has(1)
    memory.release(60)
    assert (claims.granted, memory.held) == (["large"], 50)
    assert memory.reserve(1)


def test_a_smaller_claim_does_not_wait_for_a_larger_one() -> None:
    memory = Memory(LIMIT)
    claims = Claims(memory)
    memory.take(70)
    claims.claim("large", 90)
    claims.claim("small", 20)
    assert claims.granted == ["small"]
    claims.claim("middle", 60)
    memory.release(70)
    assert claims.granted == ["small", "middle"]


def test_an_address_that_claims_much_waits_for_the_others() -> None:
    memory = Memory(LIMIT)
    claims = Claims(memory)
    held = [claims.claim("", 30, "greedy") for _ in range(3)]
    claims.claim("greedy", 30, "greedy")
    claims.claim("other", 40, "other")  # less than 120
    assert claims.granted == []
    for claim in held:
        claim.end()
        memory.release(30)
    assert claims.granted == ["other", "greedy"]


def test_what_an_address_has_claimed_counts_until_it_ends() -> None:
    memory = Memory(LIMIT)
    claims = Claims(memory)
    claims.claim("", 50, "busy").end()  # the bytes stay reserved
    memory.take(50)
    claims.claim("busy", 20, "busy")
    claims.claim("exempt", 30)
    memory.release(20)
    assert claims.granted == ["busy"]


def test_a_claim_that_is_cancelled_lets_the_next_one_through() -> None:
    memory = Memory(LIMIT)
    claims = Claims(memory)
    memory.take(60)
    large = claims.claim("large", 45, "a")
    claims.claim("small", 10, "b")
    assert claims.granted == ["small"]
    claims.claim("last", 20, "b")  # 30 with the small one
    claims.claim("larger", 50, "b")
    large.end()
    assert claims.granted == ["small", "last"]


def test_no_claim_waits_for_what_clients_send_ahead() -> None:
    memory = Memory(LIMIT)
    memory.count_ahead(90)
    assert not memory.reserve(20)
    assert Claims(memory).claim("", 20).granted
    assert memory.held == 110


def test_what_lacks_is_what_is_claimed_and_not_on_its_way() -> None:
    memory = Memory(LIMIT)
    assert memory.lacking < 0
    memory.take(90)
    assert memory.lacking == 90 - memory.comfortable
    Claims(memory).claim("", 50)
    assert memory.lacking == 40
    memory.leaving += 30
    assert memory.lacking == 10


# -- disk ----------------------------------------------------------------------------------------


def test_an_address_has_as_much_of_the_disk_as_it_leaves_free() -> None:
    disk = Disk(LIMIT)
    assert disk.reserve("first", 50)
    assert not disk.reserve("first", 1)
    assert disk.reserve("second", 25)
    assert not disk.reserve("second", 1)
    assert disk.reserve("third", 12)
    assert disk.reserve(None, 13)  # an exempt client may have all of it
    assert not disk.reserve(None, 1)
    assert disk.held == LIMIT


def test_what_is_released_is_free_again() -> None:
    disk = Disk(LIMIT)
    stored = Stored(disk, "address")
    assert stored.grow(30)
    assert stored.grow(20)
    assert not stored.grow(1)
    stored.release()
    stored.release()
    assert disk.held == 0
    assert Stored(disk, "address").grow(50)


def test_files_may_be_closed_in_any_thread() -> None:
    disk = Disk(LIMIT)
    files = [Stored(disk, "address") for _ in range(50)]
    assert all(stored.grow(1) for stored in files)
    threads = [threading.Thread(target=stored.release) for stored in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert disk.held == 0


@pytest.mark.parametrize("key", [None, "address"])
def test_on_no_disk_there_is_room_for_nothing(key: str | None) -> None:
    assert not Disk(0).has(key, 1)
