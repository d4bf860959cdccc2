"""A message in Chromium: its tabs, what can be copied, what is blocked, and strange mail."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from email.message import EmailMessage

import pytest
from playwright.sync_api import Page, Route, expect

from ehlo.inbox import WebOptions
from ehlo.transcript import Line
from support.browsing import PHONE, Elsewhere, Site, Watch, letter, opened

pytestmark = pytest.mark.usefixtures("watch")


@pytest.fixture(scope="module")
def module_site() -> Iterator[Site]:
    with Site(WebOptions(relay="smtp://user:secret@relay.test:25")) as site:
        yield site


RESET = "https://app.example.com/reset/9f8a7b6c5d4e3f2a1b0c"


GIF = bytes.fromhex("47494638396101000100800000000000ffffff2c00000000010001000002024401003b")


def full() -> EmailMessage:
    """Return a mail with everything."""
    message = letter("Reset your password", f"Use 482913 or {RESET}\n", X_Campaign="spring")
    html = f'<p>Code <b>482913</b></p><a href="{RESET}">Reset password</a><img src="cid:logo">'
    message.add_alternative(html, subtype="html")
    message.get_payload()[1].add_related(GIF, "image", "gif", cid="<logo>")  # type: ignore[union-attr,index]  # a multipart
    message.add_attachment(b"%PDF-1.4", maintype="application", subtype="pdf", filename="terms.pdf")
    return message


def test_each_tab_has_its_own_address(site: Site, page: Page) -> None:
    lines = [
        Line(1.0, "server", "220 inbox"),
        Line(1.001, "client", "MAIL FROM:<app@x.test>"),
        Line(1.901, "server", "451 4.3.0 Later"),
    ]
    facts = {"peer": "127.0.0.1:50001", "helo": "app"}
    mail_id = site.put(full(), transcript=lines, facts=facts)
    panel = page.locator(".panel")
    page.goto(f"/view/{mail_id}")
    frame = page.frame_locator("#mail")
    expect(frame.get_by_role("link")).to_have_text("Reset password")
    expect(frame.locator("img")).to_have_js_property("naturalWidth", 1)  # by its `cid:`
    page.goto(f"/view/{mail_id}/text")
    expect(panel).to_contain_text("Use 482913 or")
    expect(panel.get_by_role("link")).to_have_attribute("href", RESET)
    page.goto(f"/view/{mail_id}/source")
    expect(panel).to_contain_text(f'<a href="{RESET}">Reset password</a>')
    page.goto(f"/view/{mail_id}/headers")
    page.get_by_label("Filter header fields").fill("CAMP")
    expect(panel.locator("tr:visible")).to_have_text("X-Campaignspring")
    page.goto(f"/view/{mail_id}/raw")
    expect(panel).to_contain_text("X-Campaign: spring\nMIME-Version: 1.0")
    page.goto(f"/view/{mail_id}/parts")
    kinds = panel.locator("td:nth-child(2)").all_text_contents()
    assert [kind.replace("utf-8", "") for kind in kinds] == [
        *("multipart/mixed", "multipart/alternative", "text/plain", "multipart/related"),
        *("text/html", "image/gif", "application/pdf"),
    ]
    assert panel.locator("td:first-child").all_text_contents() == [
        *("0", "1", "1.1", "1.2", "1.2.1", "1.2.2", "2"),
    ]
    page.goto(f"/view/{mail_id}/session")
    expect(panel.locator(".facts")).to_contain_text("127.0.0.1:50001")
    expect(panel.locator(".lines .failed")).to_have_text("0.901+0.900S451 4.3.0 Later")
    expect(panel.locator(".lines .slow")).to_have_count(1)


def test_the_answer_of_a_handler_is_seen_first(site: Site, page: Page) -> None:
    """A mail that was rejected looks like any other one otherwise."""
    page.goto(f"/view/{site.put(letter(), facts={'answer': '451 4.3.0 (it raised KeyError: 7)'})}")
    facts = page.locator(".head .facts")
    expect(facts.locator(".reply")).to_have_text("451 4.3.0 (it raised KeyError: 7)")
    page.goto(f"/view/{site.put(letter(), facts={'answer': '250 2.0.0 Ok: queued as 7'})}")
    expect(facts).to_contain_text("Answer 250 2.0.0 Ok: queued as 7", use_inner_text=True)
    expect(facts.locator(".reply")).to_have_count(0)
    page.goto(f"/view/{site.put(letter())}")
    expect(facts).not_to_contain_text("Answer")


def test_a_link_in_a_mail_opens_in_a_new_window(site: Site, page: Page, watch: Watch) -> None:
    """One that does not know where it comes from, and that may run its own scripts."""
    with Elsewhere() as elsewhere:
        watch.allowed = (f"request: {elsewhere.url}/",)
        html = f'<a href="{elsewhere.url}/reset">Reset password</a>'
        page.goto(f"/view/{site.put(letter(html=html))}")
        with page.expect_popup() as popup:
            page.frame_locator("#mail").get_by_role("link").click()
        popup.value.wait_for_url(f"{elsewhere.url}/reset")
        assert popup.value.evaluate("opener") is None
        assert popup.value.evaluate("origin") == elsewhere.url
        assert popup.value.evaluate("document.referrer") == ""


def test_codes_and_links_are_copied(site: Site, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"/view/{site.put(full())}")
    chips = page.get_by_label("Codes and links")
    chips.get_by_role("button", name="482913").click()
    expect(page.locator("#toast")).to_have_text("Copied 482913")
    assert page.evaluate("navigator.clipboard.readText()") == "482913"
    expect(chips.get_by_role("link", name="Reset password")).to_have_attribute("href", RESET)
    chips.get_by_role("button", name="Copy https").click()
    expect(page.locator("#toast")).to_have_text(f"Copied {RESET}")
    assert page.evaluate("navigator.clipboard.readText()") == RESET


def test_an_attachment_is_downloaded(site: Site, page: Page) -> None:
    page.goto(f"/view/{site.put(full())}")
    with page.expect_download() as download:
        page.get_by_label("Attachments").get_by_text("terms.pdf").click()
    assert download.value.suggested_filename == "terms.pdf"
    with open(download.value.path(), "rb") as file:  # noqa: PTH123
        assert file.read() == b"%PDF-1.4"


def test_remote_content_is_blocked_until_one_click(site: Site, page: Page, watch: Watch) -> None:
    """For one mail, and for all of a sender."""
    with Elsewhere() as elsewhere:
        watch.allowed = (f"request: {elsewhere.url}/pixel", "console: Loading the image")
        html = f'<p>hi</p><img src="{elsewhere.url}/pixel">'
        ids = [site.put(letter(f"mail {number}", html=html)) for number in range(3)]
        page.goto(f"/view/{ids[0]}")
        expect(page.locator("#remote")).to_contain_text("blocked")
        assert elsewhere.asked == []
        with page.expect_response(f"{elsewhere.url}/pixel"):
            page.get_by_role("button", name="Load it").click()
        expect(page.locator("#remote")).to_be_hidden()
        page.goto(f"/view/{ids[1]}")
        with page.expect_response(f"{elsewhere.url}/pixel"):
            page.get_by_role("button", name="Always for app@x.test").click()
        with page.expect_response(f"{elsewhere.url}/pixel"):
            page.goto(f"/view/{ids[2]}")
        expect(page.locator("#remote")).to_be_hidden()
        assert set(elsewhere.asked) == {"/pixel"}


def test_the_frame_is_as_wide_as_a_phone_or_a_tablet(site: Site, page: Page) -> None:
    page.goto(f"/view/{site.put(full())}")
    frame = page.locator("#mail")
    for name, width in (("Phone", 390), ("Tablet", 768)):
        page.get_by_role("button", name=name).click()
        assert (box := frame.bounding_box()) is not None
        assert box["width"] == width


def test_tags_are_edited(site: Site, page: Page) -> None:
    mail_id = site.put(letter("mail"))
    page.goto(f"/view/{mail_id}")
    page.get_by_role("button", name="Add a tag").click()
    page.locator("#tags-input").fill("beta, two words")
    page.locator("#tags-input").press("Enter")
    expect(page.locator("#letter-tags .tag")).to_have_text(["beta", "two words"])
    assert site.run(site.store.tags()) == {"beta": 1, "two words": 1}


def test_buttons_keep_the_focus_when_tags_change(site: Site, page: Page) -> None:
    mail_id = site.put(letter("mail"), tags=["beta"])
    for path, button, tags in (
        ("/", page.get_by_role("button", name="Edit tags"), page.locator(".tags li")),
        (
            f"/view/{mail_id}",
            page.locator("#letter-tags").get_by_role("button"),
            page.locator("#letter-tags .tag"),
        ),
    ):
        site.run(site.store.set_tags([mail_id], ["beta"]))
        opened(page, path)
        button.focus()
        site.run(site.store.set_tags([mail_id], ["beta", "old"]))
        expect(tags).to_have_count(2)
        expect(button).to_be_focused()


def test_a_mail_that_is_gone_says_so(page: Page, watch: Watch) -> None:
    watch.allowed = ("console: Failed to load resource: the server responded with a status of 404",)
    response = page.goto("/view/5UEGstTjW8Xj0arT04281u")
    assert response is not None
    assert response.status == 404
    expect(page.get_by_text("This message is not here")).to_be_visible()


def test_sessions_that_brought_no_mail_are_listed(site: Site, page: Page) -> None:
    lines = [Line(1.0, "client", "AUTH PLAIN ****"), Line(1.1, "server", "535 5.7.8 No")]
    site.run(site.store.put_session(lines, {"peer": "127.0.0.1:50001"}))
    page.goto("/sessions")
    visit = page.locator(".visit")
    expect(visit).to_contain_text("535 5.7.8 No")
    expect(visit.locator(".lines")).to_be_hidden()
    visit.locator("summary").click()
    expect(visit.locator(".lines")).to_contain_text("AUTH PLAIN ****")


STRANGE = {
    "a subject of 10,000 letters": letter("S" * 10_000),
    "right to left": letter("مرحبا بالعالم", "مرحبا كيف حالك", From="فاطمة <f@x.test>"),
    "emoji": letter("🎉 Party 👩‍👩‍👧‍👦", "🕺"),
    "no subject": letter(None),
    "200 recipients": letter("many", To=", ".join(f"u{n} <u{n}@x.test>" for n in range(200))),
    "5 MB of text": letter("large", "Lorem ipsum dolor sit amet.\n" * 190_000),
    "one long word": letter("W" * 300, "w" * 100_000, X_Long="h" * 50_000),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_mail_fits_on_a_phone(site: Site, page: Page, name: str) -> None:
    mail_id = site.put(STRANGE[name])
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]  # a TypedDict
    for path in ("/", f"/view/{mail_id}", f"/view/{mail_id}/headers"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        assert page.evaluate("document.querySelector('main').scrollWidth") <= 390, path
        assert page.evaluate("document.documentElement.outerHTML.length") < 600_000, path


def test_300_attachments_are_shown_when_they_are_wanted(site: Site, page: Page) -> None:
    message = letter("files")
    for number in range(300):
        message.add_attachment(b"x", maintype="image", subtype="png", filename=f"{number}.png")
    page.goto(f"/view/{site.put(message)}")
    expect(page.locator(".file:visible")).to_have_count(6)
    page.get_by_text("294 more attachments").click()
    expect(page.locator(".file:visible")).to_have_count(300)


def test_release_asks_for_addresses(site: Site, page: Page) -> None:
    mail_id = site.put(letter("mail"), rcpt_tos=["ann@y.test", "bob@y.test"])
    sent: list[object] = []

    def answer(route: Route) -> None:
        sent.append(route.request.post_data_json)
        route.fulfill(body="ok")

    page.route(f"**/message/{mail_id}/release", answer)
    page.goto(f"/view/{mail_id}")
    page.get_by_role("button", name="Release").click()
    dialog = page.locator("#release")
    expect(dialog).to_contain_text("relay.test:25")
    assert "secret" not in page.content()
    expect(dialog.get_by_role("textbox")).to_have_value("ann@y.test, bob@y.test")
    dialog.get_by_role("textbox").fill("carol@z.test")
    dialog.get_by_role("button", name="Release", exact=True).click()
    expect(page.locator("#toast")).to_have_text("Released")
    assert sent == [{"To": ["carol@z.test"]}]


def test_the_checksums_of_files_are_shown(site: Site, page: Page) -> None:
    page.goto(f"/view/{site.put(full())}")
    page.get_by_role("button", name="Checksums").click()
    files = page.get_by_role("dialog").locator("#checksum-list > li")
    expect(files).to_have_count(2)
    expect(files.first).to_contain_text("terms.pdf")
    digits = hashlib.sha256(b"%PDF-1.4").hexdigest()
    files.first.get_by_role("button", name=digits).click()
    expect(page.locator("#toast")).to_have_text("Copied")


def test_the_checksums_leave_a_mail_unread(site: Site, page: Page) -> None:
    page.goto(f"/view/{site.put(full())}")
    page.get_by_role("button", name="Mark unread").click()
    expect(page.locator("#foot")).to_contain_text("1 unread")
    page.get_by_role("button", name="Checksums").click()
    expect(page.get_by_role("dialog").locator("#checksum-list > li")).to_have_count(2)
    assert page.request.get("/api/v1/info").json()["Unread"] == 1
