"""Looks into a message: links, codes, the session that brought it, and its parts."""

from __future__ import annotations

import dataclasses

from ehlo.inbox.api.anatomy import LARGE
from ehlo.store import Delivery
from ehlo.transcript import Line
from support.sites import Turns, browser, desk
from support.storing import in_loop

MAIL = (
    b"From: a@x.test\r\nTo: b@y.test\r\nSubject: Your code 482913\r\n"
    b'Content-Type: multipart/mixed; boundary="a"\r\n\r\n'
    b'--a\r\nContent-Type: multipart/alternative; boundary="b"\r\n\r\n'
    b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    b"Reset your password: https://x.test/reset/1\r\nYour code is 482913.\r\n"
    b"--b\r\nContent-Type: text/html\r\n\r\n<a href='https://x.test/reset/1'>Reset</a>\r\n--b--\r\n"
    b"--a\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n"
    b"Content-Disposition: attachment; filename*=utf-8''na%C3%AFve.pdf\r\nContent-ID: <c@x>\r\n\r\n"
    b"aGVsbG8=\r\n--a--\r\n"
)


@in_loop
async def test_links_and_codes_of_a_message() -> None:
    async with desk() as site:
        mail_id = await site.store.put(Delivery(MAIL))
        client = browser(site)
        links = (await client.get(f"/api/v1/message/{mail_id}/links")).json()["Links"]
        assert [each["URL"] for each in links] == ["https://x.test/reset/1"]
        assert links[0].keys() == {"URL", "Text", "Score"}
        codes = (await client.get("/api/v1/message/latest/codes")).json()["Codes"]
        assert [each["Code"] for each in codes] == ["482913"]
        assert codes[0].keys() == {"Code", "Score"}
        assert (await site.store.counts()).unread == 1  # a look reads nothing


@in_loop
async def test_the_session_of_a_message_has_its_lines_and_their_times() -> None:
    lines = [Line(100.0, "server", "220 x"), Line(100.25, "client", "EHLO <y>")]
    delivery = Delivery(MAIL, "a@x.test", ["b@y.test"], "", "anna", {"helo": "y"}, lines)
    async with desk() as site:
        mail_id = await site.store.put(delivery)
        found = (await browser(site).get(f"/api/v1/message/{mail_id}/session")).json()
        assert found == {
            "MailFrom": "a@x.test",
            "RcptTos": ["b@y.test"],
            "Username": "anna",
            "Facts": {"helo": "y"},
            "Lines": [
                {"Time": 100.0, "Offset": 0.0, "Direction": "server", "Text": "220 x"},
                {"Time": 100.25, "Offset": 0.25, "Direction": "client", "Text": "EHLO <y>"},
            ],
        }


@in_loop
async def test_the_parts_of_a_message_are_a_tree() -> None:
    async with desk() as site:
        mail_id = await site.store.put(Delivery(MAIL))
        client = browser(site)
        root = (await client.get(f"/api/v1/message/{mail_id}/mime")).json()
        assert (root["PartID"], root["ContentType"]) == ("0", "multipart/mixed")
        assert ["Subject", "Your code 482913"] in root["Headers"]
        both, pdf = root["Parts"]
        assert [each["PartID"] for each in both["Parts"]] == ["1.1", "1.2"]
        assert [each["ContentType"] for each in both["Parts"]] == ["text/plain", "text/html"]
        assert both["Parts"][0]["Charset"] == "utf-8"
        assert MAIL[both["Parts"][1]["Start"] :].startswith(b"<a href")
        assert pdf["FileName"] == "naïve.pdf"
        assert (pdf["PartID"], pdf["ContentID"], pdf["Size"]) == ("2", "c@x", 5)
        assert (pdf["Encoding"], pdf["Disposition"]) == ("base64", "attachment")
        assert pdf["Parts"] == []
        part = await client.get(f"/api/v1/message/{mail_id}/part/{pdf['PartID']}")
        assert part.content == b"hello"


@in_loop
async def test_two_hundred_levels_and_fifty_thousand_fields_are_shown_as_far_as_possible() -> None:
    deep = b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (level, level)
        for level in range(200)
    )
    wide = b"".join(b"X-%d: y\r\n" % number for number in range(50_000)) + b"\r\nbody\r\n"
    async with desk() as site:
        for message in (deep, wide, b"", b"\r\n", b"\0" * 1_000):
            await site.store.put(Delivery(message))
            for look in ("mime", "links", "codes", "session"):
                answer = await browser(site).get(f"/api/v1/message/latest/{look}")
                assert answer.status_code == 200
            await site.store.delete()


@in_loop
async def test_an_unknown_message_is_404() -> None:
    async with desk() as site:
        for look in ("mime", "links", "codes", "session"):
            for mail_id in ("x" * 22, "latest", "%00", "..%2f"):
                answer = await browser(site).get(f"/api/v1/message/{mail_id}/{look}")
                assert answer.status_code == 404


@in_loop
async def test_few_large_messages_are_in_memory_at_once() -> None:
    """The threads that look into them are those that mail needs, too."""
    async with desk() as made:
        turns = Turns(2)
        site = dataclasses.replace(made, turns=turns)
        large = await site.store.put(Delivery(MAIL + b"x" * LARGE))
        small = await site.store.put(Delivery(MAIL))
        client = browser(site)
        for number, name in enumerate(("links", "codes", "mime"), 1):
            assert (await client.get(f"/api/v1/message/{large}/{name}")).status_code == 200
            assert (await client.get(f"/api/v1/message/{small}/{name}")).status_code == 200
            assert turns.taken == number
        found = await client.get("/api/v1/search/wait?count=2")
        assert found.json()["count"] == 2
        assert turns.taken == 4
        assert (await client.get(f"/api/v1/message/{large}/session")).status_code == 200
        assert turns.taken == 4  # it reads nothing of the message
        assert (await client.get(f"/view/{large}/source")).status_code == 200
        assert turns.taken == 5
