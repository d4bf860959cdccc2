"""`ehlo.__all__`, the imports for type checkers, the modules and the documentation agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import ehlo

ROOT = Path(__file__).parent.parent


def homes() -> dict[str, str]:
    """Return the module of each name that type checkers see in `ehlo`."""
    tree = ast.parse(Path(ehlo.__file__).read_text(encoding="utf-8"))
    return {
        name.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for name in node.names
        if name.asname
    }


def test_type_checkers_and_dir_see_the_names_in_all() -> None:
    assert set(homes()) == set(ehlo.__all__) == set(dir(ehlo))


@pytest.mark.parametrize("name", ehlo.__all__)
def test_every_name_is_the_one_in_its_module(name: str) -> None:
    assert getattr(ehlo, name) is getattr(import_module(homes()[name]), name)


def test_the_version_is_that_of_the_package() -> None:
    assert ehlo.__version__ == version("ehlo")


def test_an_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sever'"):
        _ = ehlo.Sever


def modules_after(statement: str) -> set[str]:
    """Return the names of all modules that a new interpreter has loaded after `statement`."""
    program = f"{statement}; import sys; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    return set(output.split())


def test_import_ehlo_loads_no_heavy_module() -> None:
    assert not {"asyncio", "ssl", "email", "click", "logging"} & modules_after("import ehlo")


def test_the_core_loads_no_heavy_module() -> None:
    loaded = modules_after("import ehlo.protocol.connection")
    assert not {"asyncio", "socket", "ssl", "logging", "email"} & loaded


def documented() -> set[str]:
    """Return the names that the API reference is generated for."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    directives = re.findall(r"^\.\. auto(?:class|function|data):: (.+)$", text, re.MULTILINE)
    return {name.rpartition(".")[2] for name in directives}


def test_every_public_name_is_documented() -> None:
    assert set(ehlo.__all__) == documented()


def test_the_documentation_names_nothing_that_does_not_exist() -> None:
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    text = "".join(path.read_text(encoding="utf-8") for path in pages)
    named = set(re.findall(r"(?<![\w/.])ehlo\.([A-Za-z_]\w*)(?!\w*\.)", text))
    modules = {path.stem for path in (ROOT / "src" / "ehlo").iterdir()}
    loggers = {"transcript", "server", "handler", "passwords"}
    loggers |= {"connection", "login", "message", "refusal"}
    assert named - set(ehlo.__all__) - modules - loggers == set()
