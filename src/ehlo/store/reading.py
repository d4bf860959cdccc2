"""Reading: a few threads, each with a connection of its own. No reader waits for a writer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final, TypeVar

from ehlo.sqlite.connecting import Database
from ehlo.sqlite.errors import StoreError, in_words
from ehlo.store.database import open_reader
from ehlo.store.heap import Heap

Answer = TypeVar("Answer")
LONGEST_READING: Final = 10.0
"""Seconds after which a search ends with an error: it holds one of few readers."""
_READERS: Final = 2  # threads
_STEPS: Final = 10_000  # of SQLite, from one look at the time to the next


class ReaderPool:
    """Runs functions that read, each with one state of the database."""

    def __init__(self, path: str, index: str, heap: Heap) -> None:
        self._path = path
        self._heap = heap
        self._index = index
        self._pool = ThreadPoolExecutor(_READERS, "ehlo store reader")
        self._idle: SimpleQueue[Database | None] = SimpleQueue()  # opened when they are needed
        for _ in range(_READERS):
            self._idle.put(None)

    async def do(self, read: Callable[[Database], Answer]) -> Answer:
        """Return what `read` returns. Raises `StoreError`."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self._run, read)
        except RuntimeError as error:
            raise StoreError(f"{self._path}: closed") from error

    def _run(self, read: Callable[[Database], Answer]) -> Answer:
        reader = self._idle.get()
        try:
            with in_words(self._path):
                reader = reader or open_reader(self._path, self._index, self._heap)
                until = time.monotonic() + LONGEST_READING
                reader.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
                reader.execute("BEGIN")
                try:
                    return read(reader)
                finally:
                    reader.set_progress_handler(None, _STEPS)
                    reader.execute("COMMIT")
        finally:
            self._idle.put(reader)

    def close(self) -> None:
        """Finish what is being read, and close the connections."""
        self._pool.shutdown()
        for _ in range(_READERS):
            reader = self._idle.get()
            if reader is not None:
                reader.close()
            self._idle.put(None)
