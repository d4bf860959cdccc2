"""The code that README.md and docs/ show, run as their readers run it.

A block of Python is a whole file, which its first line names (`# app.py`). A reader saves it in a
directory and runs it there; so does `Reader`, with two differences: servers listen on free ports,
and where a program would serve until it is stopped, the test acts as its clients instead.
"""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import shlex
import shutil
import smtplib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from email.message import EmailMessage
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ehlo import Listener, Peer, Server
from support.certificates import Certificates

__all__ = [
    "PAGES",
    "Block",
    "Reader",
    "Served",
    "a_mail",
    "blocks",
    "commands",
    "lines_of",
    "reader",
    "send",
    "shown",
]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DEADLINE = 120.0  # seconds for a program that a test runs: long enough on a machine that is busy

_FENCED = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_NAMED = re.compile(r"# ([\w/.-]+\.\w+)$", re.MULTILINE)

Served = Callable[[Server], None]
"""What a test does with a server, as its clients."""


class Block(NamedTuple):
    """A block of code or of text on a page."""

    page: str
    """The name of the page, without its suffix."""
    language: str
    code: str
    name: str
    """The name of the file in its first line, or `""`."""


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in their order."""
    found = []
    for _, language, indented in _FENCED.findall(page.read_text()):
        code = textwrap.dedent(indented)
        named = _NAMED.match(code)
        found.append(Block(page.stem, language, code, named[1] if named else ""))
    return found


def lines_of(text: str) -> list[str]:
    """Return the lines of a shell, joined where one continues another."""
    return re.sub(r"(\\|(?<=\|))\n\s*", " ", text).splitlines()


def commands(text: str) -> list[list[str]]:
    """Return the commands in lines of a shell, as words; pipes and lists are several commands."""
    found = []
    for line in lines_of(text):
        words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        words.whitespace_split = True
        for is_sign, group in groupby(words, lambda word: set(word) <= set("|&;<>")):
            command = [] if is_sign else list(group)
            while command and (command[0] == "sudo" or "=" in command[0]):
                command.pop(0)
            if command:
                found.append(command)
    return found


def shown(page: str, named: str, language: str = "text", containing: str = "") -> str:
    """Return the text that a page shows behind a block: what it prints.

    `app.py#2` is the second block with the name app.py.
    """
    name, _, number = named.partition("#")
    found = _of(page)
    at = [index for index, block in enumerate(found) if block.name == name][int(number or 1) - 1]
    behind = (block.code for block in found[at:] if block.language == language)
    return next(code for code in behind if containing in code)


def _of(page: str) -> list[Block]:
    (path,) = (path for path in PAGES if path.stem == page)
    return blocks(path)


class Reader:
    """Saves the blocks of pages in a directory, and runs them there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sockets = directory
        """Where Unix sockets are."""
        self.served: Served | None = None
        """What happens while a program serves."""
        self.servings = 0
        self.started: list[Server] = []
        self.contexts = ExitStack()

    def save(self, page: str, *names: str, port: int = 0) -> Path:
        """Write blocks of a page; return the path of the last one.

        `app.py#2` is the second block with the name app.py. `port` replaces the page's 2525.
        """
        for named in names:
            name, _, number = named.partition("#")
            found = [block.code for block in _of(page) if block.name == name]
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            code = found[int(number or 1) - 1]
            path.write_text(code.replace("2525", str(port)) if port else code)
        return path

    def run(self, page: str, name: str, served: Served | None = None) -> dict[str, Any]:
        """Run a block as a program, and `served` while it serves; return its names."""
        path = self.save(page, name)
        self.served, count = served, self.servings
        found = runpy.run_path(str(path), run_name="__main__")
        assert served is None or self.servings > count, f"{name} served nothing"
        return found

    def load(self, page: str, name: str) -> Any:
        """Import a block, as `ehlo serve` does, and return the module."""
        return import_module(self.save(page, name).stem)

    def serve(self, page: str, name: str, served: Served, **options: Any) -> None:
        """Serve what `ehlo serve FILE` finds in a block: `server`, `app` or `handler`."""
        module = self.load(page, name)
        names = [each for each in ("server", "app", "handler") if hasattr(module, each)]
        found = getattr(module, names[0])
        server = found if isinstance(found, Server) else Server(found)
        server.configure(**options)
        with server.in_thread():
            served(server)

    def command(self, *words: str | Path, env: dict[str, str] | None = None) -> str:
        """Run a program of Python in the directory; return what it prints. It must succeed."""
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.directory,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=DEADLINE,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def shell(self, line: str, address: Peer) -> subprocess.CompletedProcess[str]:
        """Run a line of a page in a shell, with the addresses of the page replaced by `address`."""
        where = str(address)
        named = r"127\.0\.0\.1:\d+|m(?:x|ail)\.example\.com(?::\d+)?"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", re.sub(named, where, line)],
            cwd=self.directory,
            env={**os.environ, "PATH": path, "EHLO_SMTP": where},
            capture_output=True,
            timeout=DEADLINE,
            encoding="utf-8",
        )

    def pytest(self, *plugins: str) -> str:
        """Run pytest in the directory; return what it prints. All tests must pass."""
        warnings = ("-W", "error", "-W", "ignore:The EMAIL_")  # Django 6.1 prefers MAILERS
        options = ("-q", *warnings, "-p", "no:cacheprovider", "--rootdir", self.directory)
        loaded = [f"-p{each}" for each in plugins]
        env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they take seconds to start
        return self.command("-m", "pytest", *options, *loaded, self.directory, env=env)

    def certificate(self, certificates: Certificates, name: str = "server") -> None:
        """Write a certificate and its key, as server.crt and server.key."""
        shutil.copy(certificates.cert_file, self.directory / f"{name}.crt")
        shutil.copy(certificates.key_file, self.directory / f"{name}.key")

    def enter(self, context: AbstractContextManager[object]) -> None:
        """Enter a context, which is left when the test ends."""
        self.contexts.enter_context(context)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Read pages in an empty directory, with servers that listen on free ports."""
    reading = Reader(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    begin, wait = Server.start, Server.wait_closed

    async def start(self: Server, sock: Any = None) -> None:
        reading.started.append(self)
        if sock is None:
            _move(self, reading.sockets)
        await begin(self, sock)

    def listen_and_serve(self: Server, **_options: Any) -> None:
        with self.in_thread():
            _serve(self)

    async def wait_closed(self: Server) -> None:
        if reading.served is None:
            await wait(self)
        else:
            await asyncio.to_thread(_serve, self)

    def _serve(server: Server) -> None:
        reading.servings += 1
        if reading.served is not None:
            reading.served(server)

    monkeypatch.setattr(Server, "start", start)
    monkeypatch.setattr(Server, "listen_and_serve", listen_and_serve)
    monkeypatch.setattr(Server, "wait_closed", wait_closed)
    with reading.contexts:
        yield reading


def _move(server: Server, directory: Path) -> None:
    """Let a server listen on free ports and in `directory`."""

    def moved(addr: str) -> str:
        return f"unix:{directory / Path(addr).name}" if addr.startswith("unix:") else "127.0.0.1:0"

    listeners = server.options.listeners
    if listeners:
        moving = [Listener(moved(str(each.addr)), **each.overrides) for each in listeners]
        server.configure(listeners=moving)
    else:
        server.configure(addr=moved(str(server.options.addr)))


def a_mail(
    to: str = "bob@example.com", subject: str = "Lunch", text: str = "At noon?"
) -> EmailMessage:
    """Return a mail from alice@example.com."""
    mail = EmailMessage()
    mail["From"] = "alice@example.com"
    mail["To"] = to
    mail["Subject"] = subject
    mail.set_content(text)
    return mail


def send(server: Server, mail: EmailMessage | None = None, number: int = 0) -> dict[str, int]:
    """Send a mail; return the codes of the recipients that were rejected, or of the message."""
    with smtplib.SMTP(*server.addresses[number][:2], timeout=DEADLINE) as client:
        try:
            refused = client.send_message(mail or a_mail())
        except smtplib.SMTPRecipientsRefused as error:
            refused = error.recipients
        except smtplib.SMTPDataError as error:
            refused = {"": (error.smtp_code, b"")}
    return {address: code for address, (code, _) in refused.items()}
