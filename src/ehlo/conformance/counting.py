"""Cases that count replies: wrong ends of data, oversize bodies, injection before TLS, and drips.

A server that reads content as a command replies to it. So each session is sent to its QUIT, and
what comes back must be one reply to the message, and one to QUIT.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Final

from ehlo.conformance.probe import (
    CLOSED,
    CaseFailedError,
    Heard,
    NotTriedError,
    Probe,
)
from ehlo.conformance.trial import Case, Trial

_HEADER: Final = b"Subject: ehlo check\r\n\r\n"
_SMUGGLED: Final = b"EHLO smuggled.example\r\n"
_END: Final = b"\r\n.\r\n"
_ONE_REPLY: Final = "one reply to the message, then 221 (or a rejection, and the end)"
_REJECTED: Final = 400
_LEAVING: Final = (221, 421)
_LARGEST: Final = 64 * 1024 * 1024  # bytes that are sent to get over a limit
_OVER: Final = 65_536  # bytes over it
_LINE: Final = b"NOOP " + b"x" * 489 + b"\r\n"  # as long a command as any server must take


# -- the end of data -----------------------------------------------------------------------------

WRONG_ENDS: Final[dict[str, bytes]] = {
    "LF . LF": b"\n.\n",
    "LF . CRLF": b"\n.\r\n",
    "CRLF . LF": b"\r\n.\n",
    "CR . CR": b"\r.\r",
    "CR . CRLF": b"\r.\r\n",
    "CRLF . CR": b"\r\n.\r",
    "CR . LF": b"\r.\n",
    "LF . CR": b"\n.\r",
    "LFCR . LFCR": b"\n\r.\n\r",
    "CRCRLF . CRCRLF": b"\r\r\n.\r\r\n",
    "CRLF . CRCRLF": b"\r\n.\r\r\n",
    "CRLF .. CRLF": b"\r\n..\r\n",
    "CRLF . SP CRLF": b"\r\n. \r\n",
    "CRLF . TAB CRLF": b"\r\n.\t\r\n",
    "CRLF SP . CRLF": b"\r\n .\r\n",
    "CRLF . NUL CRLF": b"\r\n.\0\r\n",
    "CRLF NUL . CRLF": b"\r\n\0.\r\n",
    "CRLF . VT": b"\r\n.\x0b",
    "CRLF . FF CRLF": b"\r\n.\x0c\r\n",
    "NEL . NEL": b"\xc2\x85.\xc2\x85",
    "LS . LS": "\u2028.\u2028".encode(),
}
"""What does not end a message (RFC 5321 2.3.8, 4.1.1.4), by name."""


def _try_end(end: bytes, trial: Trial) -> None:
    """The wrong end in the middle of a packet, and as the last bytes of one."""
    before, after = _HEADER + b"before" + end, _SMUGGLED + b"after" + _END
    with trial.session("data") as probe:
        probe.send(before + after)
        _see_one_message(probe)
    with trial.session("data") as probe:
        probe.send(before)
        probe.expect_silence(trial.patience.hush)
        probe.send(after)
        _see_one_message(probe)


def _see_one_message(probe: Probe) -> None:
    """Send QUIT. Raises `CaseFailedError` unless it and one message have been replied to."""
    sent = probe.sent
    heard = _and_quit(probe)
    match heard:
        case []:  # it has closed: nothing was accepted
            return
        case [Heard(code=code)] if code >= _REJECTED:
            return
        case [Heard(code=first), Heard(code=second)] if first > 0 and (
            second == _LEAVING[0] or (second == _LEAVING[1] and first >= _REJECTED)
        ):
            return
        case _:
            raise CaseFailedError(sent, _ONE_REPLY, heard)


def _and_quit(probe: Probe) -> list[Heard]:
    """Hear a reply, send QUIT, and hear the rest. `probe` is not left again."""
    first = probe.hear()
    if not first.is_reply:
        heard = [] if first.code == CLOSED else [first]
    else:
        probe.send(b"QUIT\r\n")
        heard = [first, *probe.rest()]
    probe.last = Heard(CLOSED, ())
    return heard


# -- over the limit ------------------------------------------------------------------------------


def _limit(trial: Trial) -> int:
    """The number of bytes to send. Raises `NotTriedError` if that is too much."""
    size = trial.keywords.get("SIZE", "")
    limit = int(size) if re.fullmatch(r"[0-9]{1,20}", size) else 0
    if not 0 < limit <= _LARGEST:
        raise NotTriedError(f"SIZE {size or 'without a number'}: too large to send more than that")
    return limit + _OVER


def _try_oversize(trial: Trial) -> None:
    count = _limit(trial) // len(_LINE) + 1
    with trial.session("data") as probe:
        probe.send(_HEADER)
        probe.send_often(_LINE, count)
        probe.send(_END)
        _see_one_message(probe)


def _try_oversize_chunk(trial: Trial) -> None:
    count = _limit(trial) // len(_LINE) + 1
    with trial.session("rcpt") as probe:
        probe.send(b"BDAT %d LAST\r\n" % (count * len(_LINE)))
        probe.send_often(_LINE, count)
        _see_one_message(probe)


# -- STARTTLS ------------------------------------------------------------------------------------


def _try_injection(trial: Trial) -> None:
    with trial.session("ehlo") as probe:
        probe.send(b"STARTTLS\r\n" + _SMUGGLED)
        if not probe.hear().fits("220"):
            return  # it has been rejected, or the server has closed
        probe.expect_silence(trial.patience.hush)  # a reply in clear text
        if not probe.secure():
            probe.last = Heard(CLOSED, ())
            return
        probe.send(b"NOOP\r\n")
        heard = _and_quit(probe)
        if not _are_of_two_commands(heard):
            sent = b"STARTTLS\r\n" + _SMUGGLED + b"(TLS)NOOP\r\nQUIT\r\n"
            raise CaseFailedError(sent, "no reply to EHLO, one to NOOP, 221", heard)


def _are_of_two_commands(heard: Sequence[Heard]) -> bool:
    few = len(heard) < 2 or (len(heard) == 2 and heard[1].code in _LEAVING)
    return few and all(each.is_reply and len(each.lines) == 1 for each in heard)


def _try_forgetting(trial: Trial) -> None:
    with trial.session("mail") as probe:
        probe.send(b"STARTTLS\r\n")
        if not probe.hear().fits("220"):
            return  # not in a transaction
        if not probe.secure():
            raise CaseFailedError(probe.sent, "TLS", [])
        probe.send(f"RCPT TO:<{trial.recipient}>\r\n".encode())
        probe.expect("5xx")


# -- packets -------------------------------------------------------------------------------------


def _try_drip(trial: Trial) -> None:
    """A whole session in single bytes, with the end of data cut everywhere."""
    exchanges = (
        ("EHLO client.example", "250"),
        (f"MAIL FROM:<{trial.sender}>", "250"),
        (f"RCPT TO:<{trial.recipient}>", "250 251"),
        ("DATA", "354"),
        ("Subject: drip\r\n\r\n..\r\n.x\r\n.", "2xx 4xx 5xx"),
        ("NOOP", "250"),
    )
    with trial.session("rcpt"):
        pass  # so that a recipient who is rejected is no failure
    with trial.session("greeting") as probe:
        for line, expected in exchanges:
            probe.expect_silence()
            for octet in line.encode() + b"\r\n":
                probe.send(bytes([octet]))
            probe.expect(expected)


# -- words ---------------------------------------------------------------------------------------

_DOMAIN: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Za-z:.]+\]")


def _try_greeting(trial: Trial) -> None:
    with trial.session("greeting") as probe:
        _see_a_name(b"(a connection)", probe.last)


def _try_hello(verb: str, trial: Trial) -> None:
    with trial.session("greeting") as probe:
        probe.send(f"{verb} client.example\r\n".encode())
        _see_a_name(probe.sent, probe.expect("250"))


def _see_a_name(sent: bytes, heard: Heard) -> None:
    if _DOMAIN.fullmatch(heard.lines[0][4:].split(" ")[0]) is None:
        raise CaseFailedError(sent, "a domain or an address literal behind the code", [heard])


def _try_keywords(trial: Trial) -> None:
    with trial.session("ehlo") as probe:
        names = [line[4:].split(" ")[0] for line in probe.last.lines[1:]]
        wrong = [name for name in names if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", name) is None]
        if wrong or len({name.upper() for name in names}) < len(names):
            expected = "each keyword once, of letters, digits and hyphens"
            raise CaseFailedError(b"EHLO client.example\r\n", expected, [probe.last])


def _try_advance(trial: Trial) -> None:
    """Replies that come before there is a command."""
    with trial.session("greeting") as probe:
        probe.expect_silence(trial.patience.hush)
    with trial.session("ehlo") as probe:
        probe.expect_silence(trial.patience.hush)


CASES: Final[tuple[Case, ...]] = (
    *(
        Case(
            f"{name} does not end a message",
            "must",
            "RFC 5321 4.1.1.4",
            "end of data",
            partial(_try_end, end),
        )
        for name, end in WRONG_ENDS.items()
    ),
    Case(
        "A session in single bytes works",
        "must",
        "RFC 5321 2.3.8",
        "end of data",
        _try_drip,
    ),
    Case(
        "No byte of an oversize message is read as a command",
        "must",
        "RFC 5321 4.1.1.4",
        "limits",
        _try_oversize,
        ("SIZE",),
    ),
    Case(
        "No byte of an oversize chunk is read as a command",
        "must",
        "RFC 3030 2",
        "chunks",
        _try_oversize_chunk,
        ("CHUNKING", "SIZE"),
    ),
    Case(
        "A command behind STARTTLS in the same packet is not obeyed",
        "must",
        "RFC 3207 4.2",
        "tls",
        _try_injection,
        ("STARTTLS",),
    ),
    Case(
        "The transaction before STARTTLS is forgotten",
        "must",
        "RFC 3207 4.2",
        "tls",
        _try_forgetting,
        ("STARTTLS",),
    ),
    Case(
        "The greeting begins with the server's name",
        "must",
        "RFC 5321 4.2",
        "replies",
        _try_greeting,
    ),
    *(
        Case(
            f"The reply to {verb} begins with the server's name",
            "must",
            "RFC 5321 4.1.1.1",
            "replies",
            partial(_try_hello, verb),
        )
        for verb in ("EHLO", "HELO")
    ),
    Case(
        "The reply to EHLO has each keyword once",
        "must",
        "RFC 5321 4.1.1.1",
        "replies",
        _try_keywords,
    ),
    Case(
        "No reply comes before its command",
        "must",
        "RFC 5321 4.2",
        "replies",
        _try_advance,
    ),
)
"""The cases of this file."""
