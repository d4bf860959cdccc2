"""The list of mails in Chromium: live, searched, selected, driven by keys."""

from __future__ import annotations

import re
from functools import partial
from itertools import pairwise

import pytest
from playwright.sync_api import APIResponse, Browser, Locator, Page, Route, expect

from support.browsing import DEADLINE, PHONE, Site, Watch, letter, opened, press_key

pytestmark = pytest.mark.usefixtures("watch")


def rows(page: Page) -> Locator:
    return page.locator("#rows > .row")


def row(page: Page, subject: str) -> Locator:
    return rows(page).filter(has=page.get_by_text(subject, exact=True))


def expect_subjects(page: Page, *wanted: str) -> None:
    expect(page.locator("#rows .subject")).to_have_text(list(wanted))


def focused_row(page: Page) -> Locator:
    return page.locator("#rows > .row:has(.open:focus)")


def test_mail_appears_without_a_reload(site: Site, page: Page) -> None:
    opened(page)
    expect(page.get_by_text("No mail yet")).to_be_visible()
    page.evaluate("window.isSamePage = true")
    site.send(letter("Welcome aboard"))
    expect(row(page, "Welcome aboard")).to_be_visible()
    expect(page.get_by_text("No mail yet")).to_have_count(0)
    expect(page).to_have_title("(1) Inbox · staging")
    expect(page.locator("#unread")).to_have_text("1")
    expect(page.locator("#favicon")).to_have_attribute("href", re.compile("icon-unread.svg$"))
    site.send(letter("Second"))
    expect(page.locator("#unread")).to_have_text("2")
    expect(page.locator("#news")).to_have_text("New message: Second")
    expect_subjects(page, "Second", "Welcome aboard")
    assert page.evaluate("window.isSamePage")


def test_an_empty_inbox_says_where_mail_goes_and_how_much_is_kept(site: Site, page: Page) -> None:
    opened(page)
    expect(page.locator("#empty")).to_contain_text(f"127.0.0.1:{site.port}")
    expect(page.locator("#sample")).to_contain_text("smtplib.SMTP(")
    expect(page.locator("#foot")).to_contain_text("The newest 500 are kept")


def test_a_search_has_an_address_of_its_own(site: Site, page: Page) -> None:
    site.put(letter("Password reset"))
    site.put(letter("Invoice", X_Campaign="spring"))
    opened(page)
    page.keyboard.press("/")
    page.keyboard.type("subject:reset")
    page.keyboard.press("Enter")
    expect_subjects(page, "Password reset")
    expect(page).to_have_url(re.compile(r"/search\?q=subject%3Areset$"))
    page.goto("/search?q=header:X-Campaign=spring")
    expect_subjects(page, "Invoice")
    expect(page.locator("#search")).to_have_value("header:X-Campaign=spring")
    page.goto("/search?q=nothing")
    expect(page.get_by_text("No message matches")).to_be_visible()


@pytest.mark.own_page
def test_a_page_is_live_where_a_proxy_has_no_websocket(site: Site, page: Page) -> None:
    page.route_web_socket("**/api/events", lambda socket: socket.close())
    opened(page)
    site.put(letter("mail"))
    expect(row(page, "mail")).to_be_visible()


def test_dates_in_a_search_are_those_of_the_browser(browser: Browser, site: Site) -> None:
    context = browser.new_context(base_url=site.url, timezone_id="Pacific/Kiritimati")  # UTC+14
    context.set_default_timeout(DEADLINE * 1_000)
    page = context.new_page()
    site.put(letter("mail"), created=1_793_483_000)  # 2026-10-31 23:43 UTC
    page.goto("/")
    expect(page.locator("html")).to_have_attribute("data-ready", "")
    page.goto("/search?q=after:2026-11-01")
    expect(rows(page)).to_have_count(1)
    page.goto("/search?q=before:2026-11-01")
    expect(rows(page)).to_have_count(0)
    context.close()


def test_a_search_is_live(site: Site, page: Page) -> None:
    opened(page, "/search?q=invoice")
    site.put(letter("A letter"))
    site.put(letter("Invoice 7"))
    expect(row(page, "Invoice 7")).to_be_visible()
    expect_subjects(page, "Invoice 7")


def test_mails_are_selected_and_deleted(site: Site, page: Page) -> None:
    for number in range(6):
        site.put(letter(f"mail {number}"))
    opened(page)
    row(page, "mail 5").locator("input").click()
    expect(page.locator("#chosen-count")).to_have_text("1 selected")
    row(page, "mail 3").locator("input").click(modifiers=["Shift"])
    expect(page.locator("#chosen-count")).to_have_text("3 selected")
    row(page, "mail 1").locator(".open").click(modifiers=["Control"])
    row(page, "mail 4").locator(".open").click(modifiers=["Control"])
    expect(page.locator("#chosen-count")).to_have_text("3 selected")
    site.put(letter("mail 6"))  # which changes no selection
    expect(row(page, "mail 6")).to_be_visible()
    expect(page.locator("#chosen-count")).to_have_text("3 selected")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(rows(page)).to_have_count(4)
    expect_subjects(page, "mail 6", "mail 4", "mail 2", "mail 0")
    assert site.run(site.store.counts()).total == 4


def test_all_mails_are_selected_at_once_and_marked(site: Site, page: Page) -> None:
    for number in range(3):
        site.put(letter(f"mail {number}"))
    opened(page)
    page.locator("#pick-all").check()
    expect(page.locator("#chosen-count")).to_have_text("3 selected")
    page.get_by_role("button", name="Mark read").click()
    expect(page.locator(".row.unread")).to_have_count(0)
    expect(page).to_have_title("Inbox · staging")
    page.get_by_role("button", name="Mark unread").click()
    expect(page.locator(".row.unread")).to_have_count(3)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#chosen")).to_be_hidden()


def test_deleting_all_is_asked_first(site: Site, page: Page) -> None:
    site.put(letter("one invoice"))
    site.put(letter("two"))
    opened(page, "/search?q=invoice")
    page.get_by_role("button", name="Delete results").click()
    page.locator("#confirm-yes").click()
    expect(rows(page)).to_have_count(0)
    opened(page)
    page.get_by_role("button", name="Delete all").click()
    page.get_by_role("button", name="Cancel").click()
    assert site.run(site.store.counts()).total == 1
    page.get_by_role("button", name="Delete all").click()
    page.locator("#confirm-yes").click()
    expect(page.get_by_text("No mail yet")).to_be_visible()
    assert site.run(site.store.counts()).total == 0


def test_keys_move_select_open_and_come_back_to_the_row(site: Site, page: Page) -> None:
    for number in range(4):
        site.put(letter(f"mail {number}"))
    opened(page)
    press = partial(press_key, page)
    press("j")
    press("j")
    press("ArrowDown")
    press("k")
    expect(focused_row(page).locator(".subject")).to_have_text("mail 2")
    assert page.url.endswith("/")  # to move is not to open
    press("x")
    expect(page.locator("#chosen-count")).to_have_text("1 selected")
    press("Escape")
    expect(page.locator("#chosen")).to_be_hidden()
    press("Enter")
    expect(page.locator(".head h1")).to_have_text("mail 2")
    press("n")
    expect(page.locator(".head h1")).to_have_text("mail 1")
    press("p")
    expect(page.locator(".head h1")).to_have_text("mail 2")
    press("n")
    expect(page.locator(".head h1")).to_have_text("mail 1")
    press("u")
    expect(focused_row(page).locator(".subject")).to_have_text("mail 1")
    press("k")
    expect(page.locator(".row.unread")).to_have_count(2)
    press("r")
    expect(page.locator(".row.unread")).to_have_count(3)
    press("#")
    expect(rows(page)).to_have_count(3)
    expect(focused_row(page).locator(".subject")).to_have_text("mail 1")
    press("?")
    expect(page.locator("#keys")).to_be_visible()
    press("#")  # a dialog is open
    press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    assert site.run(site.store.counts()).total == 3


def test_keys_of_a_message(site: Site, page: Page) -> None:
    ids = [site.put(letter(f"mail {number}", html="<p>hi")) for number in range(3)]
    page.goto(f"/view/{ids[1]}")
    press = partial(press_key, page)
    expect(page.locator(".tabs [aria-current]")).to_have_text("HTML")
    for key, title in (("2", "Text"), ("4", "Headers"), ("7", "Session"), ("1", "HTML")):
        press(key)
        expect(page.locator(".tabs [aria-current]")).to_have_text(title)
    press("r")
    expect(page.locator("#toggle-read")).to_have_text("Mark read")
    press("#")
    expect(page.locator(".head h1")).to_have_text("mail 0")  # the next one
    press("Delete")
    expect(page.locator(".head h1")).to_have_text("mail 2")
    press("g")
    press("i")
    expect(rows(page)).to_have_count(1)


def test_a_page_that_is_about_to_be_left_is_not_read_again(site: Site, page: Page) -> None:
    ids = [site.put(letter(f"mail {number}")) for number in range(2)]
    opened(page, f"/view/{ids[1]}")
    # Otherwise a reading ends by itself after 30 seconds
    page.evaluate("AbortSignal.timeout = () => new AbortController().signal")
    readings: list[Route] = []
    page.route(f"**/view/{ids[1]}", lambda route: readings.append(route))  # they do not end
    with page.expect_response("**/api/v1/messages"):
        page.keyboard.press("r")
    while not readings:
        page.evaluate("0")
    held: list[Route] = []
    page.route("**/api/v1/messages", lambda route: held.append(route))
    with page.expect_event("requestfailed", lambda it: it.url.endswith(ids[1])):
        page.keyboard.press("#")
    while not held:  # the browser tells of the end of the reading first
        page.evaluate("0")
    page.unroute("**/api/v1/messages")
    held[0].continue_()
    expect(page.locator(".head h1")).to_have_text("mail 0")


def test_no_key_acts_while_a_person_types(site: Site, page: Page) -> None:
    site.put(letter("mail"))
    opened(page)
    page.keyboard.press("j")
    page.keyboard.press("/")
    page.keyboard.type("x#?rju1gi/")
    expect(page.locator("#search")).to_have_value("x#?rju1gi/")
    page.keyboard.press("Escape")  # leaves the field
    page.keyboard.press("j")
    expect(focused_row(page)).to_have_count(1)
    page.keyboard.press("Control+x")
    expect(page.locator("#chosen")).to_be_hidden()
    assert site.run(site.store.counts()) == (1, 1)


def test_what_is_read_elsewhere_is_read_here(site: Site, page: Page) -> None:
    mail_id = site.put(letter("mail"))
    opened(page)
    page.keyboard.press("j")
    site.run(site.store.mark(read=True, ids=[mail_id]))
    expect(page.locator(".row.unread")).to_have_count(0)
    expect(focused_row(page)).to_have_count(1)  # and the focus has stayed
    site.run(site.store.set_tags([mail_id], ["beta"]))
    expect(rows(page).locator(".tag")).to_have_text("beta")
    page.locator(".tags a").click()
    expect(page).to_have_url(re.compile(r"/search\?q=tag%3A%22beta%22$"))
    expect(rows(page)).to_have_count(1)


def test_a_change_while_the_page_is_read_again_is_not_lost(site: Site, page: Page) -> None:
    mail_id = site.put(letter("mail"))
    with page.expect_websocket() as socket:
        opened(page)
    page.route("**/", lambda route: held.append((route, route.fetch())), times=1)
    held: list[tuple[Route, APIResponse]] = []
    site.run(site.store.set_tags([mail_id], ["beta"]))
    while not held:  # the server has answered, and the page does not know it yet
        page.evaluate("0")
    with socket.value.expect_event("framereceived", lambda frame: '"Read":true' in frame):
        site.run(site.store.mark(read=True, ids=[mail_id]))
    route, response = held[0]
    route.fulfill(response=response)
    expect(page.locator(".row.unread")).to_have_count(0)


def test_opening_a_mail_marks_it_as_read_and_refreshing_does_not(site: Site, page: Page) -> None:
    mail_id = site.put(letter("mail"))
    opened(page, f"/view/{mail_id}")
    assert site.run(site.store.counts()) == (1, 0)
    site.run(site.store.mark(read=False))
    expect(page.locator("#toggle-read")).to_have_text("Mark read")
    assert site.run(site.store.counts()) == (1, 1)


def test_each_inbox_has_its_own_pages(site: Site, page: Page) -> None:
    site.put(letter("for sales"), inbox="sales & more")
    site.put(letter("for support"), inbox="support")
    opened(page)
    expect(rows(page)).to_have_count(2)
    page.locator(".inboxes").get_by_text("sales & more").click()
    expect(page).to_have_url(re.compile("/inbox/sales%20%26%20more/$"))
    expect(rows(page)).to_have_count(1)
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    site.put(letter("another"), inbox="support")
    site.put(letter("second"), inbox="sales & more")
    expect(rows(page)).to_have_count(2)
    expect_subjects(page, "second", "for sales")
    row(page, "second").locator(".open").click()
    expect(page).to_have_url(re.compile("/inbox/sales%20%26%20more/view/"))
    expect(page.locator(".head h1")).to_have_text("second")
    press_key(page, "n")
    expect(page.locator(".head h1")).to_have_text("for sales")
    expect(page.locator("#older")).to_have_attribute("aria-disabled", "true")
    press_key(page, "#")
    expect(page.locator(".head h1")).to_have_text("second")
    assert site.run(site.store.counts()).total == 3


def test_tags_are_renamed_and_deleted(site: Site, page: Page) -> None:
    site.put(letter("mail"), tags=["beta", "old"])
    opened(page)
    page.get_by_role("button", name="Edit tags").click()
    page.get_by_label("Name of the tag beta").fill("gamma")
    page.locator("[data-tag=beta]").get_by_role("button", name="Rename").click()
    page.locator("[data-tag=old]").get_by_role("button", name="Delete").click()
    expect(page.locator(".tags li")).to_have_count(1)
    expect(page.locator(".tags")).to_contain_text("gamma")
    assert site.run(site.store.tags()) == {"gamma": 1}


def test_what_the_server_cannot_do_is_shown(site: Site, page: Page, watch: Watch) -> None:
    """A tests' counter, a full disk, and an action that the server rejects."""
    watch.allowed = ("console: Failed to load resource: the server responded with a status of 400",)
    site.put(letter("mail"), tags=["beta", "web"])
    site.desk.traffic.waiting = 2
    site.desk.traffic.trouble = "No space left on device"
    try:
        opened(page)
        expect(page.locator("#alarm")).to_contain_text("No space left on device")
        expect(page.locator("#foot")).to_contain_text("2 waiting tests")
    finally:
        site.desk.traffic.waiting = 0
        site.desk.traffic.trouble = ""
    page.route(
        "**/api/v1/tags/*", lambda route: route.fulfill(status=400, body="tag already exists: web")
    )
    page.get_by_role("button", name="Edit tags").click()
    page.get_by_label("Name of the tag beta").fill("web")
    page.locator("[data-tag=beta]").get_by_role("button", name="Rename").click()
    expect(page.locator("#toast")).to_have_text("tag already exists: web")


def test_a_phone_opens_the_menu(site: Site, page: Page) -> None:
    site.put(letter("mail"), tags=["beta"])
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]  # a TypedDict
    opened(page)
    expect(page.locator("#side")).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    expect(page.locator("#side")).to_be_visible()
    page.locator(".tags a").click()
    expect(page.locator("#side")).to_be_hidden()
    expect(rows(page)).to_have_count(1)


def test_the_theme_follows_the_system_until_it_is_switched(site: Site, page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="dark")
    opened(page)
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    assert light != dark
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate(ground) == dark
    page.reload()
    assert page.evaluate(ground) == dark


def test_a_term_that_is_ignored_is_shown(site: Site, page: Page) -> None:
    """`before:yesterday` finds all mail, which otherwise looks like an answer."""
    site.put(letter("mail"))
    page.goto("/search?q=mail+before:yesterday")
    expect(page.locator(".notice")).to_contain_text("Ignored: before:yesterday")
    expect_subjects(page, "mail")
    page.goto("/search?q=mail+before:2036-11-01")
    expect(page.locator(".row")).to_have_count(1)
    expect(page.locator(".notice")).to_have_count(0)


def test_what_is_done_with_selected_mails_fits_on_a_small_phone(site: Site, page: Page) -> None:
    site.put_many([bytes(letter(f"mail {number}")) for number in range(12)])
    page.set_viewport_size({"width": 320, "height": 700})
    opened(page)
    page.locator("#pick-all").check()
    expect(page.locator("#chosen-count")).to_have_text("12 selected")
    assert page.evaluate("tools.scrollWidth - tools.clientWidth") <= 0
    boxes = [page.locator("#chosen-count").bounding_box()]
    boxes += [each.bounding_box() for each in page.locator("#chosen button").all()]
    for left, right in pairwise(boxes):
        assert left is not None
        assert right is not None
        assert left["x"] + left["width"] <= right["x"]
        assert right["x"] + right["width"] <= 320
    expect(page.locator("#pager")).to_be_hidden()
