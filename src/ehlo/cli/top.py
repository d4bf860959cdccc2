"""`ehlo top SOCKET`: what a running server does, as a table that is drawn anew each second.

It asks the server's control socket, and changes nothing there.
"""

from __future__ import annotations

import contextlib
import json
import textwrap
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from ehlo.cli.readable import one_line
from ehlo.cli.screen import plain, screen
from ehlo.server.observing.control import ask

if TYPE_CHECKING:
    from rich.console import ConsoleDimensions, RenderableType

__all__ = ["top"]

_EVERY: Final = 1.0  # seconds


@click.command()
@click.argument("path", metavar="SOCKET", envvar="EHLO_CONTROL")
@click.option("--once", is_flag=True, allow_from_autoenv=False, help="Print it once, and end.")
@click.option(
    "--json", "as_json", is_flag=True, allow_from_autoenv=False, help="All of it once, as JSON."
)
def top(path: str, once: bool, as_json: bool) -> None:
    """Watch the server whose --control is SOCKET.

    Sessions, what they do, rates and refusals, each second until Ctrl+C.
    """
    path = path.removeprefix("unix:")
    snapshot = _asked(path)
    if as_json:
        click.echo(json.dumps(snapshot))
    elif once:
        click.echo("\n".join(plain(snapshot)))
    else:
        _watch(path, snapshot)


def _asked(path: str) -> dict[str, Any]:
    try:
        return ask(path)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise click.ClickException(f"{path}: {reason}") from error


def _watch(path: str, now: Mapping[str, Any]) -> None:
    """Draw it each second; a server that has gone may come again."""
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError as error:
        raise click.UsageError("top needs rich: pip install 'ehlo[top]' (or --once)") from error
    console = Console()
    live = Live(console=console, screen=True, auto_refresh=False)
    before: Mapping[str, Any] | None = None
    trouble = ""
    with contextlib.suppress(KeyboardInterrupt), live:
        while True:
            live.update(_drawn(now, before, trouble, console.size), refresh=True)
            time.sleep(_EVERY)
            try:
                before, now = None if trouble else now, ask(path)
                trouble = ""
            except (OSError, ValueError):
                since = time.strftime("%H:%M:%S")
                trouble = trouble or f"no server at {path}, since {since}, trying again"


def _drawn(
    now: Mapping[str, Any], before: Mapping[str, Any] | None, trouble: str, size: ConsoleDimensions
) -> RenderableType:
    """As much as has room. With `trouble` in its place the rest is how it was, and dim."""
    from rich.console import Group
    from rich.text import Text

    said = textwrap.wrap(one_line(trouble), size.width, break_on_hyphens=False)
    first, *others = screen(now, before, size.width, size.height - max(0, len(said) - 1))
    styled = [(line, "bold red") for line in said] or [(first, "bold")]
    styled += [(line, "dim" if trouble else "") for line in others]
    return Group(*(Text(line, style, no_wrap=True, overflow="crop") for line, style in styled))
