"""Imports point downwards only, and no file grows without a reason."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parent.parent / "src"
FILES = sorted(SOURCE.rglob("*.py"))
IDS = [str(path.relative_to(SOURCE)) for path in FILES]

# What a handler sees
VISIBLE = {"ehlo.session", "ehlo.message", "ehlo.net", "ehlo.protocol"}

# A room, and the rooms that it may look into beside itself
ROOMS = {
    "ehlo.content": set[str](),
    "ehlo.net": set(),
    "ehlo.protocol": {"ehlo.net"},
    "ehlo.domains": {"ehlo.protocol"},
    "ehlo.message": {"ehlo.protocol", "ehlo.content"},
    "ehlo.session": {"ehlo.protocol", "ehlo.net"},
    "ehlo.handler": {"ehlo.session", "ehlo.message", "ehlo.protocol"},
    "ehlo.functions": {*VISIBLE, "ehlo.handler"},
    "ehlo.passwords": {"ehlo.protocol"},
    "ehlo.sinks": {"ehlo.protocol"},  # they know no session
    "ehlo.server.system": {"ehlo.net"},
    "ehlo.server.limits": {"ehlo.net"},
    "ehlo.server.observing": {"ehlo.server.system", *VISIBLE},
    "ehlo.server.tls": {"ehlo.server.observing", "ehlo.session"},
    "ehlo.server.options": {
        *("ehlo.server.tls", "ehlo.server.observing", "ehlo.server.limits", "ehlo.server.system"),
        *("ehlo.functions", "ehlo.handler", "ehlo.passwords", *VISIBLE),
    },
    "ehlo.server.hooks": {
        *("ehlo.server.options", "ehlo.server.observing"),
        *("ehlo.server.limits", "ehlo.server.system"),
        *("ehlo.functions", "ehlo.handler", "ehlo.passwords", *VISIBLE),
    },
    "ehlo.server.driving": {
        *("ehlo.server.hooks", "ehlo.server.options", "ehlo.server.tls", "ehlo.server.observing"),
        *("ehlo.server.limits", "ehlo.server.system"),
        *VISIBLE,
    },
    "ehlo.server.processes": {
        *("ehlo.server.options", "ehlo.server.tls", "ehlo.server.observing", "ehlo.server.system"),
        *VISIBLE,
    },
    "ehlo.server": {
        *("ehlo.server.processes", "ehlo.server.driving", "ehlo.server.hooks"),
        *("ehlo.server.options", "ehlo.server.tls", "ehlo.server.observing"),
        *("ehlo.server.limits", "ehlo.server.system"),
        *("ehlo.functions", "ehlo.handler", "ehlo.passwords", *VISIBLE),
    },
    "ehlo.inbox": {"ehlo.sinks"},
    "ehlo.testing": {"ehlo", "ehlo.server", "ehlo.handler", *VISIBLE},
}
# What may import everything: the face (a lazy table), and the command line
ANYTHING = {"ehlo", "ehlo.__main__", "ehlo.cli"}

# All of the standard library that the core needs: no event loop, socket, clock, log or thread
PURE = {
    *(
        "__future__",
        "binascii",
        "collections",
        "dataclasses",
        "datetime",
        "enum",
        "functools",
        "hashlib",
    ),
    *("hmac", "io", "ipaddress", "re", "stringprep", "types", "typing", "unicodedata"),
}

# Names that a type checker needs and no program: (importer's room, imported) and why
UPWARD_FOR_TYPES = {
    ("ehlo.server.driving", "ehlo.server.driver"): "a part is told whose it is",
    ("ehlo.server.driving", "ehlo.server.runtime"): "a part is told what all sessions share",
    ("ehlo.server.hooks", "ehlo.server.driver"): "a run is told its driver",
    ("ehlo.server.hooks", "ehlo.server.runtime"): "logins are told what all sessions share",
    ("ehlo.server.observing", "ehlo.server.driver"): "a session's lines are told its driver",
    ("ehlo.server.observing", "ehlo.server.hooks.hookrun"): "a line about a run of a hook",
    ("ehlo.server.observing", "ehlo.server.hooks.hooks"): "a line about a hook's answer",
    ("ehlo.server.observing", "ehlo.server.runtime"): "a snapshot is of what all sessions share",
    ("ehlo.server.observing", "ehlo.server.options.config"): "options say which windows there are",
    ("ehlo.server.processes", "ehlo.server.life"): "a worker reports what its server's life counts",
    ("ehlo.server.processes", "ehlo.server.server"): "a parent is told whose processes it keeps",
}
# Upwards when a function runs, and not as its module is imported: (importer, imported) and why
UPWARD_WHEN_CALLED = {
    ("ehlo.server.processes.workers", "ehlo.server.server"): "a worker runs a server of its own",
}

LINE_LIMIT = 400


class Import(NamedTuple):
    module: str
    for_types: bool
    when_called: bool


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = _within(tree, _is_for_types)
    when_called = _within(
        tree, lambda node: isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    for node in ast.walk(tree):
        where = id(node) in for_types, id(node) in when_called
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, *where)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for name in node.names:
                yield Import(_full_name(node.module or "", name.name), *where)


def _within(tree: ast.AST, outer: Callable[[ast.AST], bool]) -> set[int]:
    """The ids of the nodes that stand in one that is `outer`."""
    return {id(inner) for node in ast.walk(tree) if outer(node) for inner in ast.walk(node)}


def _is_for_types(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def _full_name(module: str, name: str) -> str:
    """`from ehlo.protocol import events` imports a module, and not a name of one."""
    full = f"{module}.{name}"
    path = SOURCE.joinpath(*full.split("."))
    return full if path.is_dir() or path.with_suffix(".py").exists() else module


def room_of(module: str) -> str:
    rooms = [
        room for room in (*ROOMS, *ANYTHING) if module == room or module.startswith(f"{room}.")
    ]
    return max(rooms, key=len)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_point_downwards(path: Path) -> None:
    module = module_of(path)
    room = room_of(module)
    if room in ANYTHING:
        return
    allowed = {room} | ROOMS[room]
    for imported, for_types, when_called in imports_of(path):
        if imported.partition(".")[0] != "ehlo" or room_of(imported) in allowed:
            continue
        if when_called and (module, imported) in UPWARD_WHEN_CALLED:
            continue
        assert for_types, f"{module} imports {imported}"
        assert (room, imported) in UPWARD_FOR_TYPES, f"{module} imports {imported} for types"


def test_no_room_looks_into_one_that_looks_back() -> None:
    tuple(TopologicalSorter(ROOMS).static_order())  # a `CycleError` names the circle


def test_a_package_of_the_server_imports_nothing_itself() -> None:
    for path in (SOURCE / "ehlo" / "server").rglob("__init__.py"):
        assert not list(imports_of(path)), path


def test_every_upward_import_is_there() -> None:
    found = {(module_of(path), imported) for path in FILES for imported, *_ in imports_of(path)}
    assert UPWARD_WHEN_CALLED.keys() <= found
    assert UPWARD_FOR_TYPES.keys() <= {(room_of(module), imported) for module, imported in found}


@pytest.mark.parametrize(
    "path", sorted((SOURCE / "ehlo" / "protocol").glob("*.py")), ids=lambda path: path.name
)
def test_core_imports_nothing_that_is_not_pure(path: Path) -> None:
    roots = {imported.module.partition(".")[0] for imported in imports_of(path)}
    assert roots <= PURE | {"ehlo"}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_a_long_file_says_why(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if len(text.splitlines()) > LINE_LIMIT:
        docstring = ast.get_docstring(ast.parse(text)) or ""
        assert "longer than" in docstring.lower(), f"over {LINE_LIMIT} lines, and no reason given"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_file_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text or ast.get_docstring(ast.parse(text))
