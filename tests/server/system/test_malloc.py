"""malloc is set once, and asked to give back what is free for as long as a server runs."""

from __future__ import annotations

import asyncio
import platform

import pytest

from ehlo.server.system import malloc


class Library:
    """A C library that says what it was asked."""

    def __init__(self, third: asyncio.Event) -> None:
        self.set: list[tuple[int, int]] = []
        self.held: dict[int, int] = {}  # blocks, and their sizes
        self.freed: list[int] = []
        self._blocks = 0
        self.trimmed: list[int] = []
        self._third = third

    def mallopt(self, parameter: int, value: int) -> int:
        self.set.append((parameter, value))
        return 1

    def malloc(self, size: int) -> int:
        self._blocks += 1
        self.held[self._blocks] = size
        return self._blocks

    def free(self, block: int) -> None:
        self.freed.append(self.held.pop(block))

    def malloc_trim(self, pad: int) -> int:
        self.trimmed.append(pad)
        if len(self.trimmed) == 3:
            self._third.set()
        return 1


async def a_while() -> None:
    after = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, after.set_result, None)
    await after


def test_malloc_is_set_and_freed_memory_given_back_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(malloc, "_TRIM_EVERY", 0.001)

    async def serve() -> Library:
        third = asyncio.Event()
        library = Library(third)
        monkeypatch.setattr(malloc, "_glibc", lambda: library)
        with malloc.tended(asyncio.get_running_loop()):
            await asyncio.wait_for(third.wait(), 10.0)
        count = len(library.trimmed)
        await a_while()
        assert len(library.trimmed) == count  # and no more when it is over
        return library

    library = asyncio.run(serve())
    assert [parameter for parameter, _ in library.set] == [-1, -3, -8]
    assert library.trimmed[:3] == [0, 0, 0]
    assert not library.held  # what was taken out of the cache has been freed
    assert {24, 520, 1032} <= set(library.freed)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc, "_TRIM_EVERY", 0.001)
    monkeypatch.setattr(malloc, "_glibc", lambda: None)

    async def serve() -> None:
        with malloc.tended(asyncio.get_running_loop()):
            await a_while()

    asyncio.run(serve())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_c_library_here_takes_it() -> None:
    library = malloc._glibc()  # noqa: SLF001  what is behind it is not ours
    assert library.mallopt(-3, 16_777_216) == 1
    malloc._exchange_cached(library)  # noqa: SLF001  likewise
    assert library.malloc_trim(0) in (0, 1)
