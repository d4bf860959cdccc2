"""The examples in the docstrings of what reads content."""

from __future__ import annotations

import doctest
import inspect

import pytest

from ehlo import content

SHOWN = [name for name in content.__all__ if name not in ("Attachment", "Content")]  # in ehlo's own


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_runs(name: str) -> None:
    docstring = inspect.getdoc(getattr(content, name)) or ""
    test = doctest.DocTestParser().get_doctest(docstring, {}, name, None, None)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0
