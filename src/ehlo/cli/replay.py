"""The command `ehlo replay`: plays recorded sessions, and shows the first difference of each.

Exit codes: 0 without a difference, 1 with one, 2 for wrong usage and for a server that cannot be
reached.
"""

from __future__ import annotations

import asyncio

import click

from ehlo.cli.readable import reason_of
from ehlo.cli.values import ReadableFile, Seconds
from ehlo.net import Peer, parse_address
from ehlo.testing import dialogue
from ehlo.testing.dialogue import DialogueError, Scenario


class UnreachableError(click.ClickException):
    """Raised if there is no connection to the server."""

    exit_code = 2


@click.command()
@click.argument("file", type=ReadableFile())
@click.argument("address", metavar="[HOST:PORT]", required=False)
@click.option(
    "--timeout",
    type=Seconds(),
    default=10.0,
    help="Seconds to wait for each reply of a server.  [10]",
)
def replay(file: str, address: str | None, timeout: float) -> int:
    """Play the sessions in FILE, and show the first difference of each.

    FILE is a dialogue, as ehlo serve --record writes it. Without HOST:PORT, the sessions are
    played against the protocol of this ehlo alone; what your hooks decided, and what EHLO offered,
    is taken from the recording. With HOST:PORT, they are played against the server there.
    Certificates are not verified. A session is played up to where the recorded server ended it.
    """
    if not timeout > 0:
        raise click.UsageError(f"--timeout {timeout:g}: out of range; write a number over 0")
    try:
        scenarios = dialogue.load(file)
        peer = None if address is None else parse_address(address)
    except OSError as error:
        raise click.UsageError(f"{file}: {reason_of(error)}; check the file") from None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if not scenarios:
        raise click.UsageError(f"{file}: there is no session in it")
    differences = 0
    for scenario in scenarios:
        try:
            _play(scenario, peer, timeout)
        except DialogueError as difference:
            differences += 1
            click.echo(f"{difference}\n")
        except ValueError as error:
            raise click.UsageError(f"{file}: {error}") from None
        except OSError as error:
            raise UnreachableError(f"cannot connect to {address}: {reason_of(error)}") from error
    played = f"{len(scenarios)} session{'s' * (len(scenarios) > 1)} played"
    click.echo(f"{played}, {differences or 'no'} difference{'s' * (differences != 1)}")
    return 1 if differences else 0


def _play(scenario: Scenario, peer: Peer | None, timeout: float) -> None:
    """Play one session. Raises `DialogueError`, `ValueError` and `OSError`."""
    if peer is None:
        dialogue.replay(scenario)
        return
    ends = [number for number, step in enumerate(scenario.steps) if step.kind == "event"]
    steps = scenario.steps[: ends[0]] if ends else scenario.steps
    plain = Scenario(scenario.title, steps, source=scenario.source)
    asyncio.run(dialogue.play_async(plain, peer, timeout=timeout))
