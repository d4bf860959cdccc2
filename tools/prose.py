#!/usr/bin/env python3
"""Checks how ehlo writes: docstrings that say what a thing does, and words that are overused.

`python tools/prose.py` prints each place as `path:line: what is wrong` and exits with 1 if there
is one; `--count` prints the number of places by kind. ruff's D rules check that docstrings exist
and how they are laid out. This file checks what ruff cannot:

- The first line of a public function's or method's docstring is an imperative ("Return the ..."),
  or begins with "Called when" ("Called once", "Called with"). Its first word must be in VERBS.
- The first line of any other docstring names its subject: it begins with no word in HEADLESS.
- Each class that `ehlo` exports shows an example, and its public attributes have docstrings.
- No prose contains the words in OVERUSED. Prose is: docstrings, comments, strings of two words or
  more, names of tests, and Markdown outside of code.
- A line of a Markdown page, outside of code and tables, has at most 120 columns, and the text of a
  list item is indented.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

# The verbs that a docstring may begin with. A new one is added here, in its place.
_VERBS = """
    abort accept acquire activate add admit advance allow append apply arm ask assert assign
    attach authenticate await begin bind block buffer build cache call cancel change check
    choose claim classify clear close collect combine compare complete compute configure connect
    consume continue convert copy count create cut decide declare decline decode decrypt defer
    define delay delete deliver derive describe detach detect determine disable discard
    disconnect divide do drain draw drop enable encode encrypt end enforce ensure enter escape
    estimate evaluate exchange execute exempt exit expand export extend extract fail feed fetch
    fill filter find finish flush fold follow forget format forward free generate get give grant
    greet group handle hash hold ignore import include increase increment inform initialize
    insert inspect install interrupt invoke iterate join keep kill leave let limit link list
    listen load lock log look lower make map mark match measure merge migrate mount move name
    negotiate normalize note notify observe obtain offer open order override pack parse pass
    pause perform pick play poll pop prepare print process produce propagate prove provide publish
    pull push put queue raise read rebuild receive record redirect reduce refresh refuse
    register reject release reload remember remove rename render reopen repeat replace reply
    report request require reserve reset resolve respond restart restore restrict resume retry
    return reuse reverse rewrite roll rotate round route run save scan schedule search see
    select send separate serve set share shorten show shrink shut sign signal skip sleep sort
    spawn split spool start stop store stream strip subtract sum suspend swap switch take tell
    terminate test throttle time toggle trace track transfer translate trim truncate try turn
    undo unlink unlock unmap unpack unregister update upgrade use validate verify wait wake walk
    warn watch weigh wrap write yield
"""
VERBS = frozenset(_VERBS.split())

# What a docstring may not begin with, because a reader cannot tell what it is about.
HEADLESS = frozenset(
    (
        "that",
        "those",
        "this",
        "these",
        "what",
        "which",
        "who",
        "whoever",
        "whose",
        "such",
        "so",
        "it",
        "they",
    )
)

# Words that the old text used too often, and what to write instead.
OVERUSED = {
    r"anew": "again",
    r"whom(?:ever)?": "name the person or thing",
    r"whoever": "name the person or thing",
    r"nobody(?:'s)?": "no one, no client, no user",
    r"of late": "recently, or the period",
    r"besides?": "next to, with, or as well",
    r"likewise": "also, or repeat the verb",
    r"be had": "be available, or obtained",
    r"octets?": "bytes",
    r"nearer": "closer, or say what advances",
    r"(?<!nothing )but for": "except",
    r"save for": "except",
    r"given up": "dropped, or closed",
    r"in place of": "instead of",
    r"\w*(?:normalis|authoris|recognis|optimis|initialis|organis)\w*": "-ize",
    r"(?:behaviour|colour|honour|neighbour|licence|favour)s?": "the American spelling",
}
PATTERN = re.compile(r"\b(?:" + "|".join(f"({word})" for word in OVERUSED) + r")\b", re.IGNORECASE)
ADVICE = tuple(OVERUSED.values())

# Places where an overused word is right: the file, and the exact text around the word. An entry
# whose text is no longer in its file is a fault itself.
ALLOWED: tuple[tuple[str, str], ...] = (
    ("src/ehlo/protocol/reply.py", "{count} octets received"),  # on the wire, as RFC 3030 has it
    ("tests/protocol/test_connection.py", "octets received"),
    ("tests/server/test_chunks.py", "octets received"),
    ("tests/server/test_own_extensions.py", "octets received"),
)

PYTHON = ("src", "tests", "examples", "benchmarks", "docs", "tools")
COLUMNS = 120
PAGES = ("*.md", "docs/**/*.md", "docs/**/*.rst", "deploy/*", "benchmarks/*.md")


class Fault(NamedTuple):
    """A place in a file, and what is wrong there."""

    path: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.text}"


def docstrings(path: Path, tree: ast.Module) -> Iterator[Fault]:
    """Yield the docstrings in a module of ehlo that do not say what their subject does."""
    yield from _headless(path, tree, "module")
    yield from _within(path, tree, public=True)


def _within(path: Path, parent: ast.AST, *, public: bool) -> Iterator[Fault]:
    for node in ast.iter_child_nodes(parent):
        match node:
            case ast.ClassDef():
                yield from _headless(path, node, f"class {node.name}")
                yield from _within(path, node, public=public and not node.name.startswith("_"))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                asked = public and not node.name.startswith("_") and not _is_attribute(node)
                yield from _imperative(path, node) if asked else _headless(path, node, node.name)
            case ast.If() | ast.Try():
                yield from _within(path, node, public=public)


def _is_attribute(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = (ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list)
    return any(name in ("property", "cached_property", "setter", "overload") for name in names)


def _imperative(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Fault]:
    first = _first_line(node)
    if first is None or re.match(r"Called [a-z]+ ", first):
        return
    word = re.split(r"[^A-Za-z]", first, maxsplit=1)[0]
    if word.lower() not in VERBS:
        text = f"{node.name}: begin with an imperative or 'Called when', not {first[:40]!r}"
        yield Fault(path, node.lineno, "imperative", text)


def _headless(
    path: Path, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[Fault]:
    first = _first_line(node)
    if first is not None and re.split(r"[^A-Za-z]", first, maxsplit=1)[0].lower() in HEADLESS:
        line = getattr(node, "lineno", 1)
        yield Fault(path, line, "headless", f"{name}: name the subject, not {first[:40]!r}")


def _first_line(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> str | None:
    text = ast.get_docstring(node)
    return text.partition("\n")[0] if text else None


def exported() -> set[str]:
    """Return the names that `ehlo` exports, without importing it."""
    tree = ast.parse((ROOT / "src/ehlo/__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.asname for node in imports for name in node.names if name.asname}


def attributes(path: Path, tree: ast.Module, names: set[str]) -> Iterator[Fault]:
    """Yield the exported classes without an example, and their attributes without a docstring."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or node.name not in names:
            continue
        if not re.search(r"^(    |>>> )|::$", ast.get_docstring(node) or "", re.MULTILINE):
            yield Fault(path, node.lineno, "example", f"class {node.name}: show an example")
        for field, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            name = field.target.id
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if not name.startswith("_") and not documented:
                text = f"{node.name}.{name}: add a docstring below the attribute"
                yield Fault(path, field.lineno, "attribute", text)


def words(path: Path, text: str) -> Iterator[Fault]:
    """Yield the overused words in the prose of a file."""
    allowed = [sentence for name, sentence in ALLOWED if path == ROOT / name]
    for sentence in allowed:
        if sentence not in text:
            yield Fault(path, 1, "allowed", f"ALLOWED names a text that is not here: {sentence!r}")
    prose = _python_prose(text) if path.suffix == ".py" else _page_prose(text)
    for line, piece in prose:
        plain = piece
        for sentence in allowed:
            plain = plain.replace(sentence, "")
        for found in PATTERN.finditer(plain):
            advice = ADVICE[(found.lastindex or 1) - 1]
            at = line + plain.count("\n", 0, found.start())
            yield Fault(path, at, f"'{found[0].lower()}'", f"'{found[0]}': write {advice}")


def _python_prose(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        start = token.start[0]
        if token.type == tokenize.NAME and token.string.startswith("test_"):
            yield start, token.string.replace("_", " ")
        elif token.type == tokenize.COMMENT or (
            token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1))
            and " " in token.string.strip()
        ):
            yield start, token.string


def _page_prose(text: str) -> Iterator[tuple[int, str]]:
    return ((number, re.sub(r"`[^`]*`", "", line)) for number, line in _outside_code(text))


def _outside_code(text: str) -> Iterator[tuple[int, str]]:
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code:
            yield number, line


def layout(path: Path, text: str) -> Iterator[Fault]:
    """Yield the lines of a page that are too long, or in a list item and not indented."""
    in_item = False
    for number, line in _outside_code(text):
        if len(line) > COLUMNS and not line.startswith("|"):
            yield Fault(path, number, "length", f"{len(line)} columns: wrap at {COLUMNS}")
        if re.match(r" *([-*]|\d+\.) ", line):
            in_item = True
        elif not line.strip():
            in_item = False
        elif in_item and not line.startswith(" "):
            yield Fault(path, number, "indent", "indent the text of a list item")


def faults() -> Iterator[Fault]:
    """Yield all that is wrong in the tree."""
    names = exported()
    for folder in PYTHON:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text()
            if path.name not in ("prose.py", "test_prose.py"):  # they name the words
                yield from words(path, text)
            if folder == "src":
                tree = ast.parse(text)
                yield from docstrings(path, tree)
                yield from attributes(path, tree, names)
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                text = path.read_text()
                yield from words(path, text)
                if path.suffix == ".md":
                    yield from layout(path, text)


def main() -> int:
    """Print the faults and return the exit status."""
    found = list(faults())
    if "--count" in sys.argv:
        for kind, number in Counter(fault.kind for fault in found).most_common():
            print(f"{number:6} {kind}")
    else:
        for fault in found:
            print(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
