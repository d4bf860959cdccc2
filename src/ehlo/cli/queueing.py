"""`--queue` of `ehlo serve` and `ehlo work`; and `ehlo queue`, which shows and changes one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from ehlo.cli.flags import Given, GroupedOption
from ehlo.cli.readable import one_line
from ehlo.cli.running import checked
from ehlo.cli.values import Number
from ehlo.handler import Composed
from ehlo.server.options.target import callbacks_of, with_handler
from ehlo.server.server import Server

if TYPE_CHECKING:  # sqlite3 and locks of files come with the commands that need them
    from ehlo.queue.accepting import Queue
    from ehlo.queue.engine import Books
    from ehlo.queue.entries import Act, Listed

_GROUP: Final = "Queue"
# The options of `Queue`, with their metavars, types and descriptions
_ROWS: Final = (
    (
        "lease",
        "DURATION",
        str,
        "Time after which a message of a dead process is tried again. [60s]",
    ),
    ("retry-after", "DURATION", str, "Time before the second attempt; it doubles.  [5s]"),
    ("retry-max", "DURATION", str, "Longest time between two attempts.  [1h]"),
    ("max-attempts", "NUMBER", Number(1), "Attempts after which a delivery is dead.  [12]"),
    ("max-age", "DURATION", str, "Age after which a failed delivery is dead.  [unlimited]"),
    ("keep-dead", "DURATION", str, "How long failed and dead deliveries are kept.  [30d]"),
    ("deliveries", "NUMBER", Number(0), "Concurrent deliveries (0 = only by ehlo work).  [8]"),
    ("timeout", "DURATION", str, "Maximum time of one attempt.  [10m]"),
)


def queue_options() -> list[click.Parameter]:
    """Return the options of a queue."""
    first = GroupedOption(
        ["--queue"],
        group=_GROUP,
        metavar="FILE",
        help="Store mail in this SQLite file before the 250, and deliver it afterwards.",
    )
    rows = [
        GroupedOption([f"--queue-{name}"], group=_GROUP, metavar=metavar, type=kind, help=text)
        for name, metavar, kind, text in _ROWS
    ]
    return [first, *rows]


def add_queue(server: Server, given: Given) -> Queue | None:
    """Put a queue around the hooks of a server, if one is given, and return the server's queue.

    Raises `click.UsageError`.
    """
    options = with_handler(server.options)
    own = _queue_of(options.handler)
    url = given.get("queue")
    values = {
        name.removeprefix("queue_"): value
        for name, value in given.items()
        if name.startswith("queue_") and value is not None
    }
    if url is None:
        if values:
            flag = f"--queue-{next(iter(values)).replace('_', '-')}"
            raise click.UsageError(f"{flag} needs --queue; write --queue mail.db")
        return own
    if own is not None:
        raise click.UsageError(
            f"--queue {url} cannot be combined with ehlo.Queue({own.url!r}); leave one out"
        )
    from ehlo.queue.accepting import Queue

    inner = Composed(checked(lambda: callbacks_of(options)))
    queue = checked(lambda: Queue(url, inner, **values))
    server.configure(handler=queue, factory=False)
    return queue


def _queue_of(handler: object) -> Queue | None:
    """Return the handler if it is a queue; if the room was never entered, none is."""
    accepting = sys.modules.get("ehlo.queue.accepting")
    return handler if accepting is not None and isinstance(handler, accepting.Queue) else None


# -- ehlo queue ------------------------------------------------------------------------------------


@click.group(name="queue")
def queue_group() -> None:
    """Show and change what a queue holds. FILE is what --queue names."""


_file: Final[Callable[[Any], Any]] = click.argument("url", metavar="FILE")
_one: Final[Callable[[Any], Any]] = click.argument("message_id", metavar="ID")
_some: Final[Callable[[Any], Any]] = click.argument("message_id", metavar="[ID]", required=False)
_all_dead: Final[Callable[[Any], Any]] = click.option(
    "--all-dead", is_flag=True, help="All that has failed or is dead, instead of one message."
)


@contextlib.contextmanager
def _books(url: str, *, writes: bool = False) -> Iterator[Books]:
    """Open a queue. Raises click's errors."""
    from ehlo.queue.books import open_books
    from ehlo.sqlite.errors import StoreError

    try:
        with contextlib.ExitStack() as stack:
            yield checked(lambda: stack.enter_context(open_books(url, writes=writes)))
    except StoreError as error:
        raise click.ClickException(str(error)) from error


def _print(rows: Sequence[Listed], now: float) -> None:
    for row in rows:
        due = "-" if row.due is None else f"{row.due - now:+.0f}s"
        line = (
            f"{row.id} {row.state} attempts={row.attempts} due={due} age={now - row.accepted:.0f}s"
        )
        line += f" size={row.size} from=<{row.sender}> to=<{row.recipient}>"
        click.echo(one_line(line + (f" error={row.error}" if row.error else "")))


@queue_group.command(name="list")
@_file
def list_all(url: str) -> None:
    """List all deliveries, the oldest first."""
    with _books(url) as books:
        _print(books.listed(), books.now())


@queue_group.command()
@_file
def dead(url: str) -> None:
    """List the deliveries that have failed or are dead, with their errors."""
    with _books(url) as books:
        _print(books.listed(["failed", "dead"]), books.now())


@queue_group.command()
@_file
@_one
def show(url: str, message_id: str) -> None:
    """Show the deliveries of message ID."""
    with _books(url) as books:
        rows, now = books.listed((), message_id), books.now()
    if not rows:
        raise click.ClickException(f"{message_id}: no such message; see ehlo queue list")
    _print(rows, now)


@queue_group.command()
@_file
@_one
def export(url: str, message_id: str) -> None:
    """Write message ID to standard output, as it came."""
    with _books(url) as books:
        try:
            for chunk in books.content(message_id):
                sys.stdout.buffer.write(chunk)
        except LookupError:
            raise click.ClickException(
                f"{message_id}: no such message; see ehlo queue list"
            ) from None


def _act(url: str, what: Act, message_id: str | None, *, all_dead: bool = False) -> None:
    if (message_id is None) != all_dead:
        raise click.UsageError("write the ID of a message, or --all-dead")
    with _books(url, writes=True) as books:
        count = books.act(what, message_id)
    if not count and message_id is not None:
        raise click.ClickException(f"{message_id}: nothing to {what}; see ehlo queue list")
    click.echo(f"{what}: deliveries={count}")


@queue_group.command()
@_file
@_some
@_all_dead
def retry(url: str, message_id: str | None, *, all_dead: bool) -> None:
    """Deliver message ID now, with all its attempts again, whatever its state."""
    _act(url, "retry", message_id, all_dead=all_dead)


@queue_group.command()
@_file
@_one
def hold(url: str, message_id: str) -> None:
    """Stop delivering message ID until retry."""
    _act(url, "hold", message_id)


@queue_group.command()
@_file
@_some
@_all_dead
def drop(url: str, message_id: str | None, *, all_dead: bool) -> None:
    """Delete message ID, although it is not delivered."""
    _act(url, "drop", message_id, all_dead=all_dead)
