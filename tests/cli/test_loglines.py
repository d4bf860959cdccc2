"""Log lines for a person fit their terminal; logfmt is for programs; neither is obeyed."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.cli.loglines import for_person, hint_of, logfmt
from ehlo.cli.readable import width_of
from ehlo.server.observing.journal import note

ACCEPTED = {
    "event": "message accepted",
    "session": "8c26317000000f",
    "peer": "127.0.0.1:53500",
    "queue_id": "Q1",
    "from": "<alice@x>",
    "to": "<bob@y>",
    "recipients": 1,
    "size": 221,
    "ms": 3.2,
}
REJECTED = {
    "event": "rejected",
    "session": "8c26317000000f",
    "peer": "127.0.0.1:53500",
    "verb": "RCPT",
    "from": "<alice@x>",
    "recipient": "<bob@y>",
    "code": 550,
    "enhanced": "5.1.1",
    "reason": "other",
    "text": "No such user here",
}


def record(fields: dict[str, Any], level: int = logging.INFO, name: str = "ehlo.message") -> Any:
    extra = {key: value for key, value in fields.items() if "event" in fields or key != "text"}
    made = logging.makeLogRecord({"name": name, "levelno": level, "created": 1.75e9, **extra})
    made.levelname = logging.getLevelName(level)
    made.msg = fields.get("text", "")
    return made


def line(fields: dict[str, Any], width: int = 0) -> str:
    """Return the line without its time."""
    shown = for_person(record(fields), width=width, color=False)
    assert re.match(r"\d\d:\d\d:\d\d ", shown)
    return shown[9:]


@pytest.mark.parametrize(("width", "hint"), [(0, True), (80, True), (54, True), (53, False)])
def test_how_to_stop_the_server_is_said_where_there_is_room(width: int, hint: bool) -> None:
    made = record({"text": "listening on 127.0.0.1:1025"}, name="ehlo.server")
    shown = for_person(made, width=width, color=False) + hint_of(made, width=width)
    assert shown.endswith("127.0.0.1:1025 (Ctrl+C stops it)") is hint
    assert not width or len(shown) <= width
    assert hint_of(record({"text": "started"}, name="ehlo.server"), width=width) != ""
    assert hint_of(record(ACCEPTED), width=width) == ""


def test_an_accepted_message_is_one_line() -> None:
    assert line(ACCEPTED) == "127.0.0.1:53500 alice@x -> bob@y 221 B 250 Q1 3 ms"
    several = {**ACCEPTED, "from": "<>", "to": "<bob@y>,<carol@y>", "recipients": 12}
    assert line(several) == "127.0.0.1:53500 <> -> bob@y +11 221 B 250 Q1 3 ms"


def test_a_rejection_is_one_line_with_its_recipient_and_reply() -> None:
    assert line(REJECTED) == "127.0.0.1:53500 alice@x -> bob@y 550 5.1.1 No such user here"
    of_mail = {name: value for name, value in REJECTED.items() if name != "recipient"}
    assert line(of_mail) == "127.0.0.1:53500 alice@x 550 5.1.1 No such user here"
    other = {**of_mail, "verb": "AUTH"}
    del other["from"]
    assert line(other) == "127.0.0.1:53500 AUTH 550 5.1.1 No such user here"


@pytest.mark.parametrize("recipient", ['"a>,<b"@y', r'"a\">,<b"@y', '">,<"@y'])
def test_a_quoted_local_part_is_no_second_recipient(recipient: str) -> None:
    """A client chooses it: the line must be there, and tell no lies."""
    assert f" alice@x -> {recipient} 550 " in line({**REJECTED, "recipient": f"<{recipient}>"})
    assert f" alice@x -> {recipient} 221 B" in line({**ACCEPTED, "to": f"<{recipient}>"})
    several = {**ACCEPTED, "to": f"<{recipient}>,<bob@y>", "recipients": 2}
    assert f" alice@x -> {recipient} +1 221 B" in line(several)


def test_other_events_have_their_fields() -> None:
    opened = {"event": "connection opened", "session": "1", "peer": "[::1]:5", "local": "[::1]:25"}
    assert line(opened) == "[::1]:5 connection opened local=[::1]:25"


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (80, "127.0.0.1:53500 somebody-….example -> bob@example.org 221 B 250 Q1 3 ms"),
        (60, "somebod…xample -> bob@example.org 221 B 250 Q1 3 ms"),
        (40, "som…le -> bob…rg 221 B 250 3 ms"),
    ],
)
def test_a_narrow_terminal_keeps_what_matters_most(width: int, shown: str) -> None:
    long = {
        **ACCEPTED,
        "from": "<somebody-with-a-long-name@department.example>",
        "to": "<bob@example.org>",
    }
    found = line(long, width)
    assert width_of(found) + 9 <= width
    assert found == shown


@given(
    st.text(max_size=60),
    st.text(max_size=200),
    st.integers(10, 200),
    st.sampled_from([ACCEPTED, REJECTED]),
)
def test_a_line_fits_and_is_one_line(
    address: str, text: str, width: int, fields: dict[str, Any]
) -> None:
    given_fields = {**fields, "from": f"<{address}>", "to": f"<{text}>"}
    if "text" in fields:
        given_fields |= {"recipient": f"<{text}>", "text": text}
    shown = for_person(record(given_fields), width=width, color=False)
    assert width_of(shown) <= width
    assert "\n" not in shown
    assert not re.search("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]", shown)


def test_colors_show_what_was_accepted_and_what_was_not() -> None:
    assert "\x1b[32m250\x1b[0m" in for_person(record(ACCEPTED), width=80, color=True)
    assert "\x1b[31m550 5.1.1\x1b[0m" in for_person(record(REJECTED), width=80, color=True)
    plain = for_person(record(ACCEPTED), width=0, color=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", plain)[9:] == line(ACCEPTED)


def test_warnings_and_lines_about_the_server_are_never_cut() -> None:
    text = "auth_handler has no mechanism without TLS; call configure_tls " * 3
    warned = for_person(record({"text": text}, logging.WARNING), width=40, color=False)
    assert warned[9:] == f"warning: {text}"
    assert for_person(record({"text": text}), width=40, color=False)[9:] == text
    event = {**ACCEPTED, "event": "reload failed", "reason": text}
    failed = for_person(record(event, logging.ERROR), width=40, color=False)
    assert text.strip() in failed


def failed() -> Any:
    try:
        raise RuntimeError("boom\nforged")
    except RuntimeError as error:
        made = record({"text": "on_message failed"}, logging.ERROR)
        made.exc_info = (type(error), error, error.__traceback__)
    return made


def test_a_traceback_follows_in_lines_that_are_indented() -> None:
    for shown in (for_person(failed(), width=40, color=False), logfmt(failed())):
        first, *rest = shown.splitlines()
        assert "on_message failed" in first
        assert all(each.startswith("  ") for each in rest)
        assert rest[-1] == "  RuntimeError: boom\\nforged"


def test_logfmt_has_each_field_once() -> None:
    shown = logfmt(record(ACCEPTED))
    assert re.match(r"time=2025-06-15T\d\d:\d\d:\d\d\.000[+-]\d\d:\d\d level=info logger=", shown)
    assert shown.endswith(
        ' logger=ehlo.message event="message accepted" session=8c26317000000f '
        "peer=127.0.0.1:53500 queue_id=Q1 from=<alice@x> to=<bob@y> recipients=1 size=221 ms=3.2"
    )
    text = logfmt(record({"text": "listening on 127.0.0.1:25"}, name="ehlo.server"))
    assert text.endswith(' level=info logger=ehlo.server message="listening on 127.0.0.1:25"')
    assert ' error="RuntimeError: boom\\\\nforged"' in logfmt(failed())


def test_logfmt_quotes_what_a_client_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ehlo.message")
    note(logging.getLogger("ehlo.message"), "message accepted", {"from": '<a b="\x1b\n\u202e>'})
    (made,) = caplog.records
    assert logfmt(made).endswith(' from="<a b=\\"\\u001b\\n\\u202e>"')
