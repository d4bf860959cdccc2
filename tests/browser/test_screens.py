"""Each screen in Chromium, wide and on a phone, light and dark; and below another path."""

from __future__ import annotations

import asyncio
import re
import smtplib
import socket
from importlib.metadata import version

import pytest
import uvicorn
from playwright.sync_api import Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from ehlo import Server
from ehlo.inbox import Catcher, WebOptions
from ehlo.transcript import Line
from support.browsing import DEADLINE, PHONE, WIDE, Site, Watch, letter, opened, ready
from support.examples import quick

pytestmark = pytest.mark.usefixtures("watch")

# Text that has less contrast than 4.5 to 1 (WCAG 2.2, 1.4.3), and how much it has
FAINT = """() => {
  const pen = document.createElement("canvas").getContext("2d", {willReadFrequently: true})
  const mixed = colors => {
    for (const color of ["white", ...colors]) { pen.fillStyle = color; pen.fillRect(0, 0, 1, 1) }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3)
  }
  const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
  const light = color => {
    const [red, green, blue] = color.map(v => linear(v / 255))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
  }
  const faint = new Set()
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim())
    if (!hasText || !element.checkVisibility()) continue
    if (element.closest("[aria-disabled=true], .spent, .toast")) continue
    const under = []
    for (let e = element; e; e = e.parentElement) under.unshift(getComputedStyle(e).backgroundColor)
    const ground = light(mixed(under))
    const ink = light(mixed([...under, getComputedStyle(element).color]))
    const contrast = (Math.max(ground, ink) + 0.05) / (Math.min(ground, ink) + 0.05)
    if (contrast < 4.5) faint.add(`${element.tagName}.${element.className} ${contrast}`)
  }
  return [...faint]
}"""

TABS = ("html", "text", "source", "headers", "raw", "parts", "session")


def filled(site: Site) -> str:
    """Put mail of all kinds, and return the id of the newest."""
    lines = [Line(1.0, "client", "MAIL FROM:<a@x.test>"), Line(1.5, "server", "250 2.1.0 Ok")]
    for number in range(12):
        site.put(letter(f"Report {number}"), tags=["billing", "beta"][: number % 3])
    site.run(site.store.put_session(lines, {"peer": "127.0.0.1:50001"}))
    site.desk.faults.fail(
        "rcpt", "450 4.2.1 Greylisted", to=f"ann.with.a.{'long' * 9}.name@example.com"
    )
    site.desk.faults.delay("data", 3)
    message = letter("Reset your password", "Use 482913\n", html="<p>Use <b>482913</b>")
    message.add_attachment(b"x", maintype="application", subtype="pdf", filename="a long name.pdf")
    return site.put(message, transcript=lines)


def paths(mail_id: str) -> list[str]:
    tabs = [f"/view/{mail_id}/{tab}" for tab in TABS]
    return ["/", "/search?q=report", "/search?q=nothing", *tabs, "/faults", "/sessions"]


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (PHONE, "dark")])
def test_no_screen_scrolls_sideways(
    site: Site, page: Page, size: dict[str, int], scheme: str
) -> None:
    """And none has an error in its console; `watch` sees to that."""
    mail_id = filled(site)
    page.set_viewport_size(size)  # type: ignore[arg-type]  # a TypedDict
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # a literal
    for path in paths(mail_id):
        page.goto(path)
        expect(page.locator("html")).to_have_attribute("data-ready", "")
        for element in ("document.documentElement", "document.querySelector('main')"):
            assert page.evaluate(f"{element}.scrollWidth - {element}.clientWidth") <= 0, path
        if quick(path == "/", most=True):
            assert page.screenshot()[:4] == b"\x89PNG"


@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_all_that_is_on_a_page_has_a_name(site: Site, page: Page, size: dict[str, int]) -> None:
    """Whatever can be pressed says what it does, to those who do not see it, too."""
    mail_id = filled(site)
    page.set_viewport_size(size)  # type: ignore[arg-type]  # a TypedDict
    nameless = """[...document.querySelectorAll("button, a[href], input, select, iframe")]
        .filter(e => !((e.checkVisibility() ? e.innerText : e.textContent).trim()
            || e.ariaLabel || e.title || e.labels?.length))
        .map(e => e.outerHTML)"""
    for path in paths(mail_id):
        page.goto(path)
        assert page.evaluate(nameless) == [], path


def test_a_long_address_of_a_rule_is_not_cut_off(site: Site, page: Page) -> None:
    filled(site)
    page.set_viewport_size({"width": 320, "height": 700})
    opened(page, "/faults")
    assert (
        page.evaluate(
            "e => e.scrollWidth - e.clientWidth", page.locator(".scroll").element_handle()
        )
        <= 0
    )


def test_a_message_opens_at_its_subject(site: Site, page: Page) -> None:
    """However far below it the tabs are; but a tab that was chosen is seen."""
    mail_id = site.put(letter("a subject that goes on " * 20))
    page.set_viewport_size({"width": 320, "height": 300})
    opened(page, f"/view/{mail_id}")
    expect(page.locator("html")).to_have_attribute("data-ready", "")
    assert page.evaluate("document.querySelector('main').scrollTop") == 0
    page.goto(f"/view/{mail_id}/text")
    expect(page.locator("html")).to_have_attribute("data-ready", "")
    expect(page.locator(".tabs [aria-current]")).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(site: Site, page: Page, scheme: str) -> None:
    mail_id = filled(site)
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # a literal
    opened(page)
    page.locator("#pick-all").check()
    assert page.evaluate(FAINT) == []
    for path in ("/search?q=nothing", f"/view/{mail_id}", f"/view/{mail_id}/session", "/faults"):
        page.goto(path)
        assert page.evaluate(FAINT) == [], path


def test_a_line_about_what_failed_is_as_wide_as_a_phone(
    site: Site, page: Page, watch: Watch
) -> None:
    watch.allowed = ("console: Failed to load resource: the server responded with a status of 400",)
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]  # a TypedDict
    opened(page, "/faults")
    page.get_by_label("When").select_option("connect")
    page.get_by_label("Only for the sender").fill("@x.test")
    page.get_by_role("button", name="Add the rule").click()
    expect(page.locator("#toast")).to_contain_text("not known at connect")
    shown = page.locator("#toast").bounding_box()
    assert shown is not None
    assert shown["width"] > PHONE["width"] / 2


def test_focus_can_be_seen(site: Site, page: Page) -> None:
    filled(site)
    opened(page)
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    for _ in range(12):
        page.keyboard.press("Tab")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) == "solid", page.evaluate("document.activeElement.outerHTML")


def test_faults_are_added_and_removed(site: Site, page: Page, watch: Watch) -> None:
    watch.allowed = ("console: Failed to load resource: the server responded with a status of 400",)
    opened(page, "/faults")
    expect(page.get_by_text("No rules")).to_be_visible()
    page.get_by_label("Reply", exact=True).fill("550 5.1.1 No such user")
    page.get_by_label("Only for the recipient").fill("gone@y.test")
    page.get_by_role("button", name="Add the rule").click()
    rule = page.locator(".faults tbody tr")
    expect(rule).to_contain_text("550 5.1.1 No such user")
    expect(rule).to_contain_text("gone@y.test")
    expect(page.locator(".side .warm")).to_have_text("1")
    page.get_by_label("What happens").select_option("delay")
    page.get_by_label("Seconds").fill("0.1")
    page.get_by_label("Times").fill("")
    page.get_by_label("Only for the recipient").fill("")
    page.get_by_role("button", name="Add the rule").click()
    expect(rule).to_have_count(2)
    assert [str(each) for each in site.desk.faults] == [
        "fail('rcpt', '550 5.1.1 No such user', to='gone@y.test'), used 0 times",
        "delay('rcpt', 0.1, times=None), used 0 times",
    ]
    page.get_by_label("Only for the sender").fill("@x.test")
    page.get_by_label("When").select_option("connect")
    page.get_by_role("button", name="Add the rule").click()
    expect(page.locator("#toast")).to_contain_text("not known at connect")
    expect(rule).to_have_count(2)
    page.get_by_role("button", name="Remove rule 1").click()
    expect(rule).to_have_count(1)
    page.get_by_role("button", name="Remove all").click()
    expect(page.get_by_text("No rules")).to_be_visible()
    assert len(site.desk.faults) == 0


def test_a_rule_that_is_spent_does_not_begin_again(site: Site, page: Page) -> None:
    site.desk.faults.fail("rcpt", times=2)
    site.desk.faults.fail("mail", times=1)
    site.desk.faults.strike("rcpt", to="a@x.test")
    site.desk.faults.strike("mail", mail_from="a@x.test")
    opened(page, "/faults")
    page.get_by_role("button", name="Add the rule").click()
    expect(page.locator(".faults tbody tr td:nth-child(4)")).to_have_text(["1", "1"])
    assert [each.stage for each in site.desk.faults] == ["rcpt", "rcpt"]


def test_waiting_tests_are_counted_while_they_wait(site: Site, page: Page) -> None:
    opened(page)
    with page.expect_response("**/search/wait*") as waited:
        page.evaluate("void fetch('/api/v1/search/wait?query=subject:late&timeout=60')")
        expect(page.locator(".waiting")).to_contain_text("1 waiting test")
        site.put(letter("late"))
    assert waited.value.status == 200
    expect(page.locator(".waiting")).to_have_count(0)


def walk(page: Page, site_path: str, subject: str) -> None:
    """Go through a site that stands below `site_path` by its links alone."""
    opened(page, f"{site_path}/")
    page.locator(".row .open").click()
    expect(page.locator(".head h1")).to_have_text(subject)
    expect(page.frame_locator("#mail").locator("b")).to_have_text("bold")
    for tab in ("Text", "Parts", "Session"):
        page.locator(".tabs").get_by_role("link", name=tab).click()
        expect(page.locator(".tabs [aria-current]")).to_have_text(tab)
    ready(page).keyboard.press("u")
    expect(page.locator(".row")).to_have_count(1)
    for way in ("keys", "link"):
        page.get_by_role("link", name="Faults").click()
        expect(page.get_by_text("No rules")).to_be_visible()
        if way == "keys":
            ready(page).keyboard.press("g")
            page.keyboard.press("i")
        else:
            page.get_by_role("link", name="ehlo: all mail").click()
        expect(page.locator(".row")).to_have_count(1)
    ready(page).get_by_role("checkbox", name="Select", exact=True).check()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("No mail yet")).to_be_visible()
    assert page.url.endswith(f"{site_path}/")


class Below(Site):
    """A site below a path of its own, in an application of a user."""

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        listening = socket.create_server(("127.0.0.1", 0))
        catcher = Catcher(options=self.options)
        app = Starlette(routes=[Mount("/intern/mail", app=catcher.asgi)])
        web = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        async with Server(catcher, addr="127.0.0.1:0") as server:
            assert catcher.desk is not None
            self.desk, self.store = catcher.desk, catcher.desk.store
            self.port = server.addresses[0].port
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            serving = asyncio.create_task(web.serve([listening]))
            self._ready.set()
            await self._end.wait()
            web.should_exit = web.force_exit = True
            await serving


@pytest.mark.parametrize("root", ["", "/mail"])
def test_a_site_stands_below_a_path(page: Page, watch: Watch, root: str) -> None:
    """As `--web-root /mail`, mounted in an application, and both."""
    kind = Site if root else Below
    below = root or "/intern/mail"
    with kind(WebOptions(root=root)) as site:
        watch.allow_site(site.url)
        host = site.url.removesuffix(root)
        site.put(letter("hello", html="<b>bold</b>"))
        walk(page, host + below, "hello")


def test_the_inbox_tells_about_itself(site: Site, page: Page) -> None:
    site.send(letter())
    opened(page)
    page.get_by_role("button", name="About").click()
    dialog = page.get_by_role("dialog")
    for text in (f"ehlo {version('ehlo')}", "Stored1 message, 1 unread", site.store.path):
        expect(dialog).to_contain_text(text)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


NOTIFICATIONS = """
window.Notification = class extends EventTarget {
  static get permission() { return sessionStorage.getItem("permission") ?? "default" }
  static async requestPermission() {
    sessionStorage.setItem("permission", "granted")
    return "granted"
  }
  constructor(title, options) {
    super()
    window.last = this
    document.documentElement.dataset.shown = `${title} from ${options.body}`
  }
}
document.hasFocus = () => window.isInFront ?? false
"""


@pytest.mark.own_page
def test_the_browser_notifies_of_new_mail_if_it_is_wanted(site: Site, page: Page) -> None:
    page.add_init_script(NOTIFICATIONS)

    def send(subject: str) -> None:
        """Send a mail, of which the page hears; a reading of the page may show it before."""
        with websocket.value.expect_event("framereceived", lambda frame: '"Type":"new"' in frame):
            site.send(letter(subject))

    with page.expect_websocket() as websocket:
        opened(page)
    notify = page.get_by_role("button", name="Notify")
    expect(notify).to_have_attribute("aria-pressed", "false")
    send("unwanted")
    expect(page.locator(".row")).to_have_count(1)
    expect(page.locator("html")).not_to_have_attribute("data-shown", re.compile("."))
    notify.click()
    expect(notify).to_have_attribute("aria-pressed", "true")
    with page.expect_websocket() as websocket:
        opened(page)  # the browser remembers it
    page.evaluate("window.isInFront = true")
    send("seen")
    expect(page.locator(".row")).to_have_count(2)
    expect(page.locator("html")).not_to_have_attribute("data-shown", re.compile("."))
    page.evaluate("window.isInFront = false")
    send("<b>new</b>")
    expect(page.locator("html")).to_have_attribute("data-shown", "<b>new</b> from App")
    with smtplib.SMTP("127.0.0.1", site.port, timeout=DEADLINE) as client:
        client.sendmail("bounce@x.test", ["ann@y.test"], "Subject: no From\r\n\r\ntext\r\n")
    expect(page.locator("html")).to_have_attribute("data-shown", "no From from bounce@x.test")
    expect(page.locator(".row.unread")).to_have_count(4)  # asking for it has marked none as read
    send("<b>new</b>")
    expect(page.locator("html")).to_have_attribute("data-shown", "<b>new</b> from App")
    page.evaluate("last.dispatchEvent(new Event('click'))")
    expect(page.locator("h1")).to_have_text("<b>new</b>")
    page.get_by_role("button", name="Notify").click()
    expect(page.get_by_role("button", name="Notify")).to_have_attribute("aria-pressed", "false")
