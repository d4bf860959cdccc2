"""tools/prose.py finds what it is there to find."""

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def prose() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prose", ROOT / "tools" / "prose.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kinds(prose: ModuleType, code: str) -> list[str]:
    return [fault.kind for fault in prose.docstrings(ROOT / "a.py", ast.parse(code))]


@pytest.mark.parametrize("line", ["Return the name.", "Called when a client connects."])
def test_an_imperative_and_called_when_pass(prose: ModuleType, line: str) -> None:
    assert kinds(prose, f'def name():\n    """{line}"""') == []


@pytest.mark.parametrize("line", ["The name.", "Whether it is one.", "Returns the name."])
def test_other_first_words_of_a_public_function_do_not(prose: ModuleType, line: str) -> None:
    assert kinds(prose, f'def name():\n    """{line}"""') == ["imperative"]


def test_a_property_and_a_private_function_may_begin_with_a_noun(prose: ModuleType) -> None:
    code = 'class A:\n    @property\n    def name(self):\n        """The name."""'
    assert kinds(prose, code) == []
    assert kinds(prose, 'def _name():\n    """The name."""') == []


def test_a_class_names_its_subject(prose: ModuleType) -> None:
    assert kinds(prose, 'class A:\n    """That of one session."""') == ["headless"]
    assert kinds(prose, 'class A:\n    """Ends one session."""') == []


def test_an_exported_class_has_an_example_and_documents_its_attributes(prose: ModuleType) -> None:
    tree = ast.parse('class A:\n    """Does something."""\n\n    name: str\n')
    found = [fault.kind for fault in prose.attributes(ROOT / "a.py", tree, {"A"})]
    assert found == ["example", "attribute"]
    assert not list(prose.attributes(ROOT / "a.py", tree, set()))


@pytest.mark.parametrize(
    "text",
    [
        "# a file is read " + "anew",
        'x = "tell ' + 'nobody"',
        "def test_a_name_is_" + "normalised(): ...",
    ],
)
def test_overused_words_and_british_spelling_are_found(prose: ModuleType, text: str) -> None:
    assert len(list(prose.words(ROOT / "a.py", text))) == 1


def test_words_in_code_are_left_alone(prose: ModuleType) -> None:
    assert not list(prose.words(ROOT / "a.py", 'octets = ("octet", "nobody")'))
    assert not list(prose.words(ROOT / "a.md", "```\nnobody\n```\nand `anew`"))


def test_long_lines_and_items_that_are_not_indented_are_found(prose: ModuleType) -> None:
    text = "- an item\nat the margin\n  indented\n\nnot of it\n" + "a " * 61
    found = [(fault.line, fault.kind) for fault in prose.layout(ROOT / "a.md", text)]
    assert found == [(2, "indent"), (6, "length")]


def test_tables_and_code_may_be_wide(prose: ModuleType) -> None:
    assert not list(prose.layout(ROOT / "a.md", f"| {'a ' * 61}|\n```\n{'a ' * 61}\n```"))
