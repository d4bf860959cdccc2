"""A browser for tests: an inbox that really runs, Chromium, and a server that no mail may reach."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import shutil
import smtplib
import socket
import threading
from collections.abc import Awaitable, Iterable, Iterator
from email.message import EmailMessage
from typing import Any, Final, Self

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    Error,
    Page,
    Request,
    expect,
    sync_playwright,
)

from ehlo import Server
from ehlo.inbox import Catcher, WebOptions
from ehlo.store import Delivery
from support.examples import quick

DEADLINE: Final = 60.0
WIDE: Final = {"width": 1280, "height": 800}
PHONE: Final = {"width": 390, "height": 844}

# Chromium ends and starts a process with each page that it opens, which is 40 % of the CPU time of
# the browser's tests. CI, and pytest alone, run Chromium as its users do
_ONE_RENDERER: Final = ["--renderer-process-limit=1", "--disable-site-isolation-trials"]

expect.set_options(timeout=DEADLINE * 1_000)


class Site:
    """An inbox on free ports, in a thread: SMTP and the pages."""

    def __init__(self, options: WebOptions | None = None, *, keep: int = 500) -> None:
        self.options = options or WebOptions()
        self.keep = keep
        self.url = ""
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(DEADLINE), "the inbox did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the inbox did not stop"

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}{self.options.root}"
        catcher = Catcher(keep=self.keep, web=[listening], options=self.options)
        async with Server(catcher, addr="127.0.0.1:0", transcripts="masked") as server:
            assert catcher.desk is not None
            self.desk, self.store = catcher.desk, catcher.desk.store
            self.port = server.addresses[0].port
            self._ready.set()
            await self._end.wait()

    # -- from the test ---------------------------------------------------------------------------

    def run(self, work: Awaitable[Any]) -> Any:
        """Await `work` in the loop of the inbox, and return its result."""

        async def call() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(DEADLINE)

    def put(self, message: bytes | EmailMessage, **facts: Any) -> str:
        """Store a mail, and return its id."""
        facts = {"mail_from": "app@x.test", "rcpt_tos": ["ann@y.test"], "inbox": "default"} | facts
        return str(self.run(self.store.put(Delivery(bytes(message), **facts))))

    def put_many(self, messages: Iterable[bytes]) -> list[str]:
        """Store mails, the last one as the newest."""

        async def put() -> list[str]:
            return [
                mail_id
                for group in _groups(list(messages))
                for mail_id in await asyncio.gather(*map(self._put, group))
            ]

        return list(self.run(put()))

    async def _put(self, message: bytes) -> str:
        return await self.store.put(Delivery(message, "app@x.test", ["ann@y.test"], "default"))

    def send(self, message: EmailMessage) -> None:
        """Send a mail by SMTP, as an application does."""
        with smtplib.SMTP("127.0.0.1", self.port, timeout=DEADLINE) as client:
            client.send_message(message)

    def clear(self) -> None:
        """Delete all mail and all faults."""
        self.run(self.store.delete())
        self.desk.faults.clear()


def _groups(messages: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(messages), 500):
        yield messages[start : start + 500]


def letter(
    subject: str | None = "hello", text: str = "body", html: str = "", **headers: str
) -> EmailMessage:
    """Return a mail; `X_Name` is the field `X-Name`."""
    message = EmailMessage()
    named = {"From": "App <app@x.test>", "To": "ann@y.test", "Subject": subject, **headers}
    for name, value in named.items():
        if value is not None:
            message[name.replace("_", "-")] = value
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    return message


def opened(page: Page, path: str = "/") -> Page:
    """Open a page, and wait until its scripts listen and its connection stands."""
    page.goto(path)
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    return page


def ready(page: Page) -> Page:
    """Wait until a page has loaded whose text is seen already: its scripts listen from then on."""
    page.wait_for_load_state()
    return page


def press_key(page: Page, key: str) -> None:
    """Press a key that is heard."""
    ready(page).keyboard.press(key)


# -- the browser -----------------------------------------------------------------------------------


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start the Chromium of the system. Without it the test is skipped, or fails; see `peers`."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        if os.environ.get("EHLO_REQUIRE_PEERS") == "1":
            pytest.fail("chromium is not installed (and EHLO_REQUIRE_PEERS=1)")
        pytest.skip("chromium is not installed; .ci/run does that")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            # The sandbox of Chromium itself needs rights that root in a container does not have
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                *quick(_ONE_RENDERER, most=[]),
            ],
            timeout=DEADLINE * 1_000,
        )
        try:
            yield browser
        finally:
            browser.close()


class Watch:
    """Notes what no page may do: open a dialog, fail, run what it may not, or ask elsewhere."""

    def __init__(self, page: Page, url: str) -> None:
        self._urls = [url]
        self.faults: list[str] = []
        self.allowed: tuple[str, ...] = ()
        """The beginnings of what may happen in this test."""
        self._page = page
        page.on("dialog", self._dialog)
        page.on("pageerror", self._error)
        page.on("console", self._console)
        page.context.on("request", self._request)

    def end(self) -> None:
        """Note no more."""
        self._page.remove_listener("dialog", self._dialog)
        self._page.remove_listener("pageerror", self._error)
        self._page.remove_listener("console", self._console)
        self._page.context.remove_listener("request", self._request)

    def allow_site(self, url: str) -> None:
        """Allow requests to another site, too."""
        self._urls.append(url)

    def check(self) -> None:
        """Fail if something has gone wrong."""
        wrong = [each for each in self.faults if not each.startswith(self.allowed or ("-",))]
        assert not wrong, "\n".join(wrong)

    def _dialog(self, dialog: Dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _error(self, error: Error) -> None:
        self.faults.append(f"error: {error}")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((*self._urls, "about:", "blob:", "data:")):
            self.faults.append(f"request: {request.url}")


class Elsewhere:
    """A server that mail wants to reach, and must not: it notes each path it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Access-Control-Allow-Origin", "*")
                self.end_headers()

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(DEADLINE)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Return one browser for all tests in tests/browser: its start takes 1 s of CPU time."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def module_site() -> Iterator[Site]:
    """Return one inbox for all tests of a file."""
    with Site(WebOptions(label="staging")) as site:
        yield site


@pytest.fixture
def site(module_site: Site) -> Site:
    """Return an inbox without mail."""
    module_site.clear()
    return module_site


@contextlib.contextmanager
def page_of(browser: Browser, site: Site) -> Iterator[Page]:
    """Open a page in a context of its own: Chromium takes a second of CPU time for one."""
    context = browser.new_context(viewport=WIDE, base_url=site.url, reduced_motion="reduce")  # type: ignore[arg-type]  # a TypedDict
    context.set_default_timeout(DEADLINE * 1_000)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def module_page(browser: Browser, module_site: Site) -> Iterator[Page]:
    """Return one page for the tests of a file."""
    with page_of(browser, module_site) as page:
        yield page


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Browser, site: Site) -> Iterator[Page]:
    """Return an empty page, with nothing remembered of another test.

    It is a new one with `@pytest.mark.own_page`, for a test that changes what cannot be undone.
    """
    if request.node.get_closest_marker("own_page"):
        with page_of(browser, site) as own:
            yield own
        return
    page: Page = request.getfixturevalue("module_page")
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]  # a TypedDict
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.mouse.move(0, 0)
    yield page
    forget(page, site.url)


def forget(page: Page, url: str) -> None:
    """Empty a page, and remove what it and a site have left in its context."""
    context = page.context
    for other in context.pages:
        if other is not page:
            other.close()
    page.unroute_all(behavior="ignoreErrors")
    if page.url.startswith(url):
        page.evaluate("sessionStorage.clear()")
    page.goto("about:blank")
    devtools = context.new_cdp_session(page)
    devtools.send("Storage.clearDataForOrigin", {"origin": url, "storageTypes": "all"})
    devtools.detach()
    context.clear_cookies()
    context.clear_permissions()


@pytest.fixture
def watch(site: Site, page: Page) -> Iterator[Watch]:
    """Return what has gone wrong in the page; at the end of the test it must be nothing."""
    watching = Watch(page, site.url)
    yield watching
    watching.end()
    watching.check()
