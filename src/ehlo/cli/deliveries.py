"""Deliveries of a queue on standard output: a table on a terminal, lines in a pipe, or JSON.

They are written one by one, so a queue of any length takes no memory. A table has as many columns
as the terminal, and everything in it is text that a terminal does not obey.
"""

from __future__ import annotations

import codecs
import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ehlo.cli.readable import cut, cut_inside, one_line, size_of, visible, width_of
from ehlo.cli.top import age

if TYPE_CHECKING:  # a queue comes with the commands that need it
    from ehlo.queue.entries import Listed

_TITLES: Final = ("ID", "STATE", "TRY", "DUE", "AGE", "SIZE", "FROM", "TO")
_LEAST: Final = 12  # columns of an address
_FOR_SIZE: Final = 100  # columns of a terminal that has room for sizes


def print_deliveries(
    rows: Iterable[Listed], now: float, *, as_json: bool, in_full: bool = False
) -> None:
    """Write deliveries to standard output. `now` is in seconds; `in_full` cuts nothing."""
    if as_json:
        _write(map(_json, rows))
    elif in_full or not sys.stdout.isatty():
        _write(_line(each, now) for each in rows)
    else:
        _write(_table(rows, now, shutil.get_terminal_size().columns))


def write_visibly() -> Callable[[bytes], object]:
    """Return a function that writes bytes to standard output as text that is only shown."""
    decoder = io.IncrementalNewlineDecoder(
        codecs.getincrementaldecoder("utf-8")("backslashreplace"), translate=True
    )

    def write(chunk: bytes) -> None:
        _put(visible(decoder.decode(chunk)))

    return write


def _write(lines: Iterable[str]) -> None:
    for line in lines:
        _put(f"{line}\n")


def _put(text: str) -> None:
    """Write a text; a character that the encoding lacks becomes an escape."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _json(row: Listed) -> str:
    found = row._asdict() | {"sender": str(row.sender), "recipient": str(row.recipient)}
    return json.dumps(found)


def _line(row: Listed, now: float) -> str:
    due = "-" if row.due is None else f"{row.due - now:+.0f}s"
    line = f"{row.id} {row.state} attempts={row.attempts} due={due} age={now - row.accepted:.0f}s"
    line += f" size={row.size} from=<{row.sender}> to=<{row.recipient}>"
    return one_line(line + (f" error={row.error}" if row.error else ""))


def _table(rows: Iterable[Listed], now: float, columns: int) -> Iterator[str]:
    """Yield the lines of a table, and the number of deliveries by state."""
    counts: Counter[str] = Counter()
    for row in rows:
        if not counts:
            yield _row(_TITLES, columns)
        counts[row.state] += 1
        due = "-"
        if row.due is not None and row.state == "waiting":
            due = age(row.due - now) if row.due > now else "now"
        facts = str(row.attempts), due, age(max(0.0, now - row.accepted)), size_of(row.size)
        paths = f"<{row.sender}>", f"<{row.recipient}>"
        yield _row((row.id, row.state, *facts, *paths), columns)
        if row.error:
            yield cut(f"  {one_line(row.error)}", columns)
    yield ", ".join(f"{count:,} {state}" for state, count in counts.most_common()) or "empty"


def _row(cells: Sequence[str], columns: int) -> str:
    """Return one line of a table; the addresses share the columns that are left."""
    name, state, attempts, due, passed, size, *paths = cells
    begin = f"{name:17} {state:7} {attempts:>3} {due:>4} {passed:>4} "
    if columns >= _FOR_SIZE:
        begin += f"{size:>6} "
    each = max(_LEAST, (columns - len(begin) - 1) // 2)
    sender, recipient = (cut_inside(one_line(path), each) for path in paths)
    return f"{begin}{sender}{' ' * (each - width_of(sender))} {recipient}"
