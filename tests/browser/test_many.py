"""A list of 10,000 mails in Chromium: pages of it, by addresses and by keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from support.browsing import Site, opened, ready

pytestmark = pytest.mark.usefixtures("watch")


@pytest.fixture(scope="module")
def module_site() -> Iterator[Site]:
    with Site(keep=10_000) as site:
        yield site


def test_ten_thousand_mails_are_pages_of_fifty(site: Site, page: Page) -> None:
    site.put_many(b"Subject: number %d\n\nhi" % number for number in range(10_000))
    opened(page)
    expect(page.locator("#rows > .row")).to_have_count(50)
    expect(page.locator(".range")).to_have_text("1–50 of 10,000")
    page.keyboard.press("n")
    expect(page.locator(".range")).to_have_text("51–100 of 10,000")
    expect(page.locator(".subject").first).to_have_text("number 9949")
    ready(page).locator("#page-size").select_option("25")
    expect(page.locator(".range")).to_have_text("1–25 of 10,000")
    page.goto("/?start=9990")
    expect(page.locator("#rows > .row")).to_have_count(10)
    expect(page.locator("#older")).to_have_attribute("aria-disabled", "true")
    page.goto("/?start=20000")  # past the end: the last page
    expect(page.locator(".range")).to_have_text("9,976–10,000 of 10,000")
