"""The HTML and the text of a message as pages of their own, which can do nothing."""

from __future__ import annotations

import base64
import re

import httpx
import pytest

from ehlo.inbox import WebOptions
from ehlo.store import Delivery
from support.inboxes import inbox
from support.sites import Line, desk
from support.storing import in_loop, mail

VIEW = "/view/latest.html"


def html(markup: str, *, charset: str = "utf-8") -> Delivery:
    head = f"Content-Type: text/html; charset={charset}\r\n\r\n"
    return Delivery(head.encode() + markup.encode())


def policy(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200
    pairs = (
        each.strip().partition(" ") for each in answer.headers["content-security-policy"].split(";")
    )
    return {name: value for name, _, value in pairs}


@in_loop
async def test_html_is_as_the_sender_wrote_it_and_can_do_nothing() -> None:
    markup = "<!doctype html><p onclick=alert(1)>hé<script>alert(1)</script><form action=//evil>"
    async with inbox(html(markup)) as (store, api):
        answer = await api.get(VIEW)
        assert answer.text == markup
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        mail_id = (await store.list()).mails[0].id
        own = " ".join(
            f"{scheme}://127.0.0.1:8025/api/v1/message/{mail_id}/part/"
            for scheme in ("http", "https")
        )
        assert policy(answer) == {
            "sandbox": "allow-popups allow-popups-to-escape-sandbox",
            "default-src": "'none'",
            "img-src": f"{own} data:",
            "media-src": f"{own} data:",
            "font-src": "data:",
            "style-src": "'unsafe-inline'",
            "form-action": "'none'",
            "base-uri": "'none'",
            "frame-ancestors": "'self'",
        }
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert (await store.counts()).unread == 0


@in_loop
async def test_remote_content_loads_only_if_it_is_asked_for() -> None:
    markup = '<LINK href=//x rel="pre&#99;onnect"><link/rel=dns-prefetch href=//y><links>'
    async with inbox(html(markup)) as (_, api):
        blocked = await api.get(VIEW)
        assert "*" not in blocked.headers["content-security-policy"]
        assert blocked.headers["x-dns-prefetch-control"] == "off"
        assert "<blocked-LINK href=//x" in blocked.text
        assert blocked.text.endswith("<blocked-link/rel=dns-prefetch href=//y><links>")
        asked = await api.get(f"{VIEW}?remote=1")
        assert "* " in policy(asked)["img-src"]
        assert "script-src" not in policy(asked)
        assert policy(asked)["sandbox"] == policy(blocked)["sandbox"]
        assert asked.text == markup


@pytest.mark.parametrize("host", ["evil; script-src *", "a b", "x'", "[::1]:8025", "localhost"])
def test_a_host_cannot_change_the_policy(host: str) -> None:
    @in_loop
    async def run() -> None:
        async with inbox(html("<p>x")) as (_, api):
            answer = await api.get(VIEW, headers={"host": host})
            if answer.status_code != 403:
                assert "script-src" not in policy(answer)
                assert len(policy(answer)) == 9

    run()


@in_loop
async def test_in_a_frame_links_open_elsewhere_and_one_script_posts_the_height() -> None:
    markup = " <!DOCTYPE html>\n<base target=_self><textarea><p>x<meta http-equiv=refresh>"
    async with inbox(html(markup)) as (_, api):
        answer = await api.get(f"{VIEW}?embed=1", headers={"sec-fetch-dest": "iframe"})
        nonce = re.fullmatch("'nonce-([\\w-]{22})'", policy(answer)["script-src"])
        assert nonce is not None
        start = f' <!DOCTYPE html><base target="_blank"><script nonce="{nonce[1]}">'
        assert answer.text.startswith(start)
        assert answer.text.endswith(
            "</script>\n<base target=_self><textarea><p>x<blocked-meta http-equiv=refresh>"
        )
        assert policy(answer)["sandbox"].endswith(" allow-scripts")
        assert "same-origin" not in policy(answer)["sandbox"]
        again = await api.get(f"{VIEW}?embed=1", headers={"sec-fetch-dest": "iframe"})
        assert policy(again)["script-src"] != policy(answer)["script-src"]


@in_loop
async def test_a_frame_that_loads_late_leaves_a_message_unread() -> None:
    """The page around it marks the message, which a person may have marked as unread since."""
    async with inbox(html("<p>x")) as (store, api):
        mail_id = (await store.list()).mails[0].id
        assert (await api.get(f"/view/{mail_id}")).status_code == 200
        assert (await store.counts()).unread == 0
        await store.mark(read=False)
        for query in ("embed=1", "embed=1&remote=1"):
            await api.get(f"/view/{mail_id}.html?{query}", headers={"sec-fetch-dest": "iframe"})
        assert (await store.counts()).unread == 1
        await api.get(f"{VIEW}?embed=1", headers={"sec-fetch-dest": "document"})
        assert (await store.counts()).unread == 0


@in_loop
async def test_alone_the_page_of_a_frame_has_no_script() -> None:
    async with inbox(html("<p>x")) as (_, api):
        for headers in ({}, {"sec-fetch-dest": "document"}):
            answer = await api.get(f"{VIEW}?embed=1", headers=headers)
            assert answer.text == '<base target="_blank"><p>x'
            assert "script-src" not in policy(answer)


def test_a_browser_gets_images_in_the_page_itself_within_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It sends no login for a page that has an origin of its own; see `_Images`."""
    data = (
        "Content-Type: multipart/related; boundary=B\r\n\r\n"
        "--B\r\nContent-Type: text/html\r\n\r\n"
        "<img src=cid:a><img src=cid:a><img src=cid:a><img src=cid:svg>\r\n"
        "--B\r\nContent-Type: image/png\r\nContent-ID: <a>\r\n\r\npixels\r\n"
        "--B\r\nContent-Type: image/svg+xml\r\nContent-ID: <svg>\r\n\r\n<svg/>\r\n--B--\r\n"
    )
    image = "data:image/png;base64,cGl4ZWxz"
    monkeypatch.setattr("ehlo.inbox.preview.MOST_IMAGES", 2 * len(image))

    @in_loop
    async def run() -> None:
        async with inbox(Delivery(data.encode(), id="x")) as (_, api):
            text = (await api.get("/view/x.html", headers={"accept": "text/html,*/*"})).text
            place = "/api/v1/message/x/part"
            assert re.findall("src=([^>]*)", text) == [image, image, f"{place}/2", f"{place}/3"]
            assert image not in (await api.get("/view/x.html")).text

    run()


@pytest.mark.parametrize(
    ("link", "is_found"),
    [
        ('<img src="cid:logo@x">', True),
        ("<img src='CID:LOGO@X'>", True),
        ("<img src= cid:logo@x>", True),
        ('<img src="cid:logo%40x">', True),
        ('<img src="cid:logo.png">', True),
        ('<img src="cid:logo.png@01D">', True),
        ("<p style=\"background:url('cid:logo@x')\">", True),
        ("<p style='background: url( cid:logo@x )'>", True),
        ('<img src="cid:other@x">', False),
        ("cid:logo@x", False),
    ],
)
def test_links_to_parts_lead_to_them(link: str, is_found: bool) -> None:
    @in_loop
    async def run() -> None:
        data = (
            "Content-Type: multipart/related; boundary=B\r\n\r\n"
            f"--B\r\nContent-Type: text/html\r\n\r\n{link}\r\n"
            "--B\r\nContent-Type: image/png; name=Logo.png\r\nContent-ID: <logo@x>\r\n\r\n"
            "x\r\n--B--\r\n"
        )
        async with inbox(Delivery(data.encode()), options=WebOptions(root="/mail")) as (store, api):
            (message,) = (await store.list()).mails
            for base in ("", "/inbox/a%20b"):
                if base:
                    await store.put(Delivery(data.encode(), inbox="a b", id="other"))
                    message = (await store.list()).mails[0]
                text = (await api.get(f"{base}{VIEW}")).text
                assert (f"/mail{base}/api/v1/message/{message.id}/part/2" in text) == is_found
                assert (text == link) != is_found

    run()


@in_loop
async def test_large_images_are_put_into_the_page_in_pieces() -> None:
    """As a whole, their encoding keeps all other threads waiting."""
    image = bytes(range(256)) * 8_001
    data = (
        b"Content-Type: multipart/related; boundary=B\r\n\r\n--B\r\nContent-Type: text/html\r\n\r\n"
        b"<p>one<img src='cid:a'>two<img src=cid:a alt=x>\r\n--B\r\nContent-Type: image/png\r\n"
        b"Content-ID: <a>\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(image)
        + b"--B--\r\n"
    )
    async with desk() as site:
        await site.store.put(Delivery(data))
        async with Line(site, VIEW, headers={"Accept": "text/html"}) as line:
            assert (await line.message())["status"] == 200
            pieces = await line.body()
        url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        assert b"".join(pieces).decode() == f"<p>one<img src='{url}'>two<img src={url} alt=x>"
        assert max(map(len, pieces)) < 1 << 17


@in_loop
async def test_the_latest_message_is_found_by_its_view() -> None:
    async with inbox(html("<p>x"), options=WebOptions(root="/mail")) as (store, api):
        mail_id = (await store.list()).mails[0].id
        answer = await api.get("/view/latest")
        assert (answer.status_code, answer.headers["location"]) == (302, f"/mail/view/{mail_id}")
        assert (await api.get("/view/latest?query=zz")).headers["location"] == "/mail/"
        empty = await api.get("/inbox/a%22%3E/view/latest")
        assert empty.headers["location"] == "/mail/inbox/a%22%3E/"
        assert '"a%22' not in empty.text


@in_loop
async def test_text_is_plain_and_made_from_html_if_there_is_none() -> None:
    async with inbox(Delivery(mail()), html("<p>a &lt;script&gt;<p>b")) as (store, api):
        answer = await api.get("/view/latest.txt")
        assert answer.text == "a <script>\n\nb"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert policy(answer)["sandbox"] == ""
        plain = (await store.list()).mails[1].id
        answer = await api.get(f"/view/{plain}.html")
        assert (answer.status_code, answer.text) == (
            404,
            "This message does not contain a HTML part",
        )
        assert (await store.counts()).unread == 1


@in_loop
async def test_html_is_in_utf_8_whatever_it_was_in() -> None:
    head = b"Content-Type: text/html; charset=utf-16\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    data = head + base64.b64encode("<p>hé".encode("utf-16"))
    async with inbox(Delivery(data)) as (_, api):
        assert (await api.get(VIEW)).content == "<p>hé".encode()


@pytest.mark.parametrize(
    "markup",
    [
        "<link " * 50_000,
        "=cid:" * 50_000,
        '="cid:x"' * 50_000,
        "<!doctype" * 50_000,
        "=" + " " * 300_000,
    ],
)
def test_hostile_html_takes_time_in_proportion_to_its_size(markup: str) -> None:
    @in_loop
    async def run() -> None:
        async with inbox(html(markup)) as (_, api):
            assert (await api.get(f"{VIEW}?embed=1")).status_code == 200

    run()
