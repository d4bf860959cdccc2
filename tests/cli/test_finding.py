"""`ehlo serve` finds what to serve, where to listen, and the variables of a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from ehlo import Server
from ehlo.cli import main
from ehlo.cli.finding import load, named, read_variables
from support.program import Start

LOOPBACK = ("--addr", "127.0.0.1:0")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory without modules, whose modules leave no trace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """The servers that would have run."""
    servers: list[Server] = []
    monkeypatch.setattr(Server, "listen_and_serve", lambda server, **_: servers.append(server))
    monkeypatch.setattr("ehlo.cli.running.set_up_logging", lambda *_, **_options: None)
    return servers


HANDLER = "def handler(message): 'of the module'\n"
SERVER = "import ehlo\nserver = ehlo.Server(lambda message: None, addr='127.0.0.1:4025')\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (HANDLER, "handler"),
        ("def app(message): pass\n", "app"),
        (HANDLER + "app = handler\n", "app"),
        (HANDLER + SERVER, "server"),
    ],
)
def test_a_module_alone_has_a_server_an_app_or_a_handler(place: Path, text: str, name: str) -> None:
    (place / "one.py").write_text(text)
    found: Any = load("one")
    assert found is getattr(sys.modules["one"], name)


@pytest.mark.parametrize("text", ["sub/one.py", "sub/one.py:handler", "./sub/one.py:handler"])
def test_a_file_is_served_with_modules_next_to_it(place: Path, text: str) -> None:
    (place / "sub").mkdir()
    (place / "sub" / "two.py").write_text("value = 'next to it'\n")
    (place / "sub" / "one.py").write_text("import two\n" + HANDLER)
    assert getattr(load(text), "__name__", "") == "handler"
    assert named(text) == ("one", text.partition(":")[2])


def test_an_absolute_path_is_one_too(place: Path) -> None:
    (place / "one.py").write_text(HANDLER)
    assert named(f"{place}/one.py:handler") == ("one", "handler")


def test_modules_are_looked_for_in_app_dir(place: Path, started: list[Server]) -> None:
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "one.py").write_text(HANDLER + "def known(a, b, c): return True\n")
    assert main(["serve", "one", "--app-dir", "elsewhere", "--rcpt-handler", "one:known"]) == 0
    (server,) = started
    assert server.options.handler is sys.modules["one"].handler
    assert server.options.rcpt_handler is sys.modules["one"].known


def test_what_a_module_imports_in_vain_is_its_own_error(place: Path) -> None:
    (place / "one.py").write_text("import no_such_module_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        load("one")


# -- where to listen -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "addr"),
    [
        ([], "127.0.0.1:2525"),
        (["--port", "0"], ["127.0.0.1:0"]),
        (["--port", "26"], ["127.0.0.1:26"]),
        (["--host", "192.0.2.1"], ["192.0.2.1:2525"]),
        (["--host", "mail.example", "--port", "26"], ["mail.example:26"]),
        (["--host", "::1"], ["[::1]:2525"]),
        (["--host", "[::1]", "--port", "26"], ["[::1]:26"]),
        (["--host", ""], [":2525"]),
        (["--addr", ":26", "--addr", "unix:/run/s"], (":26", "unix:/run/s")),
        (["--fd", "3"], ["fd:3"]),
        (["--port", "26", "--fd", "3"], ["127.0.0.1:26", "fd:3"]),
    ],
)
def test_a_handler_is_served_on_the_address_that_is_given(
    place: Path, started: list[Server], args: list[str], addr: Any
) -> None:
    (place / "one.py").write_text(HANDLER)
    assert main(["serve", "one:handler", *args]) == 0
    assert started[0].options.addr == addr


@pytest.mark.parametrize(
    ("args", "addr"),
    [
        ([], "127.0.0.1:4025"),
        (["--port", "26"], ["127.0.0.1:26"]),
        (["--host", "::1"], ["[::1]:4025"]),
        (["--addr", ":26"], (":26",)),
    ],
)
def test_a_server_keeps_what_is_not_given(
    place: Path, started: list[Server], args: list[str], addr: Any
) -> None:
    (place / "one.py").write_text(SERVER)
    assert main(["serve", "one", *args]) == 0
    assert started[0].options.addr == addr


def test_a_server_without_an_address_keeps_port_25(place: Path, started: list[Server]) -> None:
    (place / "one.py").write_text("import ehlo\nserver = ehlo.Server(lambda message: None)\n")
    assert main(["serve", "one"]) == 0
    assert started[0].options.addr == ":25"


@pytest.mark.parametrize(
    ("args", "addr"),
    [([], "127.0.0.1:1025"), (["--port", "0"], ["127.0.0.1:0"]), (["--host", ""], [":1025"])],
)
def test_the_catcher_has_host_and_port_too(
    started: list[Server], args: list[str], addr: Any
) -> None:
    assert main(args) == 0
    assert started[0].options.addr == addr


def test_the_port_of_a_kubernetes_service_is_no_option(
    started: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EHLO_PORT", "tcp://10.0.0.1:25")
    assert main([]) == 0
    monkeypatch.setenv("EHLO_PORT", "26")
    assert main([]) == 0
    assert [each.options.addr for each in started] == ["127.0.0.1:1025", ["127.0.0.1:26"]]


# -- variables -------------------------------------------------------------------------------------


def test_a_file_has_variables_one_on_each_line(place: Path) -> None:
    (place / "env").write_text(
        "# a comment\n\nA=1\nexport B = two words  # why\nC='a # b'\nD=\"x=y\" # z\nE=\nF=a#b\n"
        "G=it's\n"
    )
    assert read_variables("env") == {
        "A": "1",
        "B": "two words",
        "C": "a # b",
        "D": "x=y",
        "E": "",
        "F": "a#b",
        "G": "it's",
    }


@pytest.mark.parametrize("line", ["word", "1A=x", "A B=x", "=x", "-A=x"])
def test_what_is_no_variable_is_an_error_with_its_line(place: Path, line: str) -> None:
    (place / "env").write_text(f"A=1\n{line}\n")
    with pytest.raises(click.UsageError, match="--env-file env: line 2 is not a variable"):
        read_variables("env")


def test_variables_of_a_file_are_options_and_those_of_the_environment_stay(
    place: Path, started: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "one.py").write_text("import os\nseen = os.environ.get('SEEN')\n" + HANDLER)
    (place / "env").write_text("EHLO_PORT=26\nEHLO_MAX_SIZE=1k\nEHLO_APPNAME=File\nSEEN=yes\n")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setenv("EHLO_APPNAME", "Own")
    assert main(["serve", "one", "--env-file", "env", "--max-size", "2k"]) == 0
    options = started[0].options
    assert (options.addr, options.appname, options.max_size) == (["127.0.0.1:26"], "Own", 2000)
    assert sys.modules["one"].seen == "yes"


def test_workers_find_the_same(start: Start, place: Path) -> None:
    (place / "sub").mkdir()
    (place / "sub" / "one.py").write_text("import os\ndef app(message): print(os.environ['X'])\n")
    (place / "env").write_text("X=value\n")
    args = ("sub/one.py", "--env-file", "env", "--workers", "2", *LOOPBACK)
    program = start("-m", "ehlo", "serve", *args, cwd=place)
    program.err.until("worker 2 (")
    assert program.stop() == 0
