"""A private PostgreSQL for tests: started once a process, on a socket in a directory of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from ehlo.queue.postgres import cable
from interop.peers import absent
from support.serving import DEADLINE

__all__ = ["Database", "PostgresServer", "database", "patient", "postgres_server"]

T = TypeVar("T")
# PostgreSQL refuses to run as root. Debian's package makes the first of these users
_USERS = ("postgres", "nobody")


def program(name: str) -> str:
    """Return the path of a program of PostgreSQL, also where Debian hides it."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = shutil.which(name) or (str(found[-1]) if found else None)
    if path is None:
        absent(f"{name} of PostgreSQL is not installed; .ci/run does that")
    return path


class PostgresServer:
    """A server that is started, killed and started again."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            known = {each.pw_name: each for each in pwd.getpwall()}
            user = next(known[name] for name in _USERS if name in known)
            os.chown(home, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._data = home / "data"
        self._process: subprocess.Popen[bytes] | None = None
        made = [program("initdb"), "-D", str(self._data), "-U", "ehlo", "-A", "trust"]
        subprocess.run(
            [*made, "-E", "UTF8", "--no-locale", "--no-sync"],
            check=True,
            cwd=home,
            stdout=subprocess.DEVNULL,
            **self._as,
        )
        lines = {
            "listen_addresses": "",
            "unix_socket_directories": str(home),
            "shared_buffers": "16MB",
            "log_min_messages": "warning",
            **settings,
        }
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in lines.items())

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, **parameters: str) -> str:
        query = "".join(f"&{name}={value}" for name, value in parameters.items())
        return f"postgresql://ehlo@/postgres?host={self.home}{query}"

    def start(self) -> None:
        """Start the server, and return when it accepts connections."""
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program("postgres"), "-D", str(self._data)],
                cwd=self.home,
                stdout=log,
                stderr=log,
                **self._as,
            )
        until = time.monotonic() + DEADLINE
        status = self._data / "postmaster.pid"
        while True:
            assert self._process.poll() is None, (self.home / "log").read_text()
            assert time.monotonic() < until, "PostgreSQL was not ready in time"
            with contextlib.suppress(OSError):
                if status.read_text().split("\n")[7:8] == ["ready   "]:
                    return
            threading.Event().wait(0.01)

    def start_again(self) -> None:
        """Start the server if it does not run."""
        if self._process is None or self._process.poll() is not None:
            self.start()

    def backends(self) -> list[int]:
        """Return the ids of all processes of the server that serve, or work for it."""
        return [int(pid) for pid in self._children().split()]

    def _children(self) -> str:
        return Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()

    def kill(self) -> None:
        """End all of its processes by SIGKILL, as a power failure would."""
        pids = [self.pid, *self.backends()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait(DEADLINE)
        until = time.monotonic() + DEADLINE
        while any(Path(f"/proc/{pid}").exists() for pid in pids[1:]):
            assert time.monotonic() < until
            threading.Event().wait(0.01)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop the server; SIGINT ends its connections first, and SIGQUIT is quick."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(DEADLINE)


class Database:
    """A schema of its own in a server, with a connection that a test looks through."""

    def __init__(self, server: PostgresServer, schema: str) -> None:
        self.server = server
        self.url = server.url(search_path=schema)
        self.schema = schema
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connection: Any = None
        self.execute(f"CREATE SCHEMA {schema}")

    def _do(self, work: Callable[[Any], Awaitable[T]]) -> T:
        async def do() -> T:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self.url)
            return await work(self._connection)

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(DEADLINE)

    def execute(self, statement: str) -> None:
        self._do(lambda connection: connection.execute(statement))

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._do(lambda connection: connection.fetch(query))]

    def rows(self, columns: str = "recipient, state") -> list[tuple[Any, ...]]:
        """Return the deliveries, with times in seconds, as `support.queueing.rows` does."""
        columns = re.sub(r"\b(due|accepted)\b", r"extract(epoch FROM \1)::float8", columns)
        return self.fetch(
            f"SELECT {columns} FROM ehlo_deliveries AS deliveries"  # noqa: S608  the test's
            " JOIN ehlo_messages AS messages ON number = message ORDER BY message, place"
        )

    def advance(self, seconds: float) -> None:
        """Let time pass for what is in the queue."""
        passed = f"interval '{seconds} seconds'"
        self.execute(
            f"UPDATE ehlo_deliveries SET due = due - {passed},"  # noqa: S608  the test's
            f" ended = ended - {passed};"
            f"UPDATE ehlo_messages SET accepted = accepted - {passed}"
        )

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(asyncpg.PostgresError, OSError):
                self.execute(f"DROP SCHEMA {self.schema} CASCADE")

            async def close() -> None:
                self._connection.terminate()

            asyncio.run_coroutine_threadsafe(close(), self._loop).result(DEADLINE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()


@contextlib.contextmanager
def private_server(**settings: str) -> Iterator[PostgresServer]:
    """Run a server, and stop it and delete all of it in the end."""
    program("initdb")
    home = Path(tempfile.mkdtemp(prefix="ehlo-pg-", dir="/tmp"))
    server = PostgresServer(home, **settings)
    try:
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server for all tests of a process, which none of them stops."""
    with private_server() as server:
        yield server


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Let a queue in this process give a database up only after the deadline.

    The clock of most tests stands still, so they would never try again.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LIMIT", "_CONNECT"):
            patch.setattr(cable, name, DEADLINE)
        yield


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A database for one test, with a queue that is `patient`."""
    found = Database(postgres_server, f"test_{time.monotonic_ns()}")
    with patient():
        yield found
    found.close()
