"""One message of the API: its shape, headers, source and parts, whatever its bytes are."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys
import threading
from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import Any

import pytest

from ehlo.content.mime import parse_message
from ehlo.inbox import make_site
from ehlo.inbox.api.shapes import whole_message
from ehlo.store import Delivery, StoredMail, StoredMessage
from support.inboxes import inbox
from support.sites import Line, browser, desk
from support.storing import in_loop, mail

MESSAGE = "/api/v1/message/latest"
BASE64 = "Content-Transfer-Encoding: base64"
EMPTY = '{"MessageID":"","From":{},"To":[],"Cc":[],"Bcc":[],"ReplyTo":[],"Subject":"","Snippet":""}'


def multipart(*parts: str, kind: str = "mixed", head: str = "") -> bytes:
    inner = "".join(f"--B\r\n{part}\r\n" for part in parts)
    return f"{head}Content-Type: multipart/{kind}; boundary=B\r\n\r\n{inner}--B--\r\n".encode()


def part(kind: str, body: str, *fields: str) -> str:
    return "\r\n".join([f"Content-Type: {kind}", *fields, "", body])


def names(parts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(each["PartID"], each["FileName"]) for each in parts]


async def shown(*data: bytes, **keywords: Any) -> dict[str, Any]:
    async with inbox(*(Delivery(each, **keywords) for each in data)) as (_, api):
        answer = await api.get(MESSAGE)
        assert answer.status_code == 200
        return dict(answer.json())


@in_loop
async def test_a_message_has_exactly_the_fields_of_mailpit() -> None:
    data = multipart(part("text/plain", "hi"))
    message = await shown(data, mail_from="a@x.test", inbox="default")
    expected = (
        "ID MessageID From To Cc Bcc ReplyTo ReturnPath Subject ListUnsubscribe Date Tags Username"
        " Text HTML Size Inline Attachments"
    )
    assert set(message) == set(expected.split())
    assert set(message["ListUnsubscribe"]) == {"Header", "Links", "Errors", "HeaderPost"}
    assert message["ReturnPath"] == "a@x.test"


@in_loop
async def test_reading_a_message_marks_it_as_read_and_reading_its_source_does_not() -> None:
    async with inbox(Delivery(mail())) as (store, api):
        for path in ("raw", "headers", "part/9"):
            await api.get(f"{MESSAGE}/{path}")
        assert (await store.counts()).unread == 1
        await api.get(MESSAGE)
        assert (await store.counts()).unread == 0


@in_loop
async def test_the_latest_message_may_be_that_of_a_query() -> None:
    async with inbox(Delivery(mail("one")), Delivery(mail("two"))) as (_, api):
        assert (await api.get(f"{MESSAGE}?query=subject:one")).json()["Subject"] == "one"
        for path in (f"{MESSAGE}?query=zz", f"{MESSAGE}/raw?query=zz", f"/inbox/x{MESSAGE}"):
            answer = await api.get(path)
            assert (answer.status_code, answer.text) == (404, "Message not found")


@pytest.mark.parametrize("mail_id", ["nope", "..", "%00", "%2f", "a%2Fb", "%ff", "é", "x" * 9_000])
def test_an_unknown_id_is_not_found(mail_id: str) -> None:
    @in_loop
    async def run() -> None:
        async with inbox(Delivery(mail())) as (_, api):
            for path in ("", "/headers", "/raw", "/part/1", "/part/1/thumb"):
                answer = await api.get(f"/api/v1/message/{mail_id}{path}")
                assert answer.status_code == 404, path
            for kind in ("html", "txt"):
                assert (await api.get(f"/view/{mail_id}.{kind}")).status_code == 404

    run()


# -- the source and the headers --------------------------------------------------------------------


@in_loop
async def test_the_source_has_the_envelope_on_top_and_the_bytes_as_they_came() -> None:
    data = b"To: b@y.test\r\nBcc: c@y.test\r\n\r\n\x00\xff\r\n"
    received = {"received": "Received: from x\r\n\tby y;\r\n\tnow\r\n"}
    rcpt_tos = ["B@y.test", "c@y.test", "hidden@z.test", "jörg@z.test"]
    async with inbox(Delivery(data, "a@x.test", rcpt_tos, facts=received)) as (_, api):
        answer = await api.get(f"{MESSAGE}/raw?dl=1")
        mail_id = (await api.get(MESSAGE)).json()["ID"]
        assert answer.headers["content-disposition"] == f'attachment; filename="{mail_id}.eml"'
        assert (
            answer.content
            == (
                "Bcc: hidden@z.test,\r\n jörg@z.test\r\n"
                f"Message-ID: <{mail_id}@ehlo>\r\n"
                "Return-Path: <a@x.test>\r\n"
                "Received: from x\r\n\tby y;\r\n\tnow\r\n"
            ).encode()
            + data
        )
        headers = (await api.get(f"{MESSAGE}/headers")).json()
        assert list(headers) == ["Bcc", "Message-Id", "Received", "Return-Path", "To"]
        assert headers["Bcc"] == ["hidden@z.test, jörg@z.test", "c@y.test"]
        assert headers["Received"] == ["from x by y; now"]
        found = await api.get(f"/api/v1/search?query=message-id:{mail_id}")
        assert found.json()["count"] == 1


@in_loop
async def test_an_envelope_cannot_add_fields() -> None:
    evil = 'x@y.test>\r\nX-Evil: 1\r\n\r\n"'
    delivery = Delivery(b"\r\nbody\r\n", evil, [evil], facts={"received": 7})
    async with inbox(delivery) as (_, api):
        assert "X-Evil" not in (await api.get(f"{MESSAGE}/headers")).json()


@in_loop
async def test_fields_have_names_as_go_writes_them_and_values_as_they_came() -> None:
    data = (
        b"x-ip: 1\r\nX-IP:2\r\nx-<b>-ID: =?utf-8?q?=C3=A4?=\r\nX-Folded: a\r\n\tb\r\n  c\r\n"
        b"MIME-VERSION: 1.0\r\nx-latin: \xe4\r\n\r\n"
    )
    async with inbox(Delivery(data)) as (_, api):
        answer = await api.get(f"{MESSAGE}/headers")
        headers = answer.json()
        assert headers["X-Ip"] == ["1", "2"]
        assert headers["X-<b>-Id"] == ["=?utf-8?q?=C3=A4?="]
        assert headers["X-Folded"] == ["a b c"]
        assert headers["Mime-Version"] == ["1.0"]
        assert "<b>" not in answer.text


# -- parts -----------------------------------------------------------------------------------------


@in_loop
async def test_nothing_in_a_message_is_lost() -> None:
    data = multipart(
        part("text/plain", "one"),
        part("text/html", "<p>two"),
        part("text/html", "<p>second"),
        part("text/calendar", "BEGIN:VCALENDAR"),
        part("message/rfc822", "Subject: inner\r\n\r\nbody"),
        part("application/pdf; name=a.pdf", "%PDF"),
        part("text/csv", "1,2", "Content-Disposition: attachment; filename*=utf-8''%C3%A4.csv"),
        part("image/png", "x", "Content-ID: <logo@x>"),
        part("application/octet-stream", "x"),
    )
    async with inbox(Delivery(data)) as (_, api):
        message = (await api.get(MESSAGE)).json()
        assert names(message["Attachments"]) == [("7", "ä.csv")]
        assert names(message["Inline"]) == [("6", "a.pdf"), ("8", "logo@x")]
        assert names(message["OtherParts"]) == [("3", ""), ("4", ""), ("5", ""), ("9", "")]
        assert (message["Text"], message["HTML"]) == ("one", "<p>two")
        for number in range(1, 11):
            answer = await api.get(f"{MESSAGE}/part/{number}")
            assert answer.status_code == (404 if number in (1, 2, 10) else 200)
        assert (await api.get(f"{MESSAGE}/part/7")).headers["content-disposition"] == (
            'attachment; filename="%C3%A4.csv"'
        )


@in_loop
async def test_in_an_alternative_the_text_is_the_first_one() -> None:
    texts = (part("text/plain", "one"), part("text/plain", "two"), part("text/html", "<p>three"))
    message = await shown(multipart(*texts, kind="alternative"))
    assert (message["Text"], message["HTML"]) == ("one", "<p>three")
    assert names(message["OtherParts"]) == [("2", "")]
    assert (await shown(multipart(*texts)))["Text"] == "one\n--\ntwo"


@pytest.mark.parametrize(
    ("kind", "text", "attachments"),
    [
        ("text/plain", "body\r\n", []),
        ("text/html", "body", []),
        ("text/plain\r\nContent-Disposition: attachment; filename=a.txt", "", [("0", "a.txt")]),
        ("application/pdf; name=a.pdf", "", [("0", "a.pdf")]),
        ("text/csv", "", [("0", "")]),
        ("multipart/mixed", "body\r\n", []),
        ("nonsense", "body\r\n", []),
    ],
)
def test_a_message_without_parts_is_its_text_or_one_file(
    kind: str, text: str, attachments: list[tuple[str, str]]
) -> None:
    @in_loop
    async def run() -> None:
        async with inbox(Delivery(f"Content-Type: {kind}\r\n\r\nbody\r\n".encode())) as (_, api):
            (summary,) = (await api.get("/api/v1/messages")).json()["messages"]
            message = (await api.get(MESSAGE)).json()
            assert message["Text"] == text
            assert names(message["Attachments"]) == attachments
            assert summary["Attachments"] == len(attachments)

    run()


@in_loop
async def test_a_text_among_the_parts_is_in_utf_8() -> None:
    fields = ("Content-Disposition: attachment; filename=a", "Content-Transfer-Encoding: base64")
    latin = part("text/plain; charset=latin1", base64.b64encode(b"\xe4").decode(), *fields)
    unknown = part("text/plain; charset=x-klingon", base64.b64encode(b"\xe4").decode(), *fields)
    data = part("application/x; charset=latin1", base64.b64encode(b"\xe4").decode(), *fields)
    async with inbox(Delivery(multipart(latin, unknown, data))) as (_, api):
        message = (await api.get(MESSAGE)).json()
        for number, content in (("1", "ä".encode()), ("2", "ä".encode()), ("3", b"\xe4")):
            answer = await api.get(f"{MESSAGE}/part/{number}")
            described = message["Attachments"][int(number) - 1]
            assert answer.content == content
            assert described["Size"] == len(content)
            assert described["Checksums"]["SHA256"] == hashlib.sha256(content).hexdigest()
            assert described["Checksums"]["MD5"] == hashlib.md5(content).hexdigest()  # noqa: S324  the API has it


@pytest.mark.parametrize(
    ("kind", "sent", "disposition"),
    [
        ("image/png", "image/png", "inline"),
        ("IMAGE/JPEG", "image/jpeg", "inline"),
        ("application/pdf", "application/pdf", "inline"),
        ("video/mp4", "video/mp4", "inline"),
        ("text/plain", "text/plain; charset=utf-8", "inline"),
        ("text/html", "text/html; charset=utf-8", "attachment"),
        ("image/svg+xml", "image/svg+xml", "attachment"),
        ("application/xhtml+xml", "application/xhtml+xml", "attachment"),
        ("text/xml", "text/xml; charset=utf-8", "attachment"),
        ("video/é", "application/octet-stream", "attachment"),
        ("x/y<script>", "application/octet-stream", "attachment"),
    ],
)
def test_a_part_can_do_nothing_in_a_browser(kind: str, sent: str, disposition: str) -> None:
    @in_loop
    async def run() -> None:
        name = 'a";\r\n X: "../../é\\.html'
        field = f"Content-Disposition: attachment; filename*=utf-8''{_quoted(name)}"
        async with inbox(Delivery(multipart(part(kind, "x", field)))) as (_, api):
            answer = await api.get(f"{MESSAGE}/part/1", headers={"Accept": "text/html,*/*"})
            assert answer.headers["content-type"] == sent
            without = await api.get(f"{MESSAGE}/part/1")
            assert without.headers["content-type"] == sent.partition(";")[0]
            assert answer.headers["content-disposition"] == (
                f'{disposition}; filename="a%22%3B%20%20X:%20%22..%2F..%2F%C3%A9%5C.html"'
            )
            assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
            assert answer.headers["x-content-type-options"] == "nosniff"

    run()


@in_loop
async def test_only_who_knows_the_id_of_a_message_loads_its_images_elsewhere() -> None:
    """The page of a message has an origin of its own, and any page can guess `latest`."""
    async with inbox(Delivery(multipart(part("image/png", "x"), part("text/csv", "x")))) as (
        _,
        api,
    ):
        place = f"/api/v1/message/{(await api.get(MESSAGE)).json()['ID']}/part"
        for path, policy in (
            (f"{place}/1", "cross-origin"),
            (f"{place}/2", "same-origin"),
            (f"{MESSAGE}/part/1", "same-origin"),
        ):
            answer = await api.get(path)
            assert answer.headers["cross-origin-resource-policy"] == policy


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


# -- unusual messages ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 20 Jul 2026 10:00:00 +0530",
        "20 Jul 26 10:00 +0530",
        "Mon, 20 Jul 2026 10:00:00 +0530 (x)",
    ],
)
def test_a_date_is_in_its_own_zone(date: str) -> None:
    @in_loop
    async def run() -> None:
        message = await shown(f"Date: {date}\r\n\r\n".encode())
        assert message["Date"] == "2026-07-20T10:00:00+05:30"

    run()


@pytest.mark.parametrize(
    "date", ["", "soon", "99 Jul 2026", "1 Jan 99999999999 0:0:0", "\ud800", "," * 9_000]
)
def test_a_date_that_cannot_be_read_is_when_the_message_came(date: str) -> None:
    @in_loop
    async def run() -> None:
        async with inbox(Delivery(f"Date: {date}\r\n\r\n".encode(errors="replace"))) as (_, api):
            (summary,) = (await api.get("/api/v1/messages")).json()["messages"]
            assert (await api.get(MESSAGE)).json()["Date"] == summary["Created"]

    run()


@pytest.mark.parametrize(
    ("field", "links", "errors"),
    [
        ("<mailto:u@x.test>, <https://x.test/u>", 2, ""),
        ("https://x.test/u", 0, "no link in angle brackets"),
        ("<https://x.test/a b>", 1, "a link has spaces"),
        ("<mailto:a@x>, <mailto:b@x>", 2, "more than one mailto link"),
        ("<http://a>, <https://b>", 2, "more than one http link"),
        ("<mailto:a@x>; <https://b>", 2, "links must be separated by commas, and nothing else"),
        ("<ftp://x>", 1, "a link is neither mailto nor http"),
        ("<" * 60_000, 0, "no link in angle brackets"),
    ],
)
def test_what_is_wrong_with_list_unsubscribe_is_said(field: str, links: int, errors: str) -> None:
    @in_loop
    async def run() -> None:
        post = "List-Unsubscribe-Post: List-Unsubscribe=One-Click"
        data = f"List-Unsubscribe: {field}\r\n{post}\r\n\r\n"
        found = (await shown(data.encode()))["ListUnsubscribe"]
        assert len(found["Links"]) == links
        assert found["Errors"] == errors
        assert found["HeaderPost"] == "List-Unsubscribe=One-Click"

    run()


NESTED = b"".join(
    b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (each, each)
    for each in range(200)
)
HOSTILE = {
    "empty": b"",
    "zeros": b"\0" * 10_000,
    "no header": b"\r\n\r\n\r\n",
    "levels": NESTED + b"Content-Type: text/plain\r\n\r\ndeep\r\n",
    "parts": multipart(*(part("image/png; name=x.png", "x") for _ in range(10_000))),
    "fields": b"X-A: b\r\n" * 50_000 + b"\r\n",
    "long line": b"Subject: " + b"x" * 1_000_000 + b"\r\n\r\n" + b"y" * 1_000_000,
    "unknown charset": part("text/plain; charset=klingon", "Qapla'").encode(),
    "utf-7": part("text/html; charset=utf-7", "+ADw-script+AD4-").encode(),
    "addresses": b"To: " + b"a@x.test, " * 20_000 + b"\r\n\r\n",
    "words": b"Subject: " + b"=?utf-8?b?" * 20_000 + b"\r\n\r\n",
    "broken base64": part(
        "image/png; name=a", "====A===", "Content-Transfer-Encoding: base64"
    ).encode(),
    "surrogates": b"Subject: =?utf-16?b?2AA=?=\r\nFrom: \xed\xa0\x80 <a@x>\r\n\r\n\xed\xa0\x80",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_is_shown_as_far_as_possible(name: str) -> None:
    @in_loop
    async def run() -> None:
        data = HOSTILE[name]
        async with inbox(Delivery(data, "a@x.test", ["b@y.test"])) as (_, api):
            message = (await api.get(MESSAGE)).json()
            assert len(message["Inline"]) + len(message.get("OtherParts", [])) <= 1_001
            assert (await api.get(f"{MESSAGE}/raw")).content.endswith(data)
            assert (await api.get(f"{MESSAGE}/headers")).status_code == 200
            assert (await api.get("/api/v1/messages")).json()["count"] == 1
            assert (await api.get("/view/latest.txt")).status_code == 200
            assert (await api.get("/view/latest.html")).status_code in (200, 404)
            for each in [*message["Inline"][:1], *message["Inline"][-1:], *message["Attachments"]]:
                part = await api.get(f"{MESSAGE}/part/{each['PartID']}")
                assert len(part.content) == each["Size"]

    run()


@in_loop
async def test_of_a_large_message_one_part_is_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    large = part("application/x; name=large", "A" * 200_000, "Content-Transfer-Encoding: base64")
    data = multipart(large, part("image/png; name=small", "x" * 10))
    async with inbox(Delivery(data, inbox="one"), Delivery(mail(), inbox="two")) as (store, api):
        (message,) = (await store.list("one")).mails
        place = f"/api/v1/message/{message.id}/part"
        first = await api.get(f"{place}/1")
        assert len(first.content) == 150_000

        async def whole(*_: object) -> None:
            raise AssertionError("the whole message was read")

        monkeypatch.setattr(store, "get", whole)
        for each in ("", "/inbox/one"):
            assert (await api.get(f"{each}{place}/2")).content == b"x" * 10
            assert (await api.get(f"{each}{place}/1")).content == first.content
            assert (await api.get(f"{each}{place}/3")).status_code == 404
        assert (await api.get(f"/inbox/two{place}/2")).status_code == 404
        await store.delete(ids=[message.id])
        assert (await api.get(f"{place}/2")).status_code == 404


@in_loop
async def test_a_large_part_is_read_and_decoded_as_its_reader_takes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise each client that does not read holds a whole attachment in memory."""

    async def never() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    content = bytes(range(256)) * 20_000
    latin = "ä\n".encode("latin-1") * 600_000
    data = multipart(
        part("application/pdf; name=a", base64.encodebytes(content).decode(), BASE64),
        part("text/x; name=b; charset=ISO-8859-1", base64.encodebytes(latin).decode(), BASE64),
        part("video/mp4; name=c", "x" * 2_000_000),
    )
    async with desk() as site:
        await site.store.put(Delivery(data, id="large"))
        whole, read, sent = site.store.chunks, 0, 0

        async def chunks(mail: StoredMail, start: int, end: int) -> AsyncIterator[bytes]:
            nonlocal read
            async for chunk in whole(mail, start, end):
                read += 1
                yield chunk

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal sent
            assert read <= sent + 1  # nothing is read ahead
            assert len(message.get("body", b"")) <= 1 << 18
            sent += message["type"] == "http.response.body"

        monkeypatch.setattr(site.store, "chunks", chunks)
        for _ in range(2):  # its parts are known the second time
            read = sent = 0
            line = Line(site, "/api/v1/message/large/part/1")
            await make_site(site)(line.scope, never, send)
            assert read > 20
        monkeypatch.undo()
        async with browser(site) as client:
            assert (await client.get("/api/v1/message/large/part/1")).content == content
            answer = await client.get("/api/v1/message/large/part/2")
            assert answer.headers["content-type"] == "text/x; charset=iso-8859-1"
            assert answer.content == latin
            answer = await client.get("/api/v1/message/large/part/3")
            assert answer.headers["content-length"] == "2000000"
            assert answer.content == b"x" * 2_000_000


@in_loop
async def test_few_large_messages_are_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    large = Delivery(multipart(part("text/html", "x" * 100_000)))
    async with inbox(large, Delivery(mail())) as (store, api):
        whole, now, most = store.get, 0, 0

        async def counted(*args: Any, **keywords: Any) -> Any:
            nonlocal now, most
            found = await whole(*args, **keywords)
            if "most" not in keywords:
                now += 1
                most = max(most, now)
                await asyncio.sleep(0)
                now -= 1
            return found

        monkeypatch.setattr(store, "get", counted)
        paths = ("/api/v1/message/{}", "/api/v1/message/{}/part/1", "/view/{}.html", "/view/{}.txt")
        ids = [each.id for each in (await store.list()).mails]
        asked = [path.format(each) for path in paths * 5 for each in ids]
        await asyncio.gather(*map(api.get, asked))
        assert 1 <= most <= 2


@in_loop
async def test_an_id_of_an_application_may_be_any_text() -> None:
    mail_id = 'a"<\r\nX: é'
    async with inbox(Delivery(mail(), id=mail_id)) as (_, api):
        assert (await api.get("/api/v1/messages")).json()["messages"][0]["ID"] == mail_id
        assert (await api.get(MESSAGE)).json()["ID"] == mail_id
        answer = await api.get(f"{MESSAGE}/raw?dl=1")
        assert answer.headers["content-disposition"] == (
            'attachment; filename="a%22%3C%0D%0AX%3A%20%C3%A9.eml"'
        )
        location = (await api.get("/view/latest")).headers["location"]
        assert location == "/view/a%22%3C%0D%0AX%3A%20%C3%A9"
        assert set((await api.get(f"{MESSAGE}/headers")).json()) == {
            *("From", "Message-Id", "Subject", "To")
        }


# -- what it costs ---------------------------------------------------------------------------------


@in_loop
async def test_a_large_message_is_decoded_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[bool] = []

    def parse(data: bytes, **keywords: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return parse_message(data, **keywords)

    monkeypatch.setattr("ehlo.inbox.api.anatomy.parse_message", parse)
    small, large = mail(), multipart(part("text/html", "<p>x" * 20_000))
    async with inbox(Delivery(small, id="small"), Delivery(large, id="large")) as (_, api):
        for mail_id, is_main in (("small", True), ("large", False)):
            for path in ("/api/v1/message/{}", "/view/{}.html", "/view/{}.txt"):
                await api.get(path.format(mail_id))
            await api.get(f"/api/v1/message/{mail_id}/part/9")
            assert set(threads) == ({is_main} if mail_id == "small" else {False})
            threads.clear()


def steps_of(work: Callable[[], object]) -> int:
    """Return the number of calls that `work` makes."""
    count = 0

    def note(_frame: object, _event: str, _argument: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "build",
    [
        lambda size: multipart(*(part("image/png; name=x", "x") for _ in range(size))),
        lambda size: multipart(part("text/html", "<p style='x:url(cid:x)'>" * size * 10)),
        lambda size: b"To: " + b"a@x.test, " * size + b"\r\n\r\n",
        lambda size: b"X: y\r\n" * size + b"\r\n",
        lambda size: b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (each, each)
            for each in range(size)
        ),
    ],
)
def test_the_cost_of_a_message_is_in_proportion_to_it(build: Callable[[int], bytes]) -> None:
    def work(size: int) -> Callable[[], object]:
        data = build(size)
        stored = StoredMail("x", 1, "", 0.0, False, "", len(data), [], EMPTY)
        return lambda: whole_message(StoredMessage(stored, data, "", [], {}, []))

    assert steps_of(work(800)) < 6 * steps_of(work(200))


@in_loop
async def test_a_head_request_marks_nothing_as_read() -> None:
    html = b"Subject: x\r\nContent-Type: text/html\r\n\r\n<p>hello"
    async with inbox(Delivery(html)) as (store, api):
        mail_id = (await store.list()).mails[0].id
        for path in (f"/api/v1/message/{mail_id}", f"/view/{mail_id}.html", f"/view/{mail_id}.txt"):
            assert (await api.head(path)).status_code == 200
            assert (await store.counts()).unread == 1, path
