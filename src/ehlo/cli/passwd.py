"""`ehlo passwd FILE USER`: adds, replaces and deletes users of a password file.

A password is prompted for without echo, or read from a pipe. It is never an argument or in the
environment, where other users of the machine could see it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click

from ehlo.cli.values import Choice
from ehlo.cli.wrong import ReportedCommand
from ehlo.passwords import hashes
from ehlo.passwords.file import PasswordFile
from ehlo.passwords.lines import check_username

_LONGEST = 8192  # bytes; a line of AUTH holds no more


@click.command(
    cls=ReportedCommand,
    epilog="On a terminal, the command prompts for the password twice, without echo. Otherwise the "
    "password is the first line of standard input.",
)
@click.argument("path", metavar="FILE")
@click.argument("user", metavar="USER")
@click.option(
    "--scheme",
    "schemes",
    type=Choice(list(hashes.SCHEMES), {}),
    metavar=f"[{'|'.join(hashes.SCHEMES)}]",
    multiple=True,
    allow_from_autoenv=False,
    help="How to store the password; repeatable for both kinds of SCRAM.  [scrypt]",
)
@click.option("--delete", is_flag=True, allow_from_autoenv=False, help="Delete the user.")
def passwd(path: str, user: str, schemes: tuple[str, ...], delete: bool) -> None:
    """Add USER to the password FILE, or replace the password of USER.

    FILE is the --auth-file of a server, which notices the change by itself.
    """
    if delete and schemes:
        raise click.UsageError("--scheme cannot be combined with --delete; leave one out")
    try:
        done = _delete(path, user) if delete else _set(path, user, schemes)
    except ValueError as error:
        text = str(error)
        raise click.UsageError(
            f"USER {user}: {text}" if text.startswith("a user name") else text
        ) from error
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    click.echo(done)


def _delete(path: str, user: str) -> str:
    if not PasswordFile(path).remove(user):
        raise click.ClickException(f"{path}: no user {user!r}")
    return f"deleted {user}"


def _set(path: str, user: str, schemes: tuple[str, ...]) -> str:
    """Set a password; errors of the file or the user are reported before it is typed."""
    passwords = PasswordFile(path)
    check_username(user)
    for scheme in schemes:
        hashes.scheme(scheme)
    is_new = not Path(path).exists()
    if not is_new:
        passwords.load()
    if passwords.set(user, _password(), *schemes):
        return f"replaced {user}"
    return f"added {user} to the new file {path}" if is_new else f"added {user}"


def _password() -> str | bytes:
    if not sys.stdin.isatty():
        return _line_of(sys.stdin.buffer)
    password: str = click.prompt(
        "Password",
        default="",  # which `set` rejects; click would prompt again without an error
        show_default=False,
        hide_input=True,
        confirmation_prompt="Repeat the password",
        err=True,
    )
    return password


def _line_of(stream: BinaryIO) -> bytes:
    """Return the first line without its end. Raises `ValueError` if no client could send it."""
    line = stream.readline(_LONGEST + 2)
    password = line.removesuffix(b"\n").removesuffix(b"\r")
    if len(password) > _LONGEST:
        raise ValueError(f"the password has more than {_LONGEST} bytes")
    return password
