"""The pages as the server renders them, without a browser: headers, bounds, and odd requests."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from ehlo.content.mime import parse_message
from ehlo.inbox import WebOptions, make_site
from ehlo.inbox.pages.panels import MOST_ROWS, number_parts
from ehlo.inbox.pages.rendering import (
    highlight,
    show_bytes,
    show_duration,
    show_iso,
)
from ehlo.store import Delivery, StoreError, TooSlowError
from ehlo.transcript import Line
from support.inboxes import inbox
from support.sites import desk
from support.storing import in_loop, mail

REFRESH = {"X-Ehlo-Refresh": "1"}


def failing(error: Exception) -> Callable[..., Awaitable[None]]:
    """Return a method of a store that fails."""

    async def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@in_loop
async def test_a_page_runs_its_own_scripts_only() -> None:
    async with inbox(Delivery(mail(), id="x")) as (_, api):
        nonces = set()
        for path in ("/", "/search?q=hello", "/view/x", "/faults", "/sessions", "/view/none"):
            answer = await api.get(path)
            policy = answer.headers["content-security-policy"]
            nonce = re.search("script-src 'nonce-([^']+)'", policy)
            assert nonce is not None
            nonces.add(nonce[1])
            assert "default-src 'none'" in policy
            assert "base-uri 'none'" in policy
            assert re.findall('<script[^>]*nonce="([^"]*)', answer.text) == [nonce[1]]
            assert not re.search(r"<[^>]*\s(?:on\w+|style)=", answer.text)
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert len(nonces) == 6


@in_loop
async def test_a_frame_may_show_the_mail_of_its_page_and_nothing_else() -> None:
    async with inbox(Delivery(mail(), id="x"), options=WebOptions(root="/mail")) as (_, api):
        policy = (await api.get("/view/x")).headers["content-security-policy"]
        (frames,) = re.findall("frame-src ([^;]*)", policy)
        assert [each.split("/", 3)[-1] for each in frames.split()] == ["mail/view/x.html"] * 2
        for path in ("/", "/view/none%27", "/view/a;b"):
            policy = (await api.get(path)).headers["content-security-policy"]
            assert "frame-src 'none'" in policy


@in_loop
async def test_only_a_person_who_opens_a_mail_has_read_it() -> None:
    async with inbox(Delivery(mail(), id="x")) as (store, api):
        assert (await api.head("/view/x")).status_code == 200
        assert (await api.get("/view/x/raw", headers=REFRESH)).status_code == 200
        assert (await store.counts()).unread == 1
        assert (await api.get("/view/x/raw")).status_code == 200
        assert (await store.counts()).unread == 0


@in_loop
async def test_what_is_not_there_is_404() -> None:
    async with inbox(Delivery(mail(), id="x", inbox="one")) as (_, api):
        for path in ("/view/y", "/view/x/none", "/view/x.none", "/inbox/two/view/x", "/view/%00"):
            assert (await api.get(path)).status_code == 404, path
        for path in ("/static/v/none.js", "/static/v/..%2fscreens.py", "/static/v/%2e%2e"):
            assert (await api.get(path)).status_code == 404, path
        assert (await api.get("/inbox/one/view/x")).status_code == 200


@in_loop
async def test_a_store_that_does_not_answer_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    async with inbox(Delivery(mail(), id="x")) as (store, api):
        for name in ("list", "search", "get", "counts"):
            monkeypatch.setattr(store, name, failing(StoreError("database is locked")))
        for path in ("/", "/search?q=x", "/view/x", "/view/x/raw", "/sessions", "/faults"):
            answer = await api.get(path)
            assert (answer.status_code, answer.text) == (
                503,
                "The store does not answer; see the log",
            ), path


@in_loop
async def test_a_search_that_takes_too_long_is_a_page_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with inbox(Delivery(mail(), id="x")) as (store, api):
        error = TooSlowError("mail.db: reading took too long; search for less")
        monkeypatch.setattr(store, "search", failing(error))
        answer = await api.get("/search?q=a%20b")
        assert answer.status_code == 503
        assert "<h1>The search took too long</h1>" in answer.text
        assert "It was stopped after 10 seconds." in answer.text
        assert 'name="q" value="a b"' in answer.text
        answer = await api.get("/api/v1/search?query=a")
        assert answer.status_code == 503
        assert answer.text == "Reading took too long; search for less"


@in_loop
async def test_an_address_without_a_page_is_a_page_in_a_browser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = {"Accept": "text/html,application/xhtml+xml"}
    async with inbox(Delivery(mail(), id="x"), options=WebOptions(root="/mail")) as (store, api):
        for path, home in (("/none", "/mail/"), ("/inbox/one/none", "/mail/inbox/one/")):
            answer = await api.get(path, headers=page)
            assert answer.status_code == 404
            assert "<h1>There is no such page</h1>" in answer.text
            assert f'<a class="button" href="{home}">' in answer.text
            for other in (
                await api.get(path),
                await api.head(path, headers=page),
                await api.post(path, headers=page),
                await api.get(f"/api{path}", headers=page),
            ):
                assert (other.status_code, "<h1>" in other.text) == (404, False)
        monkeypatch.setattr(store, "counts", failing(StoreError("database is locked")))
        answer = await api.get("/none", headers=page)
        assert (answer.status_code, answer.text) == (404, "Not Found")


@pytest.mark.parametrize("below", ["", "/office"])
@in_loop
async def test_a_page_outside_the_root_leads_to_the_pages_below_it(below: str) -> None:
    async with desk(root="/mail") as site:
        app = Starlette(routes=[Mount(below, make_site(site))])
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8025"
        ) as client:
            for path in ("/", "/none", "/mailbox", "/inbox/one/none", "/mail/none"):
                answer = await client.get(f"{below}{path}", headers={"Accept": "text/html"})
                assert answer.status_code == 404
                assert f'<a class="button" href="{below}/mail/">' in answer.text
                (style,) = re.findall('href="([^"]+/pages.css)"', answer.text)
                assert (await client.get(style)).status_code == 200


@in_loop
async def test_a_message_without_text_says_so() -> None:
    async with inbox(
        Delivery(b"Subject: x\r\n\r\n \r\n", id="empty"),
        Delivery(b"Subject: x\r\n\r\nhttp://x.test\r\n", id="link"),
    ) as (_, api):
        said = "This message has no text."
        assert said in (await api.get("/view/empty/text")).text
        assert said not in (await api.get("/view/link/text")).text
        assert said not in (await api.get("/view/empty/raw")).text


@in_loop
async def test_an_image_has_an_icon_where_there_are_no_thumbnails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = b"Content-Type: image/png\r\nContent-Disposition: attachment\r\n\r\nx"
    async with inbox(Delivery(data, id="x")) as (_, api):
        assert "/thumb" in (await api.get("/view/x")).text
    monkeypatch.setattr("ehlo.inbox.api.thumbs.find_spec", lambda _name: None)
    async with inbox(Delivery(data, id="x")) as (_, api):
        text = (await api.get("/view/x")).text
        assert "/thumb" not in text
        assert "icons.svg#file" in text


@in_loop
async def test_pages_are_only_read() -> None:
    async with inbox(Delivery(mail(), id="x")) as (_, api):
        for path in ("/", "/search", "/view/x", "/view/x/raw", "/sessions", "/faults"):
            answer = await api.post(path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


@in_loop
async def test_the_list_shows_the_envelope_sender_of_a_mail_without_from() -> None:
    message = b"To: b@y.example\r\n\r\nx\r\n"
    mails = (
        Delivery(message, mail_from=""),
        Delivery(b"From: Ann <ann@x.example>\r\n" + message, mail_from="e@x.example"),
        Delivery(message, mail_from="app+1@x.example"),
    )
    async with inbox(*mails) as (_, api):
        for path in ("/", "/search?q=b@y.example"):
            page = (await api.get(path)).text
            senders = re.findall(r'class="from"><bdi>([^<]*)', page)
            assert senders == ["app+1@x.example", "Ann", "no sender"], path


@in_loop
async def test_a_message_says_once_when_it_was_received() -> None:
    facts = {"received": "Received: from x by y; today"}
    async with inbox(Delivery(mail(), id="x", facts=facts)) as (_, api):
        page = (await api.get("/view/x/session")).text
        assert page.count("<dt>Received</dt>") == 1
        assert "<dt>Received field</dt><dd><code>Received: from x by y; today</code>" in page


@in_loop
async def test_the_facts_of_a_session_are_no_json() -> None:
    facts = {
        "esmtp": True,
        "tls": {"version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384"},
        "params": {
            "mail": {"SIZE": "300", "SMTPUTF8": "True"},
            "rcpt": [{}, {"NOTIFY": "FAILURE,SUCCESS", "ORCPT": "rfc822;c@y.test"}, {}],
        },
        "answer": "250 2.0.0 Ok: stored as 4711",
    }
    recipients = ["b@y.test", "c@y.test", "d@y.test"]
    delivery = Delivery(mail(), "a@x.test", recipients, id="x", facts=facts)
    async with inbox(delivery) as (_, api):
        page = (await api.get("/view/x/session")).text
    assert re.findall("<dt>([A-Z][^<]+)</dt><dd><code>([^<]*)</code>", page)[-5:] == [
        ("Envelope recipients", "b@y.test, c@y.test, d@y.test"),
        ("ESMTP", "yes"),
        ("TLS", "TLSv1.3, TLS_AES_256_GCM_SHA384"),
        ("Parameters of MAIL", "SIZE=300 SMTPUTF8"),
        ("Parameters of RCPT", "c@y.test NOTIFY=FAILURE,SUCCESS ORCPT=rfc822;c@y.test"),
    ]
    assert page.count("stored as 4711") == 1  # in the head


@in_loop
async def test_one_thing_is_in_the_singular() -> None:
    links = b"".join(b'<a href="https://x.test/%d">x</a>' % number for number in range(5))
    data = (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\nContent-Type: text/html\r\n\r\n" + links + b"\r\n"
        b"--b\r\nContent-Disposition: attachment; filename=a.pdf\r\n\r\n1\r\n--b--\r\n"
    )
    async with inbox(Delivery(data, id="x")) as (store, api):
        await store.put_session([Line(0.0, "client", "QUIT")], {})
        rules = {"Faults": [{"At": "rcpt", "Reply": "450 4.2.1 Later"}]}
        assert (await api.put("/api/v1/faults", json=rules)).status_code == 200
        page = (await api.get("/")).text
        assert ">1 attachment<" in page
        assert "1 message," in page
        assert 'aria-label="1 rule"' in page
        assert ">1 more link<" in (await api.get("/view/x")).text
        assert ">1 line<" in (await api.get("/sessions")).text


@pytest.mark.parametrize(
    ("at", "is_remote"), [(0, True), (32_760, True), (50_000, True), (50_000, False)]
)
@in_loop
async def test_remote_content_is_found_anywhere_in_html(at: int, is_remote: bool) -> None:
    link = "<img src = 'https://x.test/a'>" if is_remote else "<img src='cid:a'>"
    data = f"Content-Type: text/html\r\n\r\n<p>{'x' * at}{link}{'y' * 90_000}".encode()
    async with inbox(Delivery(data, id="x")) as (_, api):
        assert ("data-remote" in (await api.get("/view/x")).text) == is_remote


@in_loop
async def test_files_are_kept_for_ever_by_the_name_of_their_version() -> None:
    async with inbox() as (_, api):
        page = (await api.get("/")).text
        kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        addresses = set(re.findall('(?:src|href)="(/static/[^"#]*)', page))
        assert len(addresses) >= 4
        for address in addresses:
            answer = await api.get(address)
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith(kinds[address.rpartition(".")[2]])
            assert "immutable" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", "1–3 of 3"),
        ("?start=-1&limit=7", "1–3 of 3"),
        ("?start=abc&limit=1e9", "1–3 of 3"),
        ("?start=2&limit=25", "3–3 of 3"),
        ("?start=99999999999999999999", "1–3 of 3"),
        ("?q=" + "x" * 10_000, "No message matches"),
        ("?q=%00%ff%22%27%25*", "No message matches"),
    ],
)
def test_odd_addresses_of_a_list(query: str, shown: str) -> None:
    @in_loop
    async def run() -> None:
        async with inbox(*(Delivery(mail(), id=name) for name in "abc")) as (_, api):
            answer = await api.get(
                f"/{query}", headers={"Cookie": "ehlo_zone=..%2F%00; ehlo_limit=x"}
            )
            assert answer.status_code == 200
            assert shown in answer.text
            assert len(answer.text) < 60_000

    run()


@in_loop
async def test_beyond_the_end_is_the_last_page() -> None:
    async with inbox(*(Delivery(mail(), id=str(number)) for number in range(60))) as (_, api):
        answer = await api.get("/?start=5000&limit=25")
        assert answer.status_code == 307
        assert answer.headers["location"] == "/?start=50&limit=25"


@in_loop
async def test_a_row_counts_all_recipients_and_a_message_shows_them() -> None:
    people = ", ".join(f"p{each}@x.test" for each in range(300))
    message = f"To: {people}\r\nSubject: {'s' * 2_000}{'t' * 3_000}\r\n\r\nHi\r\n".encode()
    async with inbox(Delivery(message, id="x")) as (_, api):
        assert "<bdi>p0@x.test</bdi> +299" in (await api.get("/")).text
        page = (await api.get("/view/x")).text
        assert page.count('class="person"') == 300
        assert "(4,500 more characters; see Headers)" in page


PARTS = b"--B\r\nContent-Type: text/plain; name=a.txt\r\n\r\nx\r\n" * 10_000
BROKEN = {
    "10,000 parts": b"Content-Type: multipart/mixed; boundary=B\r\n\r\n" + PARTS,
    "200 levels": b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level)
        for level in range(200)
    ),
    "50,000 headers": b"X-Header: value\r\n" * 50_000 + b"\r\n",
    "one line of 5 MB": b"Subject: " + b"x" * 5_000_000,
    "tags without end": b"Content-Type: text/html\r\n\r\n" + b"<" * 500_000 + b"<!--" * 100_000,
    "links": b"Subject: x\r\n\r\n" + b"https://x.test/a " * 50_000,
    "nothing": b"",
    "bytes": bytes(range(256)) * 1_000,
    "a name without end": b'From: "' + b"a" * 300_000 + b'" <a@x.test>\r\n\r\n',
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_tab_of_a_broken_mail_is_a_page_of_a_size_to_read(name: str) -> None:
    @in_loop
    async def run() -> None:
        async with inbox(Delivery(BROKEN[name], "a@x.test", ["b@y.test"], id="x")) as (_, api):
            for tab in ("", "/html", "/text", "/source", "/headers", "/raw", "/parts", "/session"):
                answer = await api.get(f"/view/x{tab}")
                assert answer.status_code == 200
                assert len(answer.text) < 4_000_000, tab
            assert len((await api.get("/")).text) < 40_000

    run()


def test_parts_are_numbered_as_in_the_api() -> None:
    data = (
        b"Content-Type: multipart/mixed; boundary=A\n\n--A\n"
        b"Content-Type: multipart/related; boundary=B\n\n--B\n\nx\n--B\n\ny\n--B--\n"
        b"--A\n\nz\n--A--\n"
    )
    numbered = [(name, depth) for name, depth, _ in number_parts(parse_message(data))]
    assert numbered == [("0", 0), ("1", 1), ("1.1", 2), ("1.2", 2), ("2", 1)]
    assert MOST_ROWS == 1_000


def test_values_are_shown_as_a_person_writes_them() -> None:
    sizes = {0: "0 B", 1_023: "1023 B", 1_024: "1.0 KB", 1_536: "1.5 KB", 10_240: "10 KB"}
    sizes |= {1_048_576: "1.0 MB", 52_428_800: "50 MB", 10**15: "909 TB", 10**18: "909495 TB"}
    assert {size: show_bytes(size) for size in sizes} == sizes
    spans = {
        1.0: "1 second",
        3: "3 seconds",
        0.5: "0.5 seconds",
        60: "1 minute",
        7_200: "2 hours",
        864_000: "10 days",
    }
    assert {seconds: show_duration(seconds) for seconds in spans} == spans
    assert show_iso(0) == "1970-01-01T00:00:00.000Z"
    assert show_iso(1e20) == "1970-01-01T00:00:00.000Z"


def test_highlighting_keeps_each_character() -> None:
    for text in ("<p>a<b c='<'>d</p><!-- x > --> y <!-- z", "a < b", "<" * 9, "</", ""):
        assert "".join(piece for _, piece in highlight(text)) == text
    assert ("comment", "<!-- x > -->") in list(highlight("<!-- x > -->"))
