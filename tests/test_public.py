"""`ehlo.__all__`, the lazy table behind it, the modules and the documentation agree."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ehlo

ROOT = Path(__file__).parent.parent
HOMES: dict[str, tuple[str, ...]] = ehlo._HOMES  # noqa: SLF001  what is tested

_CODE_SPAN = re.compile(r"`([^`\n]+)`")
_NAME = re.compile(r"(?:class |async def |def )?(?:ehlo\.)?(\w+)")


def test_the_lazy_table_has_the_names_in_all() -> None:
    assert sorted(name for names in HOMES.values() for name in names) == sorted(ehlo.__all__)
    assert sorted(ehlo.__all__) == ehlo.__all__
    assert set(ehlo.__all__) <= set(dir(ehlo))


@pytest.mark.parametrize("name", ehlo.__all__)
def test_every_name_is_the_one_in_its_module(name: str) -> None:
    (home,) = [module for module, names in HOMES.items() if name in names]
    module = import_module(home)
    assert getattr(ehlo, name) is getattr(module, name)
    assert name in module.__all__


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
    """Return the names in the headings of the API page, without `ehlo.`."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("#")]
    spans = [span for heading in headings for span in _CODE_SPAN.findall(heading)]
    found = [_NAME.match(span) for span in spans]
    return {match[1] for match in found if match is not None}


def test_every_public_name_is_documented() -> None:
    assert set(ehlo.__all__) - documented() == set()


def test_the_documentation_names_nothing_that_does_not_exist() -> None:
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    text = "".join(path.read_text(encoding="utf-8") for path in pages)
    named = set(re.findall(r"(?<![\w/.])ehlo\.([A-Za-z_]\w*)(?!\w*\.)", text))
    modules = {path.stem for path in (ROOT / "src" / "ehlo").iterdir()}
    loggers = {"transcript", "server", "handler", "passwords"}
    loggers |= {"connection", "login", "message", "refusal"}
    assert named - set(ehlo.__all__) - modules - loggers == set()
