"""The golden file: 173 requests and what a real Mailpit answered; ehlo answers the same.

Where it does not, `DIFFERENCES` says so, in the words of docs/inbox-api.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx

from ehlo.inbox.sorting import header_of, tags_in
from ehlo.store import Delivery, Store
from support.inboxes import api_of, desk_of
from support.storing import in_loop

GOLDEN = json.loads((Path(__file__).parent / "mailpit-golden.json").read_text(encoding="utf-8"))
CALLS: list[dict[str, Any]] = GOLDEN["calls"]
SUMMARIES = {each["ID"]: each for each in CALLS[0]["json"]["messages"]}

Golden = dict[str, Any]
Change = Callable[[Golden], None]


class Difference(NamedTuple):
    """A difference from Mailpit, and how it changes some of the answers."""

    sentence: str
    changes: dict[int, Change]


# -- changes of an answer --------------------------------------------------------------------------


def found(*numbers: int) -> Change:
    """Change which messages a search finds."""

    def change(want: Golden) -> None:
        names = [f"ID{number}" for number in numbers]
        want["json"]["messages"] = [dict(SUMMARIES[name]) for name in names]
        for count in ("count", "messages_count", "messages_unread"):
            want["json"][count] = len(names)
        no_nulls(want)

    return change


def no_nulls(want: Golden) -> None:
    for message in want["json"]["messages"]:
        for name in ("To", "Cc", "Bcc", "ReplyTo"):
            message[name] = message[name] or []


def in_utf_8(want: Golden) -> None:
    """Change what was read as Latin-1."""
    if "text" in want:
        want["text"] = want["text"].encode("latin-1").decode()
    elif "Text" in want["json"]:
        want["json"]["Text"] = want["json"]["Text"].encode("latin-1").decode()
    for message in want.get("json", {}).get("messages", []):
        if message["ID"] == "ID6":
            words = " ".join(f"wörd number {number}" for number in range(60))
            message["Snippet"] = words.encode()[:200].decode("utf-8", "ignore") + "..."


def without_tag(name: str) -> Change:
    def change(want: Golden) -> None:
        tags = want["json"] if isinstance(want["json"], list) else want["json"]["tags"]
        tags.remove(name)

    return change


def text(value: str, **others: object) -> Change:
    return lambda want: want.update(text=value, **others)


def attached(want: Golden) -> None:
    want["disposition"] = want["disposition"].replace("inline", "attachment")


def with_other_parts(want: Golden) -> None:
    want["json"]["OtherParts"] = [
        {"PartID": number, "FileName": "", "ContentType": of, "ContentID": ""}
        for number, of in (
            ("1.3", "text/calendar"),
            ("3", "application/octet-stream"),
            ("5", "message/rfc822"),
            ("7", "text/html"),
        )
    ]


def _lists() -> list[int]:
    return [
        number
        for number, call in enumerate(CALLS)
        if isinstance(call.get("json"), dict) and call["json"].get("messages")
    ]


DIFFERENCES = [
    Difference(
        "The search looks at all header fields, at the envelope, and at the plain text of a message"
        " that has HTML, too.",
        {
            59: found(4),
            62: found(8, 7, 6, 5, 2),
            65: found(8, 5, 4, 3, 1),
        },
    ),
    Difference(
        "`%` and `_` are plain characters in a search.",
        {51: found(6, 3)},
    ),
    Difference(
        "`subject:` ignores case in all alphabets, as the other terms do.",
        {18: found(1)},
    ),
    Difference(
        'A name in a search may contain punctuation: `to:"Bee, B"` finds "Bee, B".',
        {25: found(1), 26: found(1)},
    ),
    Difference(
        "A message is stored as it came, and `Size` is the number of these bytes. `larger:` and"
        " `smaller:` do not count the fields that `raw` and `headers` put on top.",
        {45: found(), 46: found(8, 7, 5, 2, 1), 47: found(6, 4)},
    ),
    Difference(
        "An empty list of addresses is `[]`, never `null`.",
        dict.fromkeys(_lists(), no_nulls),
    ),
    Difference(
        "Text without a charset is read as UTF-8 if it is valid UTF-8, else as Windows-1252.",
        {
            number: in_utf_8
            for number in (92, 94, *_lists())
            if number in (92, 94)
            or any(m["ID"] == "ID6" for m in CALLS[number]["json"]["messages"])
        },
    ),
    Difference(
        "The text that is made from HTML has the layout of ehlo, and the `alt` texts of images.",
        {83: text("Head\n\nPara link (https://x.test/l)\n\npic")},
    ),
    Difference(
        "Parts without a name, and a second HTML, are listed in `OtherParts`.",
        {84: with_other_parts},
    ),
    Difference(
        "A browser saves parts as files, unless they are raster images, PDF, audio, video or plain"
        " text.",
        {106: attached, 108: attached, 109: attached},
    ),
    Difference(
        "`PUT tags` for unknown messages leaves no tag behind.",
        {148: without_tag("zz"), 164: without_tag("zz"), 167: without_tag("zz")},
    ),
    Difference(
        "`release` needs `--relay`.",
        {155: text("SMTP error: no server to release to; start ehlo with --relay", status=400)},
    ),
    Difference(
        "There is no `html-check`, no `link-check` and no `sa-check`.",
        {170: text("File not found\n", type="text/plain; charset=utf-8")},
    ),
]

# Link checks are not in the file, but one of them has marked a message as read
UNSEEN = {163: ("GET", "/api/v1/message/ID3")}


def wanted(number: int) -> Golden:
    """Return the answer that ehlo gives to a request."""
    want = {
        name: CALLS[number][name]
        for name in ("status", "type", "json", "text", "disposition", "location")
        if name in CALLS[number]
    }
    want = json.loads(json.dumps(want))
    for difference in DIFFERENCES:
        if number in difference.changes:
            before = json.dumps(want)
            difference.changes[number](want)
            changed = json.dumps(want) != before
            assert changed or difference.changes[number] in (no_nulls, in_utf_8), (
                difference.sentence
            )
    return cast(Golden, _without_sizes(want))


def _without_sizes(value: Any) -> Any:
    """Leave out what differs from run to run, and checksums that the file cannot know."""
    if isinstance(value, list):
        return [_without_sizes(each) for each in value]
    if not isinstance(value, dict):
        return value
    is_message = "ID" in value
    if value.get("PartID") and not value.get("FileName"):
        value = {name: value[name] for name in ("PartID", "FileName", "ContentType", "ContentID")}
    return {
        name: _without_sizes(each)
        for name, each in value.items()
        if not (is_message and (name in ("Size", "Created") or (name, each) == ("Date", "TIME")))
    }


class Player:
    """Plays the requests against a site, with its own ids for those of the file."""

    def __init__(self, api: httpx.AsyncClient, ids: Sequence[str]) -> None:
        self._api = api
        self._ids = {f"ID{number}": mail_id for number, mail_id in enumerate(ids, 1)}

    async def ask(self, call: Golden) -> httpx.Response:
        body = call.get("body")
        return await self._api.request(
            call["method"],
            self._with_ids(call["path"]),
            content=None if body is None else self._with_ids(body),
            headers=call.get("headers"),
        )

    def _with_ids(self, text: str) -> str:
        return re.sub(r"\bID[1-8]\b", lambda match: self._ids[match[0]], text)

    def _without_ids(self, text: str) -> str:
        for name, mail_id in self._ids.items():
            text = text.replace(f"{mail_id}@ehlo", "MID@mailpit").replace(mail_id, name)
        return text

    def answer(self, number: int, response: httpx.Response) -> Golden:
        """Return what the file has of an answer."""
        want = CALLS[number]
        shown = self._without_ids(response.text)
        got: Golden = {"status": response.status_code, "type": response.headers.get("content-type")}
        if "json" in want:
            got["json"] = json.loads(shown) if got["type"] == "application/json" else shown
            if isinstance(got["json"], dict) and want["json"].get("Date") == "TIME":
                got["json"]["Date"] = "TIME"
        if "text" in want:
            got["text"] = shown
        if "disposition" in want:
            got["disposition"] = response.headers.get("content-disposition")
        if "location" in want:
            got["location"] = self._without_ids(response.headers.get("location", ""))
        return cast(Golden, _without_sizes(got))


def delivery_of(message: Golden) -> Delivery:
    data = message["data_latin1"].encode("latin-1")
    if not data.endswith(b"\r\n"):
        data += b"\r\n"  # as SMTP does
    received = (
        "Received: from h.test (unknown [127.0.0.1])\r\n        by HOST (Mailpit) with SMTP\r\n"
        f"        for <{message['rcpt_tos'][0]}>; DATE\r\n"
    )
    return Delivery(
        data,
        message["mail_from"],
        message["rcpt_tos"],
        facts={"received": received},
        tags=tags_in(header_of(data)),
    )


@in_loop
async def test_each_answer_is_that_of_mailpit_except_for_the_differences() -> None:
    async with Store.open(keep=0) as store, api_of(desk_of(store)) as api:
        ids = [await store.put(delivery_of(message)) for message in GOLDEN["messages"]]
        player = Player(api, ids)
        differing = []
        for number, call in enumerate(CALLS):
            if number in UNSEEN:
                method, path = UNSEEN[number]
                await player.ask({"method": method, "path": path})
            got, want = player.answer(number, await player.ask(call)), wanted(number)
            if got != want:
                differing.append((number, call["method"], call["path"], want, got))
        assert len(CALLS) == 173
        assert differing == []


def test_the_documentation_has_each_difference() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "inbox-api.md"
    words = " ".join(page.read_text(encoding="utf-8").split())
    assert [each.sentence for each in DIFFERENCES if each.sentence not in words] == []
