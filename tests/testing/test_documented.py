"""Every public name of the parts of `ehlo.testing` has an example in its docstring that works."""

from __future__ import annotations

import doctest
import inspect
import re
import textwrap
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import ehlo

MODULES = [
    each for each in ("ehlo.testing.dialogue", "ehlo.testing.compat") if find_spec(each) is not None
]
NAMES = [
    pytest.param(value, id=f"{module}.{name}")
    for module in MODULES
    for name in import_module(module).__all__
    for value in [getattr(import_module(module), name)]
    if inspect.isclass(value) or inspect.isroutine(value)  # a module and an alias have none
]


@pytest.mark.parametrize("public", NAMES)
def test_a_public_name_has_an_example_that_works(
    public: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = inspect.getdoc(public) or ""
    found = re.search(r"^Example:\n\n((?: {4}.*\n?|\n)+)", text, re.MULTILINE)
    assert found is not None
    example = textwrap.dedent(found[1])
    assert ">>>" in example
    monkeypatch.chdir(tmp_path)
    name = str(getattr(public, "__name__", public))
    session = doctest.DocTestParser().get_doctest(example, {"ehlo": ehlo}, name, None, 0)
    assert doctest.DocTestRunner().run(session).failed == 0


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
