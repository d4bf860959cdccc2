#!/usr/bin/env python3
"""Writes the parts of the documentation that come of the code.

`python docs/generate.py` rewrites what stands between `<!-- begin x -->` and `<!-- end x -->` in
README.md and docs/protocol.md; tests/test_docs.py fails when that was forgotten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ehlo.protocol.extensions import TABLE, Extension
from ehlo.protocol.parameters import Facts
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import State
from ehlo.protocol.verbs import TRANSITIONS, VERBS
from ehlo.server.options.config import Options, descriptions

ROOT = Path(__file__).parents[1]
WORDS = {(State.DATA, "."): "end of data", (State.ENDED, "."): "final reply"}
# What to say behind the keyword, for an example that works
ARGUMENTS = {"DELIVERBY": "240", "FUTURERELEASE": "604800", "MT-PRIORITY": "MIXER"}
PAGES = (ROOT / "README.md", ROOT / "docs" / "protocol.md")


def options() -> str:
    """The options of a server, group by group."""
    lines = ["| Option | Default | |", "|---|---|---|"]
    texts = descriptions()
    group = ""
    for field in dataclasses.fields(Options):
        if not field.metadata:
            continue
        if field.metadata["group"] != group:
            group = field.metadata["group"]
            lines.append(f"| **{group}** | | |")
        only = "" if field.metadata["flag"] else " Not on the command line."
        text = texts[field.name].replace("|", r"\|")
        lines.append(f"| `{field.name}` | `{_default(field.default)}` | {text}{only} |")
    return "\n".join(lines)


def _default(value: Any) -> str:
    if isinstance(value, bool | tuple) or value is None:
        return str(value)
    if isinstance(value, int | float):
        return f"{value:_g}" if isinstance(value, float) else f"{value:_}"
    return f'"{value}"'


def verbs() -> str:
    """The commands that are known."""
    return ", ".join(f"`{verb}`" for verb in VERBS)


def extensions() -> str:
    """The extensions: what each brings, when it is offered, and how that is changed."""
    lines = [
        "| Keyword | RFC | Parameters of MAIL | of RCPT | Offered | `extensions={...}` |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_extension(row) for row in TABLE]
    return "\n".join(lines)


def _extension(row: Extension) -> str:
    number = row.rfc
    document = f"[{number}](https://www.rfc-editor.org/rfc/rfc{number})" if number else "Postfix"
    names = (_names(row.mail), _names(row.rcpt))
    choice = ARGUMENTS.get(row.keyword, row.default != "on")
    switch = f"`{row.keyword!r}: {choice!r}`".replace("'", '"')
    return (
        f"| `{row.keyword}` | {document} | {names[0]} | {names[1]} | {_offered(row)} | {switch} |"
    )


def _names(params: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in params)


def _offered(row: Extension) -> str:
    """Found out by asking the row: with nothing set up, with all of it, and under TLS."""
    optional = row.default != "on"
    if row.make is not None:
        row = row.make(ARGUMENTS.get(row.keyword, ""), lambda: datetime(2030, 1, 1, tzinfo=UTC))
    bare = Facts(Settings(), tls=False, mechanisms=())
    ready = Facts(Settings(tls_available=True), tls=False, mechanisms=("PLAIN",))
    when = "by option" if optional else "by default"
    trusted = Facts(Settings(), tls=False, mechanisms=(), trusted=frozenset({row.keyword}))
    if row.offered(bare):
        return when
    if row.offered(trusted):
        return f"{when}, to those in `{row.keyword.lower()}_networks`"
    return f"{when}, when it can be used" if row.offered(ready) else f"{when}, under TLS"


def states() -> str:
    """The states of a session, and what moves it from one to another."""
    moves: dict[tuple[State, State], list[str]] = {}
    for (state, verb), after in TRANSITIONS.items():
        moves.setdefault((state, after), []).append(WORDS.get((state, verb), verb))
    used = {state for pair in moves for state in pair}
    return "\n".join(
        [
            "```mermaid",
            "stateDiagram-v2",
            *(
                f"    {state.name}: {state.name}<br>{_plain(state)}"
                for state in State
                if state in used
            ),
            *(
                f"    {state.name} --> {after.name}: {', '.join(words)}"
                for (state, after), words in moves.items()
            ),
            "```",
        ]
    )


def _plain(state: State) -> str:
    return state.value.replace(";", ",").replace(":", ",")


PARTS: Mapping[str, Callable[[], str]] = {
    "options": options,
    "verbs": verbs,
    "extensions": extensions,
    "states": states,
}


def renewed(text: str) -> str:
    """A page with its generated parts as they should be."""
    for name, make in PARTS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, found, rest = text.partition(begin)
        if found:
            after = rest.partition(end)[2]
            text = f"{before}{begin}\n{make()}\n{end}{after}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(renewed(page.read_text()))
