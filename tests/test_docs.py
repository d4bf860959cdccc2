"""The documentation is right: generated parts, names, links, code."""

import ast
import dataclasses
import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from ehlo.handler import Handler
from ehlo.server.options.config import Options

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
    if path.name not in ("CHANGELOG.md", "benchmarks.md")
)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_match_the_code(generator: ModuleType) -> None:
    for page in generator.PAGES:
        text = page.read_text()
        assert text == generator.renewed(text), f"{page.name}: python docs/generate.py"


def test_every_generated_part_is_included_in_a_page(generator: ModuleType) -> None:
    text = "".join(page.read_text() for page in generator.PAGES)
    for name in generator.PARTS:
        assert text.count(f"<!-- begin {name} -->") == 1
        assert text.count(f"<!-- end {name} -->") == 1


def test_the_tables_have_every_option() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for field in dataclasses.fields(Options):
        assert field.name == "handler" or f"\n| `{field.name}` |" in text, field.name


def test_the_table_of_hooks_has_every_hook() -> None:
    text = (ROOT / "docs" / "handlers.md").read_text()
    listed = re.findall(r"^\| `(on_\w+)\(", text, re.MULTILINE)
    assert listed == [name for name in vars(Handler) if name.startswith("on_")]


def test_every_example_is_shown() -> None:
    text = (ROOT / "docs" / "examples.md").read_text()
    shown = re.findall(r"\{literalinclude\} \.\./examples/(\w+\.py)", text)
    assert sorted(shown) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def test_every_page_is_in_the_table_of_contents() -> None:
    text = (ROOT / "docs" / "index.md").read_text()
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages == set(re.findall(r"^[a-z-]+$", text, re.MULTILINE))


def test_readme_opens_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    opening = text.partition("## ")[0]
    assert "make run" in opening
    assert "make test" in opening


def test_every_example_is_named_on_a_page() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for path in (ROOT / "examples").glob("*.py"):
        assert f"examples/{path.name}" in text, path.name


def test_absolute_links_to_the_site_and_the_source_have_targets() -> None:
    """PyPI shows the README, so its links are absolute: each is one of a file that is here."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    site, source = urls["Documentation"], f"{urls['Source']}/blob/main/"
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all(link.startswith("https://") for link in links)
    pages = [link.removeprefix(site) for link in links if link.startswith(site)]
    assert len(pages) > 10
    for page in pages:
        assert (ROOT / "docs" / page.replace(".html", ".md")).is_file(), page
    for name in [link.removeprefix(source) for link in links if link.startswith(source)]:
        assert (ROOT / name).is_file(), name


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 140


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_targets(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings]
            assert anchor in anchors, target


def test_the_table_of_extras_has_every_extra_for_users() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "docs" / "installation.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE))
    extras = project["optional-dependencies"]
    assert rows.keys() == extras.keys() - {"dev", "docs"}
    for name, needs in extras.items():
        for need in needs:
            package = re.split(r"[>=\[;]", need)[0]
            assert name not in rows or package == "ehlo" or package in rows[name], (name, package)
    (everything,) = extras["all"]
    assert set(re.findall(r"\w+", everything)) - {"ehlo"} == rows.keys() - {"all"}


OTHER_REPLIES = {
    *("214 2.0.0", "221 2.0.0", "250 2.0.0", "421 4.4.2", "555 5.5.4"),  # with other texts
    *("250 2.3.6", "452 4.2.2", "550 5.0.0"),  # of handlers
    *("450 4.2.1", "451 4.3.0"),  # of faults
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_replies_on_the_pages_are_in_the_catalogue(page: Path) -> None:
    catalogue = re.findall(
        r"^\| (\d{3} \d\.\d\.\d+) ", (ROOT / "docs/replies.md").read_text(), re.MULTILINE
    )
    found = set(re.findall(r"\b[2-5]\d\d [245]\.\d{1,3}\.\d{1,3}", page.read_text()))
    assert found <= {*catalogue, *OTHER_REPLIES}


def test_the_table_of_events_has_every_event() -> None:
    page = (ROOT / "docs" / "logging.md").read_text()
    source = (ROOT / "src/ehlo/server/observing/journal.py").read_text()
    events = {
        str(call.args[1].value)
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("note", "self._log")
        if isinstance(call.args[1], ast.Constant)
    }
    assert len(events) > 10
    for event in events:
        assert f"`{event}`" in page, event
