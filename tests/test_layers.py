"""The house: imports point downwards only, names are unique, and no part reaches for its owner."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
FILES = sorted(SOURCE.rglob("*.py"))
IDS = [str(path.relative_to(SOURCE)) for path in FILES]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

# What a handler sees
VISIBLE = {
    *("ehlo.block", "ehlo.session", "ehlo.message", "ehlo.net", "ehlo.protocol"),
    "ehlo.transcript",
}
# What a handler is
HANDLERS = {"ehlo.calling", "ehlo.functions", "ehlo.handler", "ehlo.passwords"}
# The ground floor of the server
CELLAR = {
    "ehlo.paths",
    "ehlo.server.system",
    "ehlo.server.limits",
    "ehlo.server.observing",
    "ehlo.server.tls",
}

# A room, and the other rooms that it may import. Imports for types count, and so do those
# inside functions. There are no exceptions.
ROOMS = {
    "ehlo.content": set[str](),
    "ehlo.net": set(),
    "ehlo.paths": set(),
    "ehlo.transcript": set(),
    "ehlo.protocol": {"ehlo.net", "ehlo.transcript"},
    "ehlo.domains": {"ehlo.protocol"},
    "ehlo.block": set(),
    "ehlo.message": {"ehlo.protocol", "ehlo.content", "ehlo.block"},
    "ehlo.session": {"ehlo.protocol", "ehlo.net", "ehlo.transcript"},
    "ehlo.handler": {*VISIBLE},
    "ehlo.calling": {"ehlo.handler"},
    "ehlo.functions": {*VISIBLE, "ehlo.handler"},
    "ehlo.faults": {*VISIBLE, "ehlo.calling", "ehlo.handler", "ehlo.domains"},
    "ehlo.passwords": {"ehlo.protocol", "ehlo.paths"},
    "ehlo.sqlite": {"ehlo.paths"},
    "ehlo.store": {
        *("ehlo.sqlite", "ehlo.content", "ehlo.message", "ehlo.paths", "ehlo.transcript"),
    },
    "ehlo.server.system": {"ehlo.net", "ehlo.paths"},
    "ehlo.server.limits": {"ehlo.net"},
    "ehlo.server.observing": {"ehlo.server.system", *VISIBLE},
    "ehlo.server.tls": {"ehlo.server.observing", "ehlo.session", "ehlo.paths"},
    "ehlo.server.options": {*CELLAR, *HANDLERS, *VISIBLE},
    "ehlo.server": {"ehlo.server.options", *CELLAR, *HANDLERS, *VISIBLE},
    "ehlo.server.workers": {"ehlo.server", "ehlo.server.options", *CELLAR, *HANDLERS, *VISIBLE},
    "ehlo.server.server": {
        *("ehlo.server.workers", "ehlo.server", "ehlo.server.options"),
        *(*CELLAR, *HANDLERS, *VISIBLE),
    },
}
ROOMS["ehlo.testing"] = {
    *("ehlo.content", "ehlo.faults", "ehlo.server.server"),
    *ROOMS["ehlo.server.server"],
}
ROOMS["ehlo.queue"] = {
    *("ehlo.sqlite", "ehlo.server.system", "ehlo.server.observing", "ehlo.server.options"),
    *("ehlo.server", "ehlo.paths", *HANDLERS, *VISIBLE),
}
ROOMS["ehlo.inbox"] = {
    *("ehlo.content", "ehlo.domains", "ehlo.faults", "ehlo.paths", "ehlo.passwords", "ehlo.store"),
    *("ehlo.server.limits", "ehlo.server.options", "ehlo.server.system", *HANDLERS, *VISIBLE),
}
ROOMS["ehlo.conformance"] = {"ehlo.testing", "ehlo.net"}
# What may import everything: the face (a lazy table), and the command line
ANYTHING = {"ehlo", "ehlo.__main__", "ehlo.cli"}

# All of the standard library that the core needs: no event loop, socket, clock, log or thread
PURE = {
    *("__future__", "binascii", "collections", "dataclasses", "datetime", "enum", "functools"),
    *("hashlib", "hmac", "io", "ipaddress", "re", "stringprep", "types", "typing", "unicodedata"),
}

# Classes with parts, the module that alone may take one as an argument, and how few names of one a
# Protocol may have in common with it by chance
OWNERS = {"Driver": "ehlo.server.driver", "Connection": "ehlo.protocol.connection"}
MIRRORED = 3

LINE_LIMIT = 400
ANY_IN_A_THOUSAND_LINES = 5


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports_of(path: Path) -> Iterator[str]:
    """Yield each imported module; a module of ehlo also where it is imported as a name."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for name in node.names:
                full = f"{node.module}.{name.name}"
                yield full if full in MODULES else (node.module or "")


def room_of(module: str) -> str:
    rooms = [
        room for room in (*ROOMS, *ANYTHING) if module == room or module.startswith(f"{room}.")
    ]
    return max(rooms, key=len)


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    arguments = function.args
    extra = [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *extra]


def names_in(annotation: ast.expr | None) -> set[str]:
    """Return the names in an annotation."""
    if annotation is None:
        return set()
    found: set[str] = set()
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"\w+", node.value))  # written as a string, or a `Literal`
    return found


def classes_of(path: Path) -> Iterator[ast.ClassDef]:
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ClassDef):
            yield node


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_point_downwards(path: Path) -> None:
    module = module_of(path)
    room = room_of(module)
    if room in ANYTHING:
        return
    allowed = {room} | ROOMS[room]
    upward = {
        imported
        for imported in imports_of(path)
        if imported.partition(".")[0] == "ehlo" and room_of(imported) not in allowed
    }
    assert upward == set(), f"{module} imports from above"


def test_no_room_looks_into_one_that_looks_back() -> None:
    tuple(TopologicalSorter(ROOMS).static_order())  # a `CycleError` names the circle


def test_no_module_imports_in_a_circle() -> None:
    graph = {
        module: {imported for imported in imports_of(path) if imported in MODULES} - {module}
        for module, path in MODULES.items()
        if room_of(module) not in {"ehlo", "ehlo.__main__"}
    }
    tuple(TopologicalSorter(graph).static_order())


def test_a_package_of_the_server_imports_nothing_itself() -> None:
    for path in (SOURCE / "ehlo" / "server").rglob("__init__.py"):
        assert not list(imports_of(path)), path


@pytest.mark.parametrize(
    "path", sorted((SOURCE / "ehlo" / "protocol").rglob("*.py")), ids=lambda path: path.name
)
def test_core_imports_nothing_that_is_not_pure(path: Path) -> None:
    roots = {imported.partition(".")[0] for imported in imports_of(path)}
    assert roots <= PURE | {"ehlo"}


def test_no_class_name_occurs_twice() -> None:
    counts = Counter(node.name for path in FILES for node in classes_of(path))
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_module_has_the_name_of_another() -> None:
    lasts = Counter(module.rpartition(".")[2] for module in MODULES if module != "ehlo")
    assert [name for name, count in lasts.items() if count > 1] == ["server"]  # its room's face


@pytest.mark.parametrize(("owner", "home"), OWNERS.items())
def test_no_part_takes_its_owner(owner: str, home: str) -> None:
    """Not by annotation, not under another name, and not as `Any`."""
    found = []
    for module, path in MODULES.items():
        if module == home:
            continue
        aliases = {owner} | {
            name.asname
            for node in ast.walk(TREES[path])
            if isinstance(node, ast.ImportFrom)
            for name in node.names
            if name.name == owner and name.asname
        }
        for function in functions_of(path):
            for parameter in parameters_of(function):
                names = names_in(parameter.annotation)
                untyped = parameter.arg.strip("_") == owner.lower() and "Any" in names
                if names & aliases or untyped:
                    found.append(f"{module}.{function.name}({parameter.arg})")
    assert found == []


@pytest.mark.parametrize(("owner", "home"), OWNERS.items())
def test_no_protocol_mirrors_an_owner(owner: str, home: str) -> None:
    (node,) = [node for node in classes_of(MODULES[home]) if node.name == owner]
    own = _members(node)
    for path in FILES:
        for each in classes_of(path):
            if any(ast.unparse(base).partition("[")[0] == "Protocol" for base in each.bases):
                common = {name for name in _members(each) & own if not name.startswith("__")}
                assert len(common) < MIRRORED, f"{each.name} mirrors {owner}: {common}"


def _members(node: ast.ClassDef) -> set[str]:
    """Return the names of methods, of annotated attributes, and of what is set on `self`."""
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(inner.name)
        elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            found.add(inner.target.id)
        elif (
            isinstance(inner, ast.Attribute)
            and isinstance(inner.ctx, ast.Store)
            and isinstance(inner.value, ast.Name)
            and inner.value.id == "self"
        ):
            found.add(inner.attr)
    return found


def test_any_is_rare() -> None:
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    uses = sum(
        isinstance(node, ast.Name) and node.id == "Any"
        for tree in TREES.values()
        for node in ast.walk(tree)
    )
    assert uses * 1000 <= ANY_IN_A_THOUSAND_LINES * lines, f"{uses} in {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_a_long_file_says_why(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if len(text.splitlines()) > LINE_LIMIT:
        docstring = ast.get_docstring(TREES[path]) or ""
        assert "longer than" in docstring.lower(), f"over {LINE_LIMIT} lines, and no reason given"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_file_says_what_it_is(path: Path) -> None:
    assert not path.read_text(encoding="utf-8") or ast.get_docstring(TREES[path])
