"""`ehlo sendmail`: passes a mail from standard input to an SMTP server, as sendmail's options say.

Exit codes are those of sysexits.h. The message is sent as it is, without its Bcc fields where the
recipients come from the header.
"""

from __future__ import annotations

import getpass
import re
import smtplib
import socket
import sys
from collections.abc import Sequence
from email.utils import getaddresses
from itertools import takewhile
from typing import BinaryIO, Final

import click

from ehlo.cli import wrong
from ehlo.cli.values import AddressText
from ehlo.net import INHERITED, parse_address
from ehlo.server.options.rules import machine_name

EX_USAGE: Final = 64
EX_DATAERR: Final = 65
EX_NOUSER: Final = 67
EX_NOHOST: Final = 68
EX_UNAVAILABLE: Final = 69
EX_TEMPFAIL: Final = 75

_TIMEOUT: Final = 60.0  # seconds
_HEADER_END: Final = re.compile(rb"\r?\n\r?\n|\A\r?\n")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")  # what bytes become that are not UTF-8
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
# A field with the lines that continue it (RFC 5322 2.2.3)
_FIELD: Final = re.compile(rb"^([!-9;-~]+)[ \t]*:(.*(?:\n[ \t].*)*)\n?", re.MULTILINE)
_RECIPIENTS: Final = (b"to", b"cc", b"bcc")
_RESENT: Final = (b"resent-to", b"resent-cc", b"resent-bcc")


class SendmailError(Exception):
    """Raised when a mail cannot be passed on; `code` is the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class _WrongUseError(click.UsageError):
    exit_code = EX_USAGE


class _Sendmail(wrong.ReportedCommand):
    """Describes a command whose wrong usage has sendmail's exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, as click does."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise _WrongUseError(wrong.text_of(error), error.ctx or ctx) from error


@click.command(
    cls=_Sendmail,
    epilog="Exit codes are those of sysexits.h: 64 wrong usage, 67 no such recipient, 69 rejected, "
    "75 try again later. Other options of sendmail (-oi, -oem, -odb, -B, -F, -N, -R, -v) are "
    "accepted and have no effect.",
)
@click.argument("recipients", metavar="[RECIPIENT]...", nargs=-1)
@click.option(
    "-t",
    "from_header",
    is_flag=True,
    help="Send to the addresses in To, Cc and Bcc, too; remove Bcc.",
)
@click.option(
    "-i",
    "ignores_dots",
    is_flag=True,
    help="Read to the end of input; otherwise a line with a dot alone ends it.",
)
@click.option(
    "-f",
    "-r",
    "sender",
    metavar="ADDRESS",
    help="Envelope sender (empty for the null sender).  [your name and host]",
)
@click.option(
    "--smtp",
    metavar="HOST:PORT",
    type=AddressText(),
    default="127.0.0.1:1025",
    envvar="EHLO_SMTP",
    help="Server to send to.  [127.0.0.1:1025]",
)
@click.option("-o", "settings", multiple=True, hidden=True)
@click.option("-b", "mode", hidden=True)
@click.option("-B", "-F", "-N", "-R", "-V", "-X", "-q", "_unused", multiple=True, hidden=True)
@click.option("-v", "-G", "-m", "-n", "-U", "_switches", count=True, hidden=True)
def sendmail(
    recipients: Sequence[str],
    from_header: bool,
    ignores_dots: bool,
    sender: str | None,
    smtp: str,
    settings: Sequence[str],
    mode: str | None,
    **_ignored: object,
) -> None:
    """Send the mail on standard input to an SMTP server, as the program sendmail does."""
    if mode not in (None, "m"):
        raise _WrongUseError(f"-b{mode}: no such mode; leave it out, and give one mail")
    data = _read(sys.stdin.buffer, to_the_end=ignores_dots or "i" in settings)
    try:
        to = [each for text in recipients for each in _addresses_in(text)]
        if from_header:
            found, data = _taken_from_header(data)
            to += found
        if not to:
            advice = "write To, Cc or Bcc, or name one" if from_header else "name one, or give -t"
            raise _WrongUseError(f"no recipient; {advice}")
        if sender is None:
            sender = f"{_login()}@{machine_name()[0]}"
        _send(smtp, sender.strip().strip("<>"), list(dict.fromkeys(to)), data)
    except SendmailError as error:
        wrong.report(click.ClickException(str(error)))
        raise click.exceptions.Exit(error.code) from error


def _read(stream: BinaryIO, *, to_the_end: bool) -> bytes:
    """Return the message, with CRLF line ends."""
    lines = stream if to_the_end else takewhile(lambda line: line not in (b".\n", b".\r\n"), stream)
    return _LINE_END.sub(b"\r\n", b"".join(lines))


def _login() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a user without a name
        return "user"


def _addresses_in(text: str) -> list[str]:
    """Return the addresses in a list of mailboxes. Raises `SendmailError`."""
    try:
        return [address for _, address in getaddresses([text]) if address]
    except RecursionError:  # the standard library calls itself for each comment in a comment
        reason = "comments nested too deeply; remove them"
        raise SendmailError(f"{text[:40]}...: {reason}", EX_DATAERR) from None


def _taken_from_header(data: bytes) -> tuple[list[str], bytes]:
    """Return the recipients that the header names, and the message without its Bcc fields."""
    end = _HEADER_END.search(data)
    stop = len(data) if end is None else end.start()
    header = data[:stop].replace(b"\r\n", b"\n") + b"\n"
    fields = [(match[1].lower(), match[2]) for match in _FIELD.finditer(header)]
    resent = any(name in _RESENT for name, _ in fields)
    wanted = _RESENT if resent else _RECIPIENTS
    found = [
        address
        for name, value in fields
        if name in wanted
        for address in _addresses_in(_unfolded(value))
    ]
    hidden = (b"bcc", b"resent-bcc")
    kept = _FIELD.sub(lambda match: b"" if match[1].lower() in hidden else match[0], header)
    return found, kept.removesuffix(b"\n").replace(b"\n", b"\r\n") + data[stop:]


def _unfolded(value: bytes) -> str:
    """Return a value on one line. Encoded words stay: a name in one has no address (RFC 2047 5)."""
    return " ".join(value.decode("utf-8", "surrogateescape").split())


def _send(smtp: str, sender: str, to: Sequence[str], data: bytes) -> None:
    """Send the message. Raises `SendmailError`."""
    host, port = parse_address(smtp)
    if host.startswith(("unix:", *INHERITED)):
        raise SendmailError(f"--smtp {smtp}: no host; give --smtp HOST:PORT", EX_USAGE)
    for each in (sender, *to):
        if _SURROGATES.search(each):
            raise SendmailError(f"{each}: not UTF-8; write the address in UTF-8", EX_DATAERR)
    try:
        with smtplib.SMTP(
            host or "127.0.0.1", port, local_hostname=machine_name()[0], timeout=_TIMEOUT
        ) as client:
            client.ehlo_or_helo_if_needed()
            refused = client.sendmail(sender, list(to), data, _parameters(client, sender, to, data))
    except smtplib.SMTPRecipientsRefused as error:
        raise _rejected(error.recipients) from error
    except smtplib.SMTPResponseException as error:
        reply = f"{error.smtp_code} {_text(error.smtp_error)}"
        code = EX_TEMPFAIL if error.smtp_code < 500 else EX_UNAVAILABLE
        raise SendmailError(f"{smtp} rejected the mail: {reply}", code) from error
    except smtplib.SMTPNotSupportedError as error:
        raise SendmailError(f"{smtp}: {error}", EX_DATAERR) from error
    except UnicodeError as error:
        reason = "not a host name; give --smtp HOST:PORT"
        raise SendmailError(f"--smtp {smtp}: {reason}", EX_NOHOST) from error
    except socket.gaierror as error:
        reason = f"{error.strerror}; give --smtp HOST:PORT"
        raise SendmailError(f"--smtp {smtp}: {reason}", EX_NOHOST) from error
    except smtplib.SMTPServerDisconnected as error:
        raise SendmailError(f"{smtp} closed the connection: {error}", EX_TEMPFAIL) from error
    except OSError as error:
        reason = f"{error.strerror or error}; start ehlo there, or give another HOST:PORT"
        raise SendmailError(f"--smtp {smtp}: {reason}", EX_TEMPFAIL) from error
    if refused:
        raise _rejected(refused)


def _parameters(client: smtplib.SMTP, sender: str, to: Sequence[str], data: bytes) -> Sequence[str]:
    """Return the parameters of MAIL that the message needs. Raises `SMTPNotSupportedError`."""
    parameters = []
    if not data.isascii() and client.has_extn("8bitmime"):
        parameters.append("BODY=8BITMIME")
    if not "".join((sender, *to)).isascii():
        if not client.has_extn("smtputf8"):
            raise smtplib.SMTPNotSupportedError("addresses that are not ASCII need SMTPUTF8")
        parameters.append("SMTPUTF8")
    return parameters


def _rejected(refused: dict[str, tuple[int, bytes]]) -> SendmailError:
    """Return the error for recipients that were rejected, with the code of the first one."""
    said = [f"{address}: {code} {_text(text)}" for address, (code, text) in refused.items()]
    temporary = all(code < 500 for code, _ in refused.values())
    return SendmailError("; ".join(said), EX_TEMPFAIL if temporary else EX_NOUSER)


def _text(text: bytes | str) -> str:
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return " ".join(shown.split())
