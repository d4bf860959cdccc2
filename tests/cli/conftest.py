"""Fixtures: programs, certificates, and a directory with modules to serve."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.account import open_house as open_house
from support.manager import manager as manager
from support.program import start as start
from support.serving import certificates as certificates
from support.serving import loop_name as loop_name

APP = """
import ehlo

def function(remote_addr, mail_from, rcpt_tos, data):
    print("function", mail_from, rcpt_tos, data.startswith(b"Received: from "), flush=True)

async def coroutine(remote_addr, mail_from, rcpt_tos, data):
    print("coroutine", mail_from, rcpt_tos, flush=True)

def only_bob(remote_addr, mail_from, rcpt_to):
    return rcpt_to.startswith("bob@")

def login(remote_addr, mechanism, username, password, shared):
    return mechanism == "PLAIN" and (username, password) == (b"alice", b"secret")

def log_line(remote_addr, verb, line):
    print("line", verb, line, flush=True)

class Handler(ehlo.Handler):
    def __init__(self, name="class"):
        self.name = name

    async def on_message(self, session, message):
        print(self.name, message.sender, *message.recipients, flush=True)

class Quoting(Handler):
    async def on_message(self, session, message):
        raise ValueError(message.body.decode())

class Needy(Handler):
    def __init__(self, database):
        pass

class Silent(ehlo.Handler):
    pass

class Unlucky(Handler):
    def on_startup(self, server):
        raise OSError(2, "no database")

instance = Handler("instance")
server = ehlo.Server(function, addr="127.0.0.1:0", appname="MyApp", max_size=1000)
number = 3

class place:
    function = function
"""


@pytest.fixture
def here(tmp_path: Path, modules_in: Callable[[Path], Path]) -> Path:
    """A directory with `app.py` in it, and with modules that cannot be imported."""
    return modules_in(tmp_path)


@pytest.fixture(scope="session")
def modules_in() -> Callable[[Path], Path]:
    """Return a function that writes these modules to a directory."""
    return write_modules


def write_modules(directory: Path) -> Path:
    modules = {
        "app": APP,
        "broken": "1/0\n",
        "wanting": "import no_such_module_at_all\n",
        "crooked": "def handler(:\n",
        "chatty": 'import logging; logging.basicConfig(format="own format: %(message)s")\n' + APP,
    }
    for name, text in modules.items():
        (directory / f"{name}.py").write_text(text)
    return directory
