"""`ehlo passwd FILE USER`: users of a file of passwords, added, replaced, deleted.

A password is asked for without echo, or read from a pipe; it is never an argument or in the
environment, where others on the machine could see it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click

from ehlo.passwords import hashes
from ehlo.passwords.file import PasswordFile, check_username

__all__ = ["passwd"]

_LONGEST = 8192  # octets; a line of AUTH would not hold more


@click.command(
    epilog="On a terminal the password is asked for twice, without echo; otherwise it is the first "
    "line of standard input.",
)
@click.argument("path", metavar="FILE")
@click.argument("user", metavar="USER")
@click.option(
    "--scheme",
    "schemes",
    type=click.Choice(list(hashes.SCHEMES)),
    multiple=True,
    allow_from_autoenv=False,
    help="How to keep the password; both kinds of SCRAM may be given.  [scrypt]",
)
@click.option("--delete", is_flag=True, allow_from_autoenv=False, help="Delete the user.")
def passwd(path: str, user: str, schemes: tuple[str, ...], delete: bool) -> None:
    """Add USER to a FILE of passwords, or replace the password.

    The FILE is the --auth-file of a server, which need not be told of the change.
    """
    if delete and schemes:
        raise click.UsageError("--scheme: there is none to choose with --delete")
    try:
        said = _delete(path, user) if delete else _set(path, user, schemes)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    click.echo(said)


def _delete(path: str, user: str) -> str:
    if not PasswordFile(path).remove(user):
        raise click.ClickException(f"{path}: no user {user!r}")
    return f"deleted {user}"


def _set(path: str, user: str, schemes: tuple[str, ...]) -> str:
    """What is wrong already is said before anybody types a password."""
    passwords = PasswordFile(path)
    check_username(user)
    for scheme in schemes:
        hashes.scheme(scheme)
    if Path(path).exists():
        passwords.load()
    replaced = passwords.set(user, _password(), *schemes)
    return f"{'replaced' if replaced else 'added'} {user}"


def _password() -> str | bytes:
    if not sys.stdin.isatty():
        return _line_of(sys.stdin.buffer)
    password: str = click.prompt(
        "Password",
        default="",  # which `set` refuses; click would ask again without a word
        show_default=False,
        hide_input=True,
        confirmation_prompt="The same again",
        err=True,
    )
    return password


def _line_of(stream: BinaryIO) -> bytes:
    """Its first line, without its end. Raises `ValueError` for one that no client could send."""
    line = stream.readline(_LONGEST + 2)
    password = line.removesuffix(b"\n").removesuffix(b"\r")
    if len(password) > _LONGEST:
        raise ValueError(f"the password has more than {_LONGEST} octets")
    return password
