#!/usr/bin/env python3
"""Writes the parts of the documentation that are generated from the code.

`python docs/generate.py` rewrites the text between `<!-- begin x -->` and `<!-- end x -->` on the
pages in PAGES; tests/test_docs.py fails if a page is out of date.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ehlo.cli.commands import cli
from ehlo.cli.flags import ProcessOptions
from ehlo.cli.queueing import queue_options
from ehlo.handler import Handler
from ehlo.protocol import reply as replies_of
from ehlo.protocol.extensions import TABLE, Extension, rows
from ehlo.protocol.parameters import Facts
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.state import State
from ehlo.protocol.verbs import TRANSITIONS, VERBS
from ehlo.queue import Queue
from ehlo.server.observing.metrics import COUNTERS, GAUGES, HISTOGRAMS, OF_QUEUE
from ehlo.server.options.config import Options, descriptions

ROOT = Path(__file__).parents[1]
WORDS = {
    (State.DATA, "."): "end of data",
    (State.BDAT, "."): "BDAT ... LAST",
    (State.ENDED, "."): "final reply",
}
# Text after the keyword, for an example that works
ARGUMENTS = {"DELIVERBY": "240", "FUTURERELEASE": "604800", "MT-PRIORITY": "MIXER"}
PAGES = [
    ROOT / "CONTRIBUTING.md",
    *(
        ROOT / f"docs/{name}.md"
        for name in (
            *("command-line", "configuration", "handlers", "logging", "protocol", "queue"),
            "replies",
        )
    ),
]


def options() -> str:
    """Return the options of a server, a table for each group."""
    texts = descriptions()
    lines: list[str] = []
    group = ""
    for field in dataclasses.fields(Options):
        if not field.metadata:
            continue
        if field.metadata["group"] != group:
            group = field.metadata["group"]
            lines += ["", f"## {group}", "", "| Option | Default | Description |", "|---|---|---|"]
        has_flag = field.metadata["flag"] or field.name in ProcessOptions.__dataclass_fields__
        only = "" if has_flag else " Not on the command line."
        text = _cell(texts[field.name])
        lines.append(f"| `{field.name}` | `{_default(field.default)}` | {text}{only} |")
    return "\n".join(lines[1:])


def hooks() -> str:
    """Return the hooks of a handler, with the first sentence of each docstring."""
    lines = ["| Hook | Description |", "|---|---|"]
    for name, hook in vars(Handler).items():
        if name.startswith("on_"):
            names = ", ".join(list(inspect.signature(hook).parameters)[1:])
            summary = (inspect.getdoc(hook) or "").partition("\n\n")[0]
            lines.append(f"| `{name}({names})` | {_cell(' '.join(summary.split()))} |")
    return "\n".join(lines)


def commands() -> str:
    """Return the commands of the shell, with the options that are not options of a server."""
    lines: list[str] = []
    for name, command in [("ehlo", cli), *((f"ehlo {n}", c) for n, c in cli.commands.items())]:
        lines += ["", f"## `{name}`", "", *_command(name, command)]
        below = command.commands if isinstance(command, click.Group) and command is not cli else {}
        for each, one in below.items():
            lines += ["", f"### `{name} {each}`", "", *_command(f"{name} {each}", one)]
    return "\n".join(lines[1:])


def _command(name: str, command: click.Command) -> list[str]:
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        "```text",
        f"{name} {usage}",
        "```",
        "",
        *inspect.cleandoc(command.help or "").split("\n"),
    ]
    params = [param for param in command.params if isinstance(param, click.Option)]
    serves = any(param.name == "addr" for param in params)
    own = ProcessOptions.__dataclass_fields__
    shared = Options.__dataclass_fields__.keys() - own.keys() if serves else set()
    records = [param.get_help_record(context) for param in params if param.name not in shared]
    rows = [
        f"| `{_cell(record[0].strip())}` | {_cell(record[1])} |" for record in records if record
    ]
    if serves:
        lines += ["", "It takes all options in [Configuration](configuration.md), and these:"]
    return [*lines, "", "| Option | Description |", "|---|---|", *rows] if rows else lines


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _default(value: Any) -> str:
    if isinstance(value, bool | tuple) or value is None:
        return str(value)
    if isinstance(value, int | float):
        return f"{value:_g}" if isinstance(value, float) else f"{value:_}"
    return f'"{value}"'


def verbs() -> str:
    """Return the known commands of SMTP."""
    return textwrap.fill(", ".join(f"`{verb}`" for verb in VERBS), 120)


def extensions() -> str:
    """Return the extensions, with their parameters, when they are offered, and their option."""
    lines = [
        "| Keyword | RFC | MAIL parameters | RCPT parameters | Offered | `extensions={...}` |",
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
    """Ask the row, with nothing configured, with everything configured, and under TLS."""
    when = "by default" if row.default == "on" else "if enabled"
    wanted = {row.keyword: ARGUMENTS.get(row.keyword, True)}
    enabled = rows(wanted, (), lambda: datetime(2030, 1, 1, tzinfo=UTC))
    row = enabled[TABLE.index(row)]
    bare = Facts(Settings(), tls=False, mechanisms=())
    ready = Facts(Settings(tls_available=True), tls=False, mechanisms=("PLAIN",))
    trusted = Facts(Settings(), tls=False, mechanisms=(), trusted=frozenset({row.keyword}))
    if row.offered(bare):
        return when
    if row.offered(trusted):
        return f"{when}, to clients in `{row.keyword.lower()}_networks`"
    return f"{when}, if it can be used" if row.offered(ready) else f"{when}, under TLS"


def states() -> str:
    """Return the states of a session, and the commands that lead from one to another."""
    moves: dict[State, dict[State, list[str]]] = {}
    for (state, verb), after in TRANSITIONS.items():
        moves.setdefault(state, {}).setdefault(after, []).append(WORDS.get((state, verb), verb))
    lines = ["| State | Meaning | Commands, and the next state |", "|---|---|---|"]
    for state in State:
        rows = [
            f"{', '.join(words)} \N{RIGHTWARDS ARROW} {state_after.name}"
            for state_after, words in moves.get(state, {}).items()
        ]
        lines.append(f"| {state.name} | {_cell(state.value)} | {'<br>'.join(rows)} |")
    return "\n".join(lines)


def replies() -> str:
    """Return the replies in the catalogue, sorted by code."""
    catalogue = {
        name.lower(): reply for name, reply in vars(replies_of).items() if isinstance(reply, Reply)
    }
    lines = ["| Reply | Text | Name |", "|---|---|---|"]
    for name, reply in sorted(catalogue.items(), key=lambda item: _in_order_of_code(item[1])):
        lines.append(f"| {_code(reply)} | {_cell(reply.text)} | `{name}` |")
    return "\n".join(lines).replace("<", "&lt;")


def _in_order_of_code(reply: Reply) -> tuple[int, list[int]]:
    return reply.code, [int(number) for number in (reply.enhanced or "0").split(".")]


def _code(reply: Reply) -> str:
    return f"{reply.code} {reply.enhanced or ''}".rstrip()


def metrics() -> str:
    """Return the metrics for Prometheus, with their labels."""
    lines = ["| Metric | Type | Labels | Description |", "|---|---|---|---|"]
    for name, text, labels, _ in COUNTERS:
        lines.append(_metric(f"{name}_total", "counter", labels, text))
    for name, text, _ in GAUGES:
        lines.append(_metric(name, "gauge", (), text))
    for name, text, labels in OF_QUEUE:
        lines.append(_metric(name, "gauge", labels, text))
    for name, text, labels in HISTOGRAMS:
        lines.append(_metric(name, "histogram", labels, text))
    return "\n".join(lines)


def queue() -> str:
    """Return the options of a queue."""
    defaults = inspect.signature(Queue).parameters
    lines = ["| Option | Flag | Default | Description |", "|---|---|---|---|"]
    for option in queue_options()[1:]:
        name = (option.name or "").removeprefix("queue_")
        text = re.sub(r" *\[[^]]*\]$", "", getattr(option, "help", ""))
        default = _default(defaults[name].default)
        lines.append(f"| `{name}` | `{option.opts[0]}` | `{default}` | {_cell(text)} |")
    return "\n".join(lines)


def _metric(name: str, kind: str, labels: Sequence[str], text: str) -> str:
    return f"| `ehlo_{name}` | {kind} | {', '.join(f'`{each}`' for each in labels)} | {text} |"


def tree() -> str:
    """Return the modules of ehlo, with the first sentence of each."""
    lines = ["```", "src/ehlo/"]
    for path in _in_order(ROOT / "src" / "ehlo"):
        module = path / "__init__.py" if path.is_dir() else path
        text = ast.get_docstring(ast.parse(module.read_text())) or ""
        sentence = re.split(r"(?<=[.!?])\s", " ".join(text.partition("\n\n")[0].split()))[0]
        name = f"{path.name}/" if path.is_dir() else path.name
        depth = len(path.relative_to(ROOT / "src").parts)
        line = f"{'  ' * (depth - 1)}{name}".ljust(24)
        lines.append(f"{line} {sentence}".rstrip())
    return "\n".join([*lines, "```"])


def _in_order(folder: Path) -> Iterator[Path]:
    """Yield the modules of a package, then each of its packages with what is in it."""
    yield from sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    for package in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield package
        yield from _in_order(package)


PARTS: Mapping[str, Callable[[], str]] = {
    "commands": commands,
    "hooks": hooks,
    "options": options,
    "verbs": verbs,
    "extensions": extensions,
    "states": states,
    "replies": replies,
    "metrics": metrics,
    "queue": queue,
    "tree": tree,
}


def renewed(text: str) -> str:
    """Return a page with its generated parts up to date."""
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
