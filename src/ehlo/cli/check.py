"""`ehlo check HOST:PORT`: tries a server with a battery of cases, and prints what failed.

Exit codes: 0 if all passed that a server must do; 1 if one of them failed; 2 for wrong usage; 3 if
there is no connection, or if a case could not be tried.
"""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import click

from ehlo.cli import wrong
from ehlo.cli.readable import one_line, plural
from ehlo.cli.values import AddressText, Seconds, wrong_value
from ehlo.net import INHERITED, Peer, is_loopback, parse_address

if TYPE_CHECKING:
    from ehlo.conformance import Case, Result

EX_FAILED: Final = 1
EX_NOT_TRIED: Final = 3

_CONNECT: Final = 5.0  # seconds

# What is quoted in commands as it is: it needs no quotes, and leaves no brackets
_MAILBOX: Final = re.compile(r"[\w!#$%&'*+/=?^`.~-]{1,64}@[\w.-]{1,200}", re.ASCII)


class _NoServerError(click.ClickException):
    exit_code = EX_NOT_TRIED


@click.command(
    cls=wrong.ReportedCommand,
    epilog="Exit codes: 0 passed, 1 a must failed, 2 wrong usage, 3 no connection, or a case that "
    "could not be tried.",
)
@click.argument("server", metavar="HOST:PORT", type=AddressText())
@click.option(
    "--to",
    "recipient",
    metavar="ADDRESS",
    default="recipient@example.com",
    help="Recipient of the messages.  [recipient@example.com]",
)
@click.option(
    "--from",
    "sender",
    metavar="ADDRESS",
    default="sender@example.org",
    help="Envelope sender of the messages.  [sender@example.org]",
)
@click.option(
    "--i-own-this-server",
    "is_owner",
    is_flag=True,
    allow_from_autoenv=False,
    help="Allow a server on another machine. It gets mail and malformed commands.",
)
@click.option("--only", metavar="CASE", multiple=True, help="Case to try, by its name. Repeatable.")
@click.option(
    "--all",
    "shows_all",
    is_flag=True,
    allow_from_autoenv=False,
    help="Print each case, and not only failures.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    allow_from_autoenv=False,
    help="Print all results as one JSON object.",
)
@click.option(
    "--timeout",
    type=Seconds(),
    default=10.0,
    help="Seconds to wait for each reply.  [10]",
)
@click.option(
    "--total-timeout",
    type=Seconds(),
    default=300.0,
    help="Seconds for all cases.  [300]",
)
def check(
    server: str,
    recipient: str,
    sender: str,
    is_owner: bool,
    only: Sequence[str],
    shows_all: bool,
    as_json: bool,
    timeout: float,
    total_timeout: float,
) -> None:
    """Check what the SMTP server at HOST:PORT does, and print what is wrong.

    It tries syntax, order, ends of data, STARTTLS, BDAT, pipelining and limits. It sends mail: a
    server that accepts the recipient gets about 70 messages.
    """
    for flag, address in (("--to", recipient), ("--from", sender)):
        if _MAILBOX.fullmatch(address) is None:
            raise click.UsageError(f"{flag} {address}: not an address; write user@example.com")
    for flag, seconds in (("--timeout", timeout), ("--total-timeout", total_timeout)):
        if not 0 < seconds < 1e6:
            raise click.UsageError(f"{flag} {seconds:g}: out of range; write a number over 0")
    peer = _resolved(server, is_owner=is_owner)
    from ehlo import conformance  # it reads its cases

    cases = _chosen(only, conformance.CASES)
    patience = conformance.Patience(reply=timeout, total=total_timeout)
    click.echo(f"ehlo: sending mail from {sender} to {recipient} at {server}", err=True)
    results: list[Result] = []
    try:
        for result in conformance.check(
            peer, sender=sender, recipient=recipient, patience=patience, cases=cases
        ):
            results.append(result)
            if not as_json and (shows_all or result.outcome == "failed"):
                click.echo("\n".join(_lines_of(result)))
    except ConnectionError as error:
        raise _NoServerError(f"{server}: {error}") from error
    click.echo(_json(server, results) if as_json else "\n".join(_summary(results)))
    raise click.exceptions.Exit(_exit_code(results))


def _resolved(server: str, *, is_owner: bool) -> Peer:
    """Return the address to connect to, as a number: it is the one that has been checked."""
    host, port = parse_address(server)
    if host.startswith(("unix:", *INHERITED)):
        raise click.UsageError(f"{server}: no host; write HOST:PORT")
    try:
        found = socket.getaddrinfo(host or "127.0.0.1", port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise _NoServerError(f"{server}: {reason}; give another HOST:PORT") from error
    hosts = [str(address[0]) for *_, address in found]
    if not is_owner and not all(map(is_loopback, hosts)):
        raise click.UsageError(
            f"{server} is not a loopback address: the check sends mail and malformed commands; add "
            "--i-own-this-server if the server is yours"
        )
    return Peer(next((each for each in hosts[:-1] if _answers(each, port)), hosts[-1]), port)


def _answers(host: str, port: int) -> bool:
    """Return whether something listens there: a name may have an address that nothing serves."""
    try:
        socket.create_connection((host, port), _CONNECT).close()
    except OSError:
        return False
    return True


def _chosen(only: Sequence[str], cases: Sequence[Case]) -> Sequence[Case]:
    if not only:
        return cases
    by_name = {case.name: case for case in cases}
    for name in only:
        if name not in by_name:
            context = click.get_current_context()
            param = next(param for param in context.command.params if param.name == "only")
            raise wrong_value(name, "no such case; --json lists their names", param, context)
    return [by_name[name] for name in only]


def _failed_musts(results: Sequence[Result]) -> int:
    return sum(result.outcome == "failed" and result.case.level == "must" for result in results)


def _exit_code(results: Sequence[Result]) -> int:
    if _failed_musts(results):
        return EX_FAILED
    return EX_NOT_TRIED if any(result.outcome == "not tried" for result in results) else 0


# -- for a person --------------------------------------------------------------------------------


def _lines_of(result: Result) -> Iterator[str]:
    case = result.case
    yield f"{result.outcome:11}  {case.level:6}  {case.section:20}  {case.title}"
    if result.outcome == "failed":
        for name in ("sent", "expected", "replied"):
            yield f"{'':11}  {name:8}  {one_line(getattr(result, name))}"


def _summary(results: Sequence[Result]) -> Iterator[str]:
    outcomes = Counter(result.outcome for result in results)
    for outcome in ("not offered", "not tried"):
        reasons = Counter(result.reason for result in results if result.outcome == outcome)
        for reason, count in reasons.items():
            yield f"{outcome:11}  {plural(count, 'case')}: {one_line(reason)}"
    yield ", ".join(
        [
            plural(len(results), "case"),
            f"{outcomes['passed']} passed",
            f"{outcomes['failed']} failed ({_failed_musts(results)} must)",
            f"{outcomes['not offered']} not offered",
            f"{outcomes['not tried']} not tried",
        ]
    )


# -- for programs --------------------------------------------------------------------------------


def _json(server: str, results: Sequence[Result]) -> str:
    outcomes = Counter(result.outcome.replace(" ", "_") for result in results)
    names = ("passed", "failed", "not_offered", "not_tried")
    return json.dumps(
        {
            "server": server,
            "counts": {name: outcomes[name] for name in names},
            "cases": [
                {
                    "name": result.case.name,
                    "title": result.case.title,
                    "group": result.case.group,
                    "level": result.case.level,
                    "section": result.case.section,
                    "outcome": result.outcome,
                    "sent": result.sent,
                    "expected": result.expected,
                    "replied": result.replied,
                    "reason": result.reason,
                }
                for result in results
            ],
        }
    )
