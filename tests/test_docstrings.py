"""Docstrings of the public names: attributes are documented, and examples work."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import ehlo
import ehlo.protocol
import ehlo.testing

NAMES = {
    **{name: getattr(ehlo, name) for name in ehlo.__all__},
    **{name: getattr(ehlo.testing, name) for name in ehlo.testing.__all__},
    "Responder": ehlo.protocol.Responder,
}
CLASSES = {name: value for name, value in NAMES.items() if inspect.isclass(value)}
EXAMPLE = re.compile(r"^Example::?\n\n((?: {4}.*\n?|\n)+)", re.MULTILINE)

every_class = pytest.mark.parametrize("name", sorted(CLASSES))


def example_in(docstring: str) -> str:
    """Return the code below "Example:" in a cleaned docstring, or `""`."""
    found = EXAMPLE.search(docstring)
    return textwrap.dedent(found[1]) if found else ""


def examples() -> Iterator[tuple[str, str]]:
    """Yield each public name that has an example in its docstring, with the example."""
    for name, value in NAMES.items():
        example = example_in(inspect.getdoc(value) or "")
        if example:
            yield name, example


def definition_of(name: str) -> ast.ClassDef:
    found = ast.parse(textwrap.dedent(inspect.getsource(CLASSES[name]))).body[0]
    assert isinstance(found, ast.ClassDef)
    return found


def undocumented(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Yield the public attributes that are assigned in `body` without a docstring below."""
    for statement, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if documented or not isinstance(statement, ast.Assign | ast.AnnAssign):
            continue
        assigned = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
        text = ast.unparse(assigned)
        name = text.removeprefix(prefix)
        if text.startswith(prefix) and not name.startswith("_"):
            yield name


@every_class
def test_a_public_class_has_an_example(name: str) -> None:
    assert example_in(inspect.getdoc(CLASSES[name]) or "")


@every_class
def test_public_attributes_and_methods_have_docstrings(name: str) -> None:
    definition = definition_of(name)
    missing = list(undocumented(definition.body))
    methods = [
        node for node in definition.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    inside = {node.name for node in methods if ast.get_docstring(node)}
    inside |= {
        ast.unparse(node.target) for node in definition.body if isinstance(node, ast.AnnAssign)
    }
    for node in methods:
        if node.name == "__init__":
            missing += [each for each in undocumented(node.body, "self.") if each not in inside]
        elif not node.name.startswith("_") and node.name not in inside:
            missing.append(node.name)
    assert missing == []


@pytest.mark.parametrize(("name", "example"), list(examples()))
def test_an_example_is_valid_code_and_works_if_it_is_a_session(
    name: str, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for used in re.findall(r"\behlo\.(\w+)", example):
        assert used in {*ehlo.__all__, "protocol", "testing"}
    if ">>>" not in example:
        compile(example, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return
    monkeypatch.chdir(tmp_path)
    session = doctest.DocTestParser().get_doctest(example, {"ehlo": ehlo}, name, None, 0)
    assert doctest.DocTestRunner().run(session).failed == 0
