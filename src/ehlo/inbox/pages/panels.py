"""Panels: what a page shows of one message, read in a thread, and bounded whatever the mail is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ehlo.content import Code, Content, Link, Mailbox, read_content
from ehlo.content.breather import Rest
from ehlo.content.fields import one_line
from ehlo.content.links import find_addresses, most_links
from ehlo.content.mime import Part
from ehlo.content.summary import read_people
from ehlo.content.transfer import decoded_size
from ehlo.inbox.api.anatomy import Anatomy, rest_for
from ehlo.inbox.api.single import RASTER
from ehlo.inbox.circumstances import facts_to_show
from ehlo.inbox.pages.rendering import is_web
from ehlo.store import StoredMail, StoredMessage, StoredSession
from ehlo.transcript import Line

LONGEST_TEXT: Final = 262_144
"""Characters of a text that a page shows; a link leads to all of it."""
LONGEST_SUBJECT: Final = 500
"""Characters of a subject that a page shows."""
MOST_ROWS: Final = 1_000
"""Header fields, parts or lines of a session that a page shows."""
MOST_LINKS: Final = 12
"""Links of a message that its head shows."""
MOST_CODES: Final = 3
"""Codes of a message that its head shows."""
TABS: Final = {
    "html": "HTML",
    "text": "Text",
    "source": "Source",
    "headers": "Headers",
    "raw": "Raw",
    "parts": "Parts",
    "session": "Session",
}
"""The tabs of a message: the last segment of their address, and their title."""

# What makes a browser load something from elsewhere
_REMOTE: Final = re.compile(
    r"""(?:\b(?:src|srcset|background|poster|data)\s*=\s*["']?\s*|url\(\s*["']?\s*)(?:https?:)?//"""
    r"""|@import|<link\b[^>]{0,200}(?:https?:)?//""",
    re.IGNORECASE,
)
_SLICE: Final = 32_768  # characters of HTML that are searched at once
_LONGEST_REMOTE: Final = 512  # characters of what is found there
_OF_HTML: Final = ("html", "source")
_FACTS: Final = {
    "session": "Session",
    "peer": "Client",
    "local": "Server",
    "helo": "HELO",
    "esmtp": "ESMTP",
    "tls": "TLS",
    "params": "Parameters",  # as far as they do not have the usual form
    "received": "Received field",  # the head says when the message was received
}
_LIKELY: Final = 0.5  # the least score of a code that is shown
_DEEPEST: Final = 12  # indentations in the MIME tree

_Numbered = tuple[str, int, Part]


class Row(NamedTuple):
    """A mail in the list."""

    mail: StoredMail
    sender: Mailbox
    """Who the message says it is from; empty without a From."""
    mail_from: str
    """The envelope sender, if the row shows it because there is no From."""
    receivers: list[Mailbox]
    """The first of the recipients, the hidden ones as well; empty without any."""
    more_receivers: int
    subject: str
    snippet: str
    attachments: int


class ShownPart(NamedTuple):
    """A part in the MIME tree."""

    id: str
    depth: int
    kind: str
    """The media type."""
    filename: str
    charset: str
    encoding: str
    disposition: str
    content_id: str
    size: int
    """The size in bytes, decoded."""
    tab: str
    """The tab that shows it, if it is not served."""
    is_served: bool
    """Whether the API has its bytes: it is a leaf, and no text or HTML of the message."""
    is_leaf: bool


class ShownFile(NamedTuple):
    """An attachment."""

    id: str
    """The id of its part."""
    name: str
    kind: str
    is_inline: bool
    size: int
    is_image: bool


class ShownLine(NamedTuple):
    """A line of a session."""

    at: float
    """Seconds since the first line."""
    gap: float
    """Seconds since the line before."""
    who: str
    text: str
    kind: str
    """How it is drawn: `client`, `server`, `note`, or `failed` for a 4xx or 5xx reply."""


class ShownSession(NamedTuple):
    """A session that brought no mail."""

    number: int
    created: float
    peer: str
    last: str
    """The line that says best how it ended."""
    kind: str
    """How that line is drawn; see `ShownLine`."""
    panel: Panel


class ShownText(NamedTuple):
    """A piece of a text, which may be a link."""

    text: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Holds what one tab shows; the other fields are empty."""

    text: Sequence[ShownText] = ()
    headers: Sequence[tuple[str, str]] = ()
    parts: Sequence[ShownPart] = ()
    lines: Sequence[ShownLine] = ()
    facts: Sequence[tuple[str, str]] = ()
    unshown: int = 0
    """The number of characters, bytes, fields, parts or lines that are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """Holds what a page shows of a message, for one of its tabs."""

    row: Row
    to: list[Mailbox]
    cc: list[Mailbox]
    bcc: list[Mailbox]
    reply_to: list[Mailbox]
    mail_from: str
    rcpt_tos: Sequence[str]
    answer: str
    """What the handler behind the inbox has answered, if there is one."""
    tab: str
    tabs: dict[str, str]
    panel: Panel
    has_remote: bool
    """Whether the HTML would load something from elsewhere."""
    codes: Sequence[Code]
    links: Sequence[Link]
    files: Sequence[ShownFile]
    unshown_subject: int


def row_of(mail: StoredMail) -> Row:
    """Return what the list shows of a mail, without its envelope sender."""
    summary = json.loads(mail.summary)
    boxes = _mailboxes([*summary["To"], *summary["Cc"], *summary["Bcc"]])
    return Row(
        mail,
        Mailbox(summary["From"]["Name"], summary["From"]["Address"]),
        "",
        boxes[:1],
        max(len(boxes) + _omitted(summary) - 1, 0),
        summary["Subject"][:LONGEST_SUBJECT],
        summary["Snippet"],
        summary["Attachments"],
    )


def _omitted(summary: Mapping[str, Mapping[str, int]]) -> int:
    """Return the number of recipients that a summary leaves out."""
    omitted = summary.get("Omitted", {})
    return sum(omitted.get(name, 0) for name in ("To", "Cc", "Bcc"))


def letter_of(stored: StoredMessage, tab: str) -> Letter:
    """Return what a page shows of a message; `tab` is empty for the best one.

    It takes time in proportion to the message, so call it in a thread.
    """
    rest = rest_for(len(stored.data))
    content = read_content(stored.data, rest)
    html = content.html or ""
    tabs = {name: title for name, title in TABS.items() if html or name not in _OF_HTML}
    tab = tab if tab in tabs else next(iter(tabs))
    numbered = list(number_parts(content.root))
    _sender, to, cc, bcc, reply_to = read_people(content.root, stored.rcpt_tos)
    return Letter(
        row=row_of(stored.mail),
        to=to,
        cc=cc,
        bcc=bcc,
        reply_to=reply_to,
        mail_from=stored.mail_from,
        rcpt_tos=stored.rcpt_tos,
        answer=_fact(stored.facts.get("answer")),
        tab=tab,
        tabs=tabs,
        panel=_panel_of(tab, stored, content, numbered),
        has_remote=_is_remote(html, rest),
        codes=[code for code in content.codes if code.score >= _LIKELY][:MOST_CODES],
        links=content.links[:MOST_LINKS],
        files=_files_of(content, numbered),
        unshown_subject=max(len(content.subject) - LONGEST_SUBJECT, 0),
    )


def _is_remote(html: str, rest: Rest) -> bool:
    """Return whether HTML would load something from elsewhere; it is searched in slices."""
    for start in range(0, len(html), _SLICE):
        if _REMOTE.search(html, start, start + _SLICE + _LONGEST_REMOTE) is not None:
            return True
        rest()
    return False


def _mailboxes(boxes: list[dict[str, str]]) -> list[Mailbox]:
    return [Mailbox(each["Name"], each["Address"]) for each in boxes]


def _panel_of(
    tab: str, stored: StoredMessage, content: Content, numbered: list[_Numbered]
) -> Panel:
    match tab:
        case "text":
            shown, unshown = _cut(content.text)
            return Panel(text=_with_links(shown), unshown=unshown + content.omitted)
        case "source":
            shown, unshown = _cut(content.html or "")
            return Panel(text=[ShownText(shown, "")], unshown=unshown)
        case "headers":
            headers = content.headers
            unshown = max(len(headers) - MOST_ROWS, 0) + content.omitted_headers
            return Panel(headers=headers[:MOST_ROWS], unshown=unshown)
        case "raw":
            data = stored.data[:LONGEST_TEXT].decode(errors="replace")
            unshown = max(len(stored.data) - LONGEST_TEXT, 0)
            return Panel(text=[ShownText(data.replace("\r\n", "\n"), "")], unshown=unshown)
        case "parts":
            anatomy = Anatomy(stored.data)
            parts = [_part_of(each, stored.data, anatomy) for each in numbered[:MOST_ROWS]]
            return Panel(parts=parts, unshown=max(len(numbered) - MOST_ROWS, 0))
        case "session":
            envelope = {
                "Envelope sender": stored.mail_from or "<>",
                "Envelope recipients": ", ".join(stored.rcpt_tos),
                "Login": stored.mail.username,
            }
            return _session_panel(stored.transcript, {**envelope, **facts_to_show(stored)})
    return Panel()


def _cut(text: str) -> tuple[str, int]:
    return text[:LONGEST_TEXT], max(len(text) - LONGEST_TEXT, 0)


def _with_links(text: str) -> list[ShownText]:
    pieces = []
    at = 0
    for url, start, end in find_addresses(text, most_links(len(text))):
        pieces.append(ShownText(text[at:start], ""))
        pieces.append(ShownText(text[start:end], url if is_web(url) else ""))
        at = end
    return [*pieces, ShownText(text[at:], "")]


def visit_of(session: StoredSession) -> ShownSession:
    """Return what a page shows of a session that brought no mail."""
    panel = _session_panel(session.transcript, {"Login": session.username, **session.facts})
    failed = [line for line in panel.lines if line.kind == "failed"]
    told = failed or [line for line in panel.lines if line.who == "client"] or panel.lines
    last = told[-1] if told else ShownLine(0, 0, "note", "", "note")
    peer = _fact(session.facts.get("peer", ""))
    return ShownSession(session.number, session.created, peer, last.text, last.kind, panel)


def _session_panel(lines: Sequence[Line], facts: Mapping[str, object]) -> Panel:
    known = [(_FACTS.get(name, name), _fact(value)) for name, value in facts.items()]
    return Panel(
        lines=_lines_of(lines[:MOST_ROWS]),
        facts=[(name, value) for name, value in known if value],
        unshown=max(len(lines) - MOST_ROWS, 0),
    )


def _lines_of(lines: Sequence[Line]) -> list[ShownLine]:
    shown = []
    start = before = lines[0].time if lines else 0.0
    for at, who, text in lines:
        kind = "failed" if who == "server" and text[:1] in ("4", "5") else who
        shown.append(ShownLine(at - start, at - before, who, text, kind))
        before = at
    return shown


def _fact(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "yes" if value else "no"
        case {"version": str() as version, "cipher": str() as cipher}:
            return f"{version}, {cipher}"
    return json.dumps(value, ensure_ascii=False)


# -- parts -----------------------------------------------------------------------------------------


def number_parts(root: Part) -> Iterator[tuple[str, int, Part]]:
    """Yield the id, the depth and each part of a message: `0`, `1`, `1.1`, `1.2`, `2`."""
    waiting = [("0", 0, root)]
    while waiting:
        name, depth, part = waiting.pop()
        yield name, depth, part
        prefix = f"{name}." if depth else ""
        children = [
            (f"{prefix}{number}", depth + 1, child) for number, child in enumerate(part.children, 1)
        ]
        waiting.extend(reversed(children))


def _part_of(numbered: _Numbered, data: bytes, anatomy: Anatomy) -> ShownPart:
    name, depth, part = numbered
    parameters = part.disposition.parameters, part.parameters.parameters
    return ShownPart(
        id=name,
        depth=min(depth, _DEEPEST),
        kind=part.content_type,
        filename=one_line(parameters[0].get("filename") or parameters[1].get("name") or ""),
        charset=one_line(parameters[1].get("charset", "")),
        encoding=part.transfer_encoding,
        disposition=part.disposition.value,
        content_id=one_line(part.first("content-id")).strip().strip("<>"),
        size=decoded_size(memoryview(data)[part.start : part.end], part.transfer_encoding),
        tab="source" if part.content_type == "text/html" else "text",
        is_leaf=not part.children,
        is_served=not part.children and anatomy.find(name) is not None,
    )


def _files_of(content: Content, numbered: list[_Numbered]) -> list[ShownFile]:
    ids = {(part.start, part.end): name for name, _, part in numbered}
    return [
        ShownFile(
            ids.get((each.start, each.end), "0"),
            each.filename or each.subject or "",
            each.content_type,
            each.disposition == "inline" or each.content_id is not None,
            each.size,
            each.content_type in RASTER,
        )
        for each in content.attachments
    ]
