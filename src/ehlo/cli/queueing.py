"""`--queue` of `ehlo serve` and `ehlo work`; and `ehlo queue`, which shows and changes one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import click

from ehlo.cli.deliveries import print_deliveries, write_visibly
from ehlo.cli.flags import Given, GroupedOption
from ehlo.cli.running import checked
from ehlo.cli.values import Number, QueueText, either
from ehlo.cli.wrong import ReportedCommand, no_such_command, report
from ehlo.handler import Composed
from ehlo.server.options.target import callbacks_of, with_handler
from ehlo.server.server import Server

if TYPE_CHECKING:  # sqlite3 and locks of files come with the commands that need them
    from ehlo.queue.accepting import Queue
    from ehlo.queue.engine import Books
    from ehlo.queue.entries import Act

_GROUP: Final = "Queue"
# The options of `Queue`, with their metavars, types and descriptions
_ROWS: Final = (
    (
        "lease",
        "DURATION",
        str,
        "Time after which the messages of a process that died are tried again.  [60s]",
    ),
    ("retry-after", "DURATION", str, "Time before the second attempt; it doubles each time.  [5s]"),
    ("retry-max", "DURATION", str, "Longest time between two attempts.  [1h]"),
    ("max-attempts", "NUMBER", Number(1), "Failed attempts after which a delivery is dead.  [12]"),
    (
        "max-age",
        "DURATION",
        str,
        "Age of a message after which a failed attempt is its last (0 = one attempt).  [unlimited]",
    ),
    ("keep-dead", "DURATION", str, "How long to keep failed and dead deliveries.  [30d]"),
    ("deliveries", "NUMBER", Number(0), "Concurrent deliveries (0 = only by ehlo work).  [8]"),
    ("timeout", "DURATION", str, "Maximum time of one attempt.  [10m]"),
)


def queue_options(*, accepts: bool = True) -> list[click.Parameter]:
    """Return the options of a queue, for a command that `accepts` mail or only delivers it."""
    what = "Store mail here before the 250, and deliver it afterwards" if accepts else "The queue"
    first = GroupedOption(
        ["--queue"],
        group=_GROUP,
        type=QueueText(),
        help=f"{what}: an SQLite file such as mail.db, or postgresql://user@host/database. "
        "EHLO_QUEUE can have one with a password; it is removed from the environment.",
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
    from ehlo.queue.accepting import Queue
    from ehlo.queue.urls import shown

    if own is not None:
        raise click.UsageError(
            f"--queue {shown(url)} cannot be combined with ehlo.Queue({own.url!r}); leave one out"
        )
    inner = Composed(checked(lambda: callbacks_of(options)))
    try:
        queue = Queue(url, inner, **values)
    except ValueError as error:
        raise click.UsageError(_with_flags(str(error), values)) from error
    server.configure(handler=queue, factory=False)
    return queue


def _with_flags(text: str, values: Mapping[str, Any]) -> str:
    """Return an error about an option of a queue as one about its flag."""
    for name, value in values.items():
        wrong = f"{name}: {value!r}: "
        if text.startswith(wrong):
            return f"--queue-{name.replace('_', '-')} {value}: {text.removeprefix(wrong)}"
    return f"--{text}" if text.startswith("queue ") else text


def _queue_of(handler: object) -> Queue | None:
    """Return the handler if it is a queue; if the room was never entered, none is."""
    accepting = sys.modules.get("ehlo.queue.accepting")
    return handler if accepting is not None and isinstance(handler, accepting.Queue) else None


# -- ehlo queue ------------------------------------------------------------------------------------


class _QueueGroup(click.Group):
    """Describes the commands of a queue; its errors name them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments. Raises `click.UsageError` without any."""
        if not args:
            raise click.UsageError(f"COMMAND missing; write {either(list(self.commands))}", ctx)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is named first. Raises `click.UsageError` without it."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            error = no_such_command(args[0], self.commands)
            error.ctx = ctx
            raise error
        return super().resolve_command(ctx, args)


@click.group(name="queue", cls=_QueueGroup)
def queue_group() -> None:
    """Show and change the deliveries of a queue.

    QUEUE is the value of --queue, such as mail.db.
    """


_Decorator = Callable[[Any], Any]
_queue: Final[_Decorator] = click.argument("url", metavar="QUEUE")
_one: Final[_Decorator] = click.argument("message_id", metavar="ID")
_several: Final[_Decorator] = click.argument("ids", metavar="[ID]...", nargs=-1)
_all_dead: Final[_Decorator] = click.option(
    "--all-dead",
    is_flag=True,
    allow_from_autoenv=False,
    help="Choose all failed and dead deliveries, instead of IDs.",
)
_json: Final[_Decorator] = click.option(
    "--json",
    "as_json",
    is_flag=True,
    allow_from_autoenv=False,
    help="Print one JSON object per line.",
)


def _command(name: str) -> _Decorator:
    return queue_group.command(name=name, cls=ReportedCommand)


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


def _unknown(message_id: str) -> click.ClickException:
    return click.ClickException(f"{message_id}: no such message; see ehlo queue list")


@_command("list")
@_queue
@_json
def list_all(url: str, *, as_json: bool) -> None:
    """List all deliveries, the oldest first."""
    with _books(url) as books:
        print_deliveries(books.listed(), books.now(), as_json=as_json)


@_command("dead")
@_queue
@_json
def dead(url: str, *, as_json: bool) -> None:
    """List failed and dead deliveries, with their errors."""
    with _books(url) as books:
        print_deliveries(books.listed(["failed", "dead"]), books.now(), as_json=as_json)


@_command("show")
@_queue
@_one
@_json
def show(url: str, message_id: str, *, as_json: bool) -> None:
    """Show the deliveries of one message in full."""
    with _books(url) as books:
        rows = list(books.listed((), message_id))
        if not rows:
            raise _unknown(message_id)
        print_deliveries(rows, books.now(), as_json=as_json, in_full=True)


@_command("export")
@_queue
@_one
def export(url: str, message_id: str) -> None:
    """Write a message to standard output, as it came.

    On a terminal, control characters are shown as escapes.
    """
    write = write_visibly() if sys.stdout.isatty() else sys.stdout.buffer.write
    with _books(url) as books:
        try:
            for chunk in books.content(message_id):
                write(chunk)
        except LookupError:
            raise _unknown(message_id) from None


def _act(url: str, what: Act, ids: Sequence[str], *, all_dead: bool = False) -> None:
    """Change deliveries. Raises `click.UsageError`; exits with 1 if a message has no such ones."""
    if bool(ids) == all_dead:
        raise click.UsageError(_NO_CHOICE if what != "hold" else "ID missing; write one or more")
    count, unchanged = 0, []
    with _books(url, writes=True) as books:
        for each in ids or (None,):
            changed = books.act(what, each)
            count += changed
            if each is not None and not changed:
                unchanged.append((each, sorted({row.state for row in books.listed((), each)})))
    click.echo(f"{what}: deliveries={count}")
    for message_id, states in unchanged:
        found = f"{message_id}: its deliveries are {' and '.join(states)}; {_ADVICE[what]}"
        report(click.ClickException(found) if states else _unknown(message_id))
    if unchanged:
        raise click.exceptions.Exit(1)


_NO_CHOICE: Final = "write the ID of a message, or --all-dead"
_ADVICE: Final[Mapping[Act, str]] = MappingProxyType(
    {
        "retry": "wait until they end",
        "hold": "only waiting ones can be held",
        "drop": "try again",
    }
)


@_command("retry")
@_queue
@_several
@_all_dead
def retry(url: str, ids: Sequence[str], *, all_dead: bool) -> None:
    """Deliver messages now, and count their attempts from the start."""
    _act(url, "retry", ids, all_dead=all_dead)


@_command("hold")
@_queue
@_several
def hold(url: str, ids: Sequence[str]) -> None:
    """Stop the deliveries of messages until ehlo queue retry."""
    _act(url, "hold", ids)


@_command("drop")
@_queue
@_several
@_all_dead
def drop(url: str, ids: Sequence[str], *, all_dead: bool) -> None:
    """Delete messages without delivering them."""
    _act(url, "drop", ids, all_dead=all_dead)
