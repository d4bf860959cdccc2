"""Texts that show a person what an inbox has received: why a wait has failed, and a report."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from ehlo.testing.received import ReceivedMail, Rejection
from ehlo.transcript import Transcript

_WIDTH: Final = 74  # columns: pytest puts some in front of each line
_MOST: Final = 10  # mails, and rejections, that are shown
_LAST_LINES: Final = 8  # of the session that is shown where there is nothing else
_MOST_TEXT: Final = 20  # lines of a mail in a report


def explain(
    head: str,
    mails: Sequence[ReceivedMail],
    rejected: Sequence[Rejection],
    sessions: Sequence[Transcript],
) -> str:
    """Return `head`, and below it what did arrive and what was rejected, each in a narrow line."""
    lines = [*_wrapped(head)]
    if mails:
        lines += ["", f"Arrived: {len(mails)}"]
        lines += _last(mails, [line for mail in mails[-_MOST:] for line in _shown(mail)])
    if rejected:
        lines += ["", f"Rejected: {len(rejected)}"]
        lines += _last(rejected, [line for each in rejected[-_MOST:] for line in _refusal(each)])
    if not mails and not rejected:
        lines += ["", *_silence(sessions)]
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_on_hyphens=False)


def _last(all_of_them: Sequence[object], lines: list[str]) -> list[str]:
    more = len(all_of_them) - _MOST
    return [f"  ({more} earlier ones are not shown)", *lines] if more > 0 else lines


def _shown(mail: ReceivedMail) -> Iterator[str]:
    yield _cut(f"  {mail.id}. to {', '.join(mail.rcpt_tos)}")
    yield _cut(f"     from {mail.mail_from or '<>'}, subject {mail.subject!r}")


def _refusal(rejection: Rejection) -> Iterator[str]:
    yield _cut(f"  {rejection.command}")
    yield _cut(f"     {rejection.reply}")


def _silence(sessions: Sequence[Transcript]) -> Iterator[str]:
    """Yield what is known where no mail has arrived."""
    if not sessions:
        yield "Nothing arrived: no client has connected."
        return
    yield f"Nothing arrived in {len(sessions)} session{'s' * (len(sessions) > 1)}. The last one:"
    lines = str(sessions[-1]).splitlines()
    if len(lines) > _LAST_LINES:
        yield "  ..."
    yield from (_cut(f"  {line}") for line in lines[-_LAST_LINES:])


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."


def report_of(mails: Sequence[ReceivedMail], sessions: Sequence[Transcript]) -> str:
    """Return all mails, and the transcripts of all sessions, for the report of a test."""
    return "\n".join([*_every_mail(mails), *_every_session(sessions)])


def _every_mail(mails: Sequence[ReceivedMail]) -> Iterator[str]:
    for mail in mails:
        yield f"mail {mail.id} from {mail.mail_from or '<>'} to {', '.join(mail.rcpt_tos)}"
        yield f"  Subject: {mail.subject}"
        lines = mail.text.rstrip("\n").split("\n")
        yield from (f"  | {line}".rstrip() for line in lines[:_MOST_TEXT])
        if len(lines) > _MOST_TEXT:
            yield f"  | ... ({len(lines) - _MOST_TEXT} more lines)"
        for each in mail.attachments:
            name = each.filename or each.subject or "(no name)"
            yield f"  + {name}, {each.content_type}, {each.size} bytes"
        yield ""
    if not mails:
        yield "no mail"
        yield ""


def _every_session(sessions: Sequence[Transcript]) -> Iterator[str]:
    for number, session in enumerate(sessions, 1):
        yield f"session {number}"
        yield str(session)
        yield ""
    if not sessions:
        yield "no session"
