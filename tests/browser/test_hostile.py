"""Hostile mail in Chromium: no script runs, nothing is asked elsewhere, no dialog opens.

Each file in `hostile` is the HTML of a mail. It is opened in the frame of its page, and alone by
the address of the frame; in `make test` in one of both ways, in turn. OWN is what a script does if
it runs, and ELSE is a server that must not be asked for anything. What has the id `click` is
clicked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Frame, Page, expect

from ehlo.transcript import Line
from support.browsing import DEADLINE, WIDE, Elsewhere, Site, letter
from support.examples import each_with

FILES = sorted((Path(__file__).parent / "hostile").glob("*.html"))
OWN = (
    "document.title='owned';parent.postMessage({messageHeight:1e9},'*');alert(1);"
    "fetch('ELSE/script')"
)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    with Elsewhere() as server:
        yield server


@pytest.fixture(scope="module")
def visitor(browser: Browser, module_site: Site) -> Iterator[Page]:
    """Return one page for all mails."""
    context = browser.new_context(viewport=WIDE, base_url=module_site.url)  # type: ignore[arg-type]  # a TypedDict
    context.set_default_timeout(DEADLINE * 1_000)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def witness(visitor: Page, elsewhere: Elsewhere) -> Page:
    """Return a second page of the same browser, which may ask elsewhere."""
    page = visitor.context.new_page()
    page.goto(f"{elsewhere.url}/witness")
    return page


def settle(page: Page, witness: Page) -> None:
    """Return once all is loaded, and what was planned for now is done.

    Where no script runs no timer does, so another page waits instead: for its turn to draw, and for
    an answer from elsewhere.
    """
    page.wait_for_load_state("load")
    witness.evaluate(
        "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
        ".then(() => fetch('/witness'))"
    )


def asked(elsewhere: Elsewhere) -> list[str]:
    return [path for path in elsewhere.asked if path not in ("/witness", "/favicon.ico")]


def click(frame: Frame) -> None:
    """Click what is there to be clicked, as a person may."""
    for target in frame.locator("#click").all():
        target.click(force=True)


@pytest.mark.parametrize(
    ("file", "tail"),
    each_with([(file,) for file in FILES], ["", ".html"]),
    ids=lambda each: getattr(each, "stem", each) or "framed",
)
def test_hostile_mail_does_nothing(
    file: Path, tail: str, module_site: Site, visitor: Page, witness: Page, elsewhere: Elsewhere
) -> None:
    html = file.read_text().replace("OWN", OWN).replace("ELSE", elsewhere.url)
    mail_id = module_site.put(letter(file.stem, html=f"<html><body>{html}<p id=end>end"))
    dialogs: list[str] = []

    def note(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    visitor.on("dialog", note)
    del elsewhere.asked[:]
    try:
        path = f"/view/{mail_id}{tail}"
        visitor.goto(path)
        settle(visitor, witness)
        (frame,) = (each for each in visitor.frames if f"/view/{mail_id}.html" in each.url)
        address = frame.url
        click(frame)
        settle(visitor, witness)
        assert frame.evaluate("origin") == "null"  # it could do nothing to this site, either
        assert frame.evaluate("document.title") != "owned"
        assert frame.url == address
        assert visitor.url == module_site.url + path
        assert visitor.context.pages == [visitor, witness]
        assert asked(elsewhere) == []
        assert dialogs == []
    finally:
        visitor.remove_listener("dialog", note)


def test_the_vectors_would_work_without_the_policy(
    module_site: Site, visitor: Page, elsewhere: Elsewhere
) -> None:
    """Show that the tests above can fail: here is the same script, in a page without a policy."""
    visitor.goto(f"{elsewhere.url}/witness")
    del elsewhere.asked[:]
    own = OWN.replace("ELSE", elsewhere.url).replace("alert(1);", "")
    with visitor.expect_response(f"{elsewhere.url}/script"):
        visitor.set_content(f"<script>{own}</script>")
    assert visitor.title() == "owned"
    assert asked(elsewhere) == ["/script"]


def test_a_height_that_is_posted_is_within_bounds(site: Site, page: Page) -> None:
    tall = "<div style='height:3000px'>tall</div>"
    page.goto(f"/view/{site.put(letter('tall', html=tall))}")
    frame = page.locator("#mail")
    expect(frame).to_have_attribute("style", re.compile("height: 3[0-9]{3}px"))
    # From another window than the frame, and from the frame itself, if it could run scripts
    page.evaluate("postMessage({messageHeight: 5000}, '*')")
    page.frames[1].evaluate("parent.postMessage({messageHeight: NaN}, '*')")
    page.frames[1].evaluate("parent.postMessage({messageHeight: '1px;color:red'}, '*')")
    page.frames[1].evaluate("parent.postMessage({messageHeight: 1e9}, '*')")
    expect(frame).to_have_attribute("style", "height: 20000px;")


MARKUP = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


def test_markup_in_all_that_a_mail_names_is_text(site: Site, page: Page) -> None:
    """Subject, names, addresses, tags, file names, header names and the session."""
    message = letter(MARKUP, f"text {MARKUP}", From=f'"{MARKUP}" <a@x.test>')
    message.add_attachment(b"x", maintype="text", subtype="html", filename=f"{MARKUP}.html")
    raw = bytes(message).replace(b"MIME-Version", b"X<script>alert(1)</script>: 1\nMIME-Version", 1)
    mail_id = site.put(
        raw,
        mail_from=MARKUP,
        rcpt_tos=[MARKUP],
        username=MARKUP,
        inbox=MARKUP.replace("/", ""),
        tags=[MARKUP],
        facts={MARKUP: MARKUP},
        transcript=[Line(1.0, "client", MARKUP)],
    )
    site.put(letter("other"), inbox="other")
    site.run(site.store.put_session([Line(1.0, "client", MARKUP)], {"peer": MARKUP}))
    site.desk.traffic.trouble = MARKUP
    try:
        tabs = ("text", "headers", "raw", "parts", "session")
        for path in ("/", "/sessions", *(f"/view/{mail_id}/{tab}" for tab in tabs)):
            page.goto(path)
            expect(page.locator("html")).to_have_attribute("data-ready", "")
            assert page.locator("img[src=x], main script").count() == 0, path
            assert MARKUP in str(page.locator("body").text_content()), path
        page.goto("/search?q=" + "%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
        assert page.locator("img[src=x]").count() == 0
    finally:
        site.desk.traffic.trouble = ""
