"""Configures Sphinx, which `make docs` runs; warnings are errors.

Pages that GitHub shows at the root of the repository (README.md and others) are not copied: the
pages in ROOT_PAGES consist of their text, with links that lead to pages of the site. The README
has absolute links, because PyPI shows it, too.
"""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.ext.napoleon import Config, GoogleDocstring

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

project = "ehlo"
about = metadata("ehlo")
release = version = about["Version"]
urls = dict(text.split(", ", 1) for text in about.get_all("Project-URL") or ())
SITE = urls["Documentation"]
SOURCE = f"{urls['Source']}/blob/main/"
copyright = "the authors of ehlo"  # noqa: A001  Sphinx wants this name
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"ehlo {release}"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]

myst_heading_anchors = 3
myst_links_external_new_tab = False

smartquotes = False  # -- stays two hyphens
default_role = "py:obj"  # `name` in a docstring is a link if the name is on a page
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("AnyHandler", "ListenAddresses", "Answer")}
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

ROOT_PAGES = {
    "index": "README.md",
    "security": "SECURITY.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
}
SITE_PAGES = {name: f"{page}.md" for page, name in ROOT_PAGES.items()}


def read_root_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the text of a file at the root in front of the page's own, and mend the links."""
    if page in ROOT_PAGES:
        path = ROOT / ROOT_PAGES[page]
        app.env.note_dependency(str(path))
        source[0] = f"{path.read_text()}\n{source[0]}"
    text = source[0].replace(f"]({SITE}", "](docs/").replace(f"]({SOURCE}", "](")
    source[0] = re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", mend_link, text)


def mend_link(found: re.Match[str]) -> str:
    """Return a link as it is from a page of the site, whichever folder it was written for."""
    name, hash_sign, anchor = found[1].removeprefix("../").partition("#")
    name = re.sub(r"\.html$", ".md", name.removeprefix("docs/"))
    if name.startswith("examples/"):
        stem = name.removeprefix("examples/").removesuffix(".py")
        name, hash_sign, anchor = "examples.md", "#", stem.replace("_", "-")
    name = SITE_PAGES.get(name, name)
    if (ROOT / name).is_file() and not (ROOT / "docs" / name).is_file():
        name = f"../{name}"  # a file that is offered for download
    return f"]({name}{hash_sign}{anchor})"


def read_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Make reStructuredText of a docstring with Google's sections; "Example:" is a literal block.

    The docstrings of attributes have no sections: a word before a colon in them is only a word.
    """
    if what not in ("attribute", "data", "property"):
        marked = [re.sub(r"^(\s*Examples?):$", r"\1::", line) for line in lines]
        lines[:] = GoogleDocstring(marked, Config(), what=what).lines()


def is_skipped(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Return true for members that are not for users: the reference does not show them."""
    text = obj.__doc__ or ""
    return text.startswith("Alias for field") or "Only the server calls this" in text or None


def hide_signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> tuple[str, None] | None:
    """Hide the arguments of classes that users do not construct."""
    made_by_ehlo = ("ehlo.Message", "ehlo.Session", "ehlo.Content")
    return ("", None) if name in made_by_ehlo or name.endswith(".Attachment") else None


def setup(app: Sphinx) -> None:
    """Connect the functions of this file to Sphinx."""
    app.connect("source-read", read_root_page)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", hide_signature)
    app.connect("autodoc-skip-member", is_skipped)
