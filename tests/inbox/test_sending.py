"""`POST send`: messages that come by HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from ehlo.inbox import WebOptions, make_site
from support.inboxes import inbox
from support.sites import Line, desk
from support.storing import in_loop

SEND = "/api/v1/send"
MESSAGE = "/api/v1/message/latest"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"x" * 100).decode()
FULL: dict[str, Any] = {
    "From": {"Email": "sender@x.test", "Name": "Jörg, S."},
    "To": [{"Email": "b@y.test", "Name": 'B "Bee", Jr.'}, {"Email": "jörg@y.test"}],
    "Cc": [{"Email": "cc@y.test", "Name": "Carbon"}],
    "Bcc": ["hidden@z.test"],
    "ReplyTo": [{"Email": "r@x.test", "Name": "No Reply"}],
    "Subject": "Grüße " + "x" * 200,
    "Text": "Hällo\n" + "y" * 2_000,
    "HTML": '<p>Hällo <img src="cid:logo"></p>',
    "Tags": ["one", "two words"],
    "Headers": {
        "List-Unsubscribe": "<mailto:u@x.test>, <https://x.test/u>",
        "X-Ü".encode().hex(): "ä",
    },
    "Attachments": [
        {"Content": PNG, "Filename": "ä.png"},
        {"Content": f"data:image/png;base64,{PNG}", "FileName": "logo.png", "ContentID": "logo"},
        {"Content": "", "Filename": "a.eml", "ContentType": "message/rfc822"},
    ],
}


@in_loop
async def test_a_message_by_http_is_what_was_asked_for() -> None:
    async with inbox() as (store, api):
        answer = await api.post(SEND, json=FULL)
        assert answer.status_code == 200, answer.text
        message = (await api.get(MESSAGE)).json()
        assert answer.json() == {"ID": message["ID"]}
        assert message["From"] == {"Name": "Jörg, S.", "Address": "sender@x.test"}
        assert message["To"] == [
            {"Name": 'B "Bee", Jr.', "Address": "b@y.test"},
            {"Name": "", "Address": "jörg@y.test"},
        ]
        assert message["Cc"] == [{"Name": "Carbon", "Address": "cc@y.test"}]
        assert message["Bcc"] == [{"Name": "", "Address": "hidden@z.test"}]
        assert message["ReplyTo"] == [{"Name": "No Reply", "Address": "r@x.test"}]
        assert message["ReturnPath"] == "sender@x.test"
        assert message["Subject"] == FULL["Subject"]
        assert message["Text"].replace("\r\n", "\n").strip() == FULL["Text"]
        assert message["HTML"].strip() == FULL["HTML"]
        assert [each["FileName"] for each in message["Attachments"]] == ["ä.png", "a.eml"]
        assert message["Attachments"][0]["ContentType"] == "image/png"
        assert [each["ContentID"] for each in message["Inline"]] == ["logo"]
        assert message["ListUnsubscribe"]["Errors"] == ""
        stored = await store.get(message["ID"])
        assert stored is not None
        assert stored.rcpt_tos == ["b@y.test", "jörg@y.test", "cc@y.test", "hidden@z.test"]
        assert b"hidden" not in stored.data
        assert max(map(len, stored.data.split(b"\r\n"))) <= 998
        assert f"/message/{message['ID']}/part/" in (await api.get("/view/latest.html")).text


@in_loop
async def test_the_headers_are_exactly_those_of_mailpit() -> None:
    """A test of one of its clients compares their names."""
    asked = {**FULL, "Tags": [], "Headers": {"List-Unsubscribe": "<mailto:u@x.test>"}}
    async with inbox() as (_, api):
        await api.post(SEND, json=asked)
        assert " ".join((await api.get(f"{MESSAGE}/headers")).json()) == (
            "Bcc Cc Content-Type Date From List-Unsubscribe Message-Id Mime-Version Reply-To"
            " Return-Path Subject To"
        )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"From": {}}, "error building message: from not set"),
        (
            {"To": [], "Cc": [], "Bcc": []},
            "error building message: no recipients (to, cc, bcc) set",
        ),
        ({"To": [{"Email": "bad"}]}, "invalid To address: bad"),
        ({"To": [{"Email": "a@x.test\r\nX-Evil: 1"}]}, "invalid To address: a@x.test\r\nX-Evil: 1"),
        ({"Cc": [{"Email": "a b@x"}]}, "invalid Cc address: a b@x"),
        ({"Bcc": ["@"]}, "invalid Bcc address: @"),
        ({"ReplyTo": [{"Email": ""}]}, "invalid ReplyTo address: "),
        ({"Headers": {"SUBJECT": "x"}}, 'cannot overwrite header: "SUBJECT"'),
        ({"Headers": {"x-tags": "x"}}, 'cannot overwrite header: "x-tags"'),
        ({"Headers": {"X\r\nEvil": "x"}}, 'invalid header name: "X\r\nEvil"'),
        ({"Headers": {"Content-Transfer-Encoding": "x"}}, "invalid header name"),
        (
            {"Attachments": [{"Content": "AAAA!", "Filename": "a"}]},
            'error decoding base64 attachment "a": illegal base64 data at input byte 4',
        ),
        ({"Attachments": [{}] * 1_001}, "more than 1000 attachments"),
        ({"Headers": {f"X-{each}": "" for each in range(1_001)}}, "more than 1000 headers"),
        ({"Bcc": ["a@x.test"] * 10_001}, "more than 10000 recipients"),
        ({"Attachments": [{"Content": "é", "Filename": "a"}]}, "error decoding base64"),
        ({"To": "a@x.test"}, "json: cannot unmarshal string into Go struct field .To of type []"),
        ({"Bcc": [{"Email": "a@x"}]}, "json: cannot unmarshal object into Go struct field .Bcc"),
    ],
)
def test_a_wrong_message_is_an_error_in_json(change: dict[str, Any], error: str) -> None:
    @in_loop
    async def run() -> None:
        async with inbox() as (store, api):
            answer = await api.post(SEND, json={**FULL, **change})
            assert answer.status_code == 400
            assert answer.json()["Error"].startswith(error)
            assert (await store.counts()).total == 0

    run()


@in_loop
async def test_no_text_can_add_fields_or_break_the_message() -> None:
    evil = "a\r\nX-Evil: 1\r\n\r\n<script>\0\ud800\u2028"
    asked = {
        "From": {"Email": evil, "Name": evil},
        "To": [{"Email": "b@y.test", "Name": evil}],
        "Subject": evil,
        "Text": evil,
        "Headers": {"X-Own": evil},
        "Tags": [evil],
        "Attachments": [
            {"Content": PNG, "Filename": evil, "ContentType": evil, "ContentID": evil},
            {"Content": PNG, "Filename": evil, "ContentType": "multipart/mixed"},
        ],
    }
    async with inbox() as (_, api):
        answer = await api.post(SEND, content=json.dumps(asked))
        assert answer.status_code == 200, answer.text
        headers = (await api.get(f"{MESSAGE}/headers")).json()
        assert "X-Evil" not in headers
        assert headers["X-Own"][0].startswith("a X-Evil: 1 <script> ?")
        assert len((await api.get(MESSAGE)).json()["Attachments"]) == 2


@in_loop
async def test_the_user_of_the_request_is_that_of_the_message() -> None:
    async with inbox() as (_, api):
        asked = {"From": {"Email": "a@x"}, "To": [{"Email": "b@y"}]}
        await api.post("/inbox/one/api/v1/send", json=asked)
        message = (await api.get(MESSAGE)).json()
        assert (message["Username"], message["Inbox"]) == ("", "one")


@in_loop
async def test_an_inbox_that_is_sent_to_has_a_name_as_one_of_smtp() -> None:
    body = {"From": {"Email": "a@x.test"}, "To": [{"Email": "b@y.test"}]}
    async with inbox() as (store, api):
        for name in ("a" * 65, "a%20b", "%3Cb%3E", "a%00", ".hidden", "a%0Ab"):
            answer = await api.post(f"/inbox/{name}{SEND}", json=body)
            assert answer.status_code == 400
            assert answer.json()["Error"].startswith("invalid inbox name: ")
        assert not await store.inboxes()
        for name in ("a" * 64, "jörg+1@x.test"):
            assert (await api.post(f"/inbox/{name}{SEND}", json=body)).status_code == 200
        assert sorted(await store.inboxes()) == ["a" * 64, "jörg+1@x.test"]


@in_loop
async def test_a_message_may_be_as_large_as_one_by_smtp() -> None:
    async with inbox(options=WebOptions(max_size=1_000)) as (_, api):
        answer = await api.post(SEND, content=b" " * 1_001)
        assert answer.status_code == 413
        assert answer.json() == {"Error": "http: request body too large"}


@in_loop
async def test_long_texts_take_no_long_time() -> None:
    """A character of a file name takes the standard library 100 us."""
    file = {"Content": PNG, "Filename": "ä" * 100_000, "ContentID": "a b" * 100_000}
    asked = {
        "From": {"Email": "a@x.test", "Name": "ä" * 100_000},
        "To": [{"Email": "b@y.test", "Name": "x" * 100_000}],
        "Subject": "x " * 100_000,
        "Attachments": [file, {**file, "ContentID": ""}],
    }
    async with inbox() as (_, api):
        assert (await api.post(SEND, json=asked)).status_code == 200
        message = (await api.get(MESSAGE)).json()
        assert len(message["Attachments"][0]["FileName"]) == 255
        assert message["Subject"] == ("x " * 100_000)[:16_384].strip()


@in_loop
async def test_a_client_that_leaves_amid_its_body_is_no_error() -> None:
    """Each of them left a traceback in the log."""
    begun: dict[str, Any] = {"type": "http.request", "body": b"{", "more_body": True}
    events: list[dict[str, Any]] = [{"type": "http.disconnect"}, begun]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return events.pop()

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async with desk() as made:
        scope = Line(made, "/api/v1/send", method="POST").scope
        await make_site(made)(scope, receive, send)
        assert (await made.store.counts()).total == 0
    assert sent[0]["status"] == 499
