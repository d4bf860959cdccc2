"""malloc is set once, and returns free memory regularly while a server runs."""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ehlo import Server
from ehlo.server.system import machine
from support.program import Start
from support.program import start as start


class Library:
    """A C library that records its calls."""

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


def test_malloc_is_set_and_returns_free_memory_regularly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "_TRIM_EVERY", 0.001)

    async def serve() -> Library:
        third = asyncio.Event()
        library = Library(third)
        monkeypatch.setattr(machine, "_glibc", lambda: library)
        with machine.tended_malloc(asyncio.get_running_loop()):
            await asyncio.wait_for(third.wait(), 60.0)
        count = len(library.trimmed)
        await a_while()
        assert len(library.trimmed) == count  # and no more when it is over
        return library

    library = asyncio.run(serve())
    assert [parameter for parameter, _ in library.set] == [-1, -3, -8]
    assert library.trimmed[:3] == [0, 0, 0]
    assert not library.held  # what was taken out of the cache has been freed
    assert {24, 520, 1032} <= set(library.freed)


def no_such_library(_name: object) -> None:
    raise OSError("Dynamic loading not supported")


@pytest.mark.parametrize(
    "ctypes",
    [
        None,  # importing it fails, as where `_ctypes` is missing
        SimpleNamespace(PyDLL=no_such_library),  # a static musl
        SimpleNamespace(PyDLL=lambda _name: SimpleNamespace()),  # no malloc_trim
    ],
    ids=["no-ctypes", "static", "musl"],
)
def test_without_glibc_nothing_is_set(monkeypatch: pytest.MonkeyPatch, ctypes: object) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", ctypes)
    monkeypatch.setattr(machine, "_TRIM_EVERY", 0.001)

    async def serve() -> None:
        with machine.tended_malloc(asyncio.get_running_loop()):
            await a_while()

    asyncio.run(serve())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_c_library_here_accepts_it() -> None:
    library = machine._glibc()  # noqa: SLF001  no public name leads to the real one
    assert library is not None
    assert library.mallopt(-3, 16_777_216) == 1
    machine._exchange_cached(library)  # noqa: SLF001  as above
    assert library.malloc_trim(0) in (0, 1)


# Prints how many page faults 100 times five blocks of 100 KB take, before and afterwards
FAULTS = """
import resource
from ehlo.server.system import machine

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        blocks = [b"x" * 102_400 for _ in range(5)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
machine.adapt_malloc()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("own", [False, True], ids=["default", "set-by-the-user"])
def test_glibc_keeps_the_pages_of_bodies_unless_it_was_set(own: bool) -> None:
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "131072"} if own else os.environ
    command = [sys.executable, "-c", FAULTS]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    before, after = map(int, printed.split())
    assert before > 2_000  # up to 125 pages each time
    assert (after > 2_000) is own


def test_each_run_of_a_server_adapts_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    monkeypatch.setattr(machine, "adapt_malloc", lambda: calls.append(None))

    async def serve() -> None:
        async with Server(lambda *_: None, addr="127.0.0.1:0"):
            assert calls

    asyncio.run(serve())


# Prints whether malloc and the garbage collector are set, by way of the real functions that serve
PROGRAM = """
import contextlib, gc, os
import ehlo
from ehlo.server.system import machine

machine.tended_malloc = lambda loop: contextlib.nullcontext(os.write(1, b"set\\n"))

class Handler(ehlo.Handler):
    async def on_startup(self, server):
        if gc.get_freeze_count() > 10_000:
            os.write(1, b"frozen\\n")
        os.write(1, b"serving\\n")
        server.close()

    async def on_message(self, session, message):
        pass

if __name__ == "__main__":
    ehlo.listen_and_serve("127.0.0.1:0", Handler())
"""


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        (["app.py"], ["serving"]),
        (
            ["-m", "ehlo", "serve", "app:Handler", "--addr", "127.0.0.1:0"],
            ["set", "frozen", "serving"],
        ),
    ],
    ids=["listen_and_serve", "command-line"],
)
def test_malloc_and_collector_are_set_by_the_command_line_only(
    start: Start, tmp_path: Path, command: list[str], printed: list[str]
) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    program = start(*command, cwd=tmp_path)
    assert program.wait() == 0
    assert program.out.text.split() == printed


def test_malloc_and_collector_are_set_in_workers(start: Start, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM.replace("server.close()", ""))
    command = ["serve", "app:Handler", "--addr", "127.0.0.1:0", "--workers", "2"]
    program = start("-m", "ehlo", *command, cwd=tmp_path)
    for _ in range(2):
        program.out.until("serving")
    assert program.stop() == 0
    assert sorted(program.out.text.split()) == [*2 * ["frozen"], *2 * ["serving"], *2 * ["set"]]
