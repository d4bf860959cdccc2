"""Imports point downwards only, and no file grows without a reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parent.parent / "src"
FILES = sorted(SOURCE.rglob("*.py"))
IDS = [str(path.relative_to(SOURCE)) for path in FILES]

# A room, and the rooms that it may look into beside itself
ROOMS = {
    "ehlo.protocol": set[str](),
    "ehlo.spool": set(),
    "ehlo.session": {"ehlo.protocol", "ehlo.spool"},
    "ehlo.domains": {"ehlo.protocol"},
    "ehlo.handlers": {"ehlo.session", "ehlo.protocol"},
    "ehlo.sinks": {"ehlo.protocol"},  # they know no session
    "ehlo.server": {"ehlo.handlers", "ehlo.session", "ehlo.spool", "ehlo.protocol"},
    "ehlo.inbox": {"ehlo.sinks"},
    "ehlo.testing": {"ehlo", "ehlo.server", "ehlo.handlers", "ehlo.session", "ehlo.protocol"},
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

# Names that a type checker needs and no program: (importer, imported) and why
UPWARD_FOR_TYPES = {
    ("ehlo.handlers.base", "ehlo.server.server"): "on_startup and on_shutdown are told the server",
}

LINE_LIMIT = 400


class Import(NamedTuple):
    module: str
    for_types: bool


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, id(node) in for_types)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for name in node.names:
                yield Import(_full_name(node.module or "", name.name), id(node) in for_types)


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
    for imported, for_types in imports_of(path):
        if imported.partition(".")[0] != "ehlo" or room_of(imported) in allowed:
            continue
        assert for_types, f"{module} imports {imported}"
        assert (module, imported) in UPWARD_FOR_TYPES, f"{module} imports {imported} for types"


def test_every_upward_import_for_types_is_there() -> None:
    found = {(module_of(path), imported.module) for path in FILES for imported in imports_of(path)}
    assert UPWARD_FOR_TYPES.keys() <= found


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
