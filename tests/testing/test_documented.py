"""Each public name next to `ehlo.testing` has an example in its docstring that works."""

from __future__ import annotations

import asyncio
import doctest
import inspect
from importlib import import_module
from typing import Any

import pytest

import ehlo

MODULES = ("ehlo.testing.compat", "ehlo.content", "ehlo.protocol")
NAMES = [
    pytest.param(value, id=f"{module}.{name}")
    for module in MODULES
    for name in import_module(module).__all__
    for value in [getattr(import_module(module), name)]
    if inspect.isclass(value) or inspect.isroutine(value)  # a module and an alias have none
]


def runs(text: str, names: dict[str, Any]) -> int:
    """Run the example in a docstring, and return how many lines of it were entered."""
    session = doctest.DocTestParser().get_doctest(text, names, "example", None, 0)
    result = doctest.DocTestRunner().run(session)
    assert result.failed == 0
    return result.attempted


@pytest.mark.parametrize("public", NAMES)
def test_a_public_name_has_an_example_that_works(public: object) -> None:
    text = inspect.getdoc(public) or ""
    assert runs(text, {"ehlo": ehlo}) > 0


def test_connect_memory_has_an_example_that_works() -> None:
    assert runs(ehlo.Server.connect_memory.__doc__ or "", {"ehlo": ehlo, "asyncio": asyncio}) > 0


@pytest.mark.parametrize("public", [each for each in NAMES if inspect.isclass(each.values[0])])
def test_methods_and_properties_have_docstrings(public: type) -> None:
    missing = [
        name
        for name, value in vars(public).items()
        if not name.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property))
        and not inspect.getdoc(getattr(public, name))
    ]
    assert missing == []
