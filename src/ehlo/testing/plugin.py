"""The pytest plugin: `ehlo_smtp`, `ehlo_memory` and `ehlo_inbox_factory`, and reports on failures.

It imports nothing of ehlo until a fixture is used, so that pytest starts as fast as without it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pluggy import Result

    from ehlo.testing.loopback import Commons
    from ehlo.testing.mailbox import Inbox

_INBOXES = pytest.StashKey[list["Inbox"]]()
_FAILED = pytest.StashKey[bool]()
_FORBIDDEN = re.compile(r"[^\w.-]+")  # in the name of a directory
_LONGEST_NAME = 100
_WHEN = ("failed", "always", "never")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the settings of the plugin."""
    parser.addini("ehlo_wait_timeout", "Seconds that wait_for waits by default.", default="5")
    parser.addini(
        "ehlo_attach",
        "When to show mails and transcripts in the report of a test (failed, always, never); and "
        "optionally a directory for the mails as .eml files.",
        type="args",
        default=["failed"],
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the settings. Raises `pytest.UsageError`."""
    _attach(config)
    _wait_timeout(config)


def _attach(config: pytest.Config) -> tuple[str, Path | None]:
    """Return when to report, and where to save mails. Raises `pytest.UsageError`."""
    when, *directory = config.getini("ehlo_attach") or ["failed"]
    if when not in _WHEN or len(directory) > 1:
        given = " ".join([when, *directory])
        raise pytest.UsageError(
            f"ehlo_attach is {given!r}; write failed, always or never, "
            "and optionally a directory for .eml files"
        )
    return when, config.rootpath / directory[0] if directory else None


def _wait_timeout(config: pytest.Config) -> float:
    given = config.getini("ehlo_wait_timeout")
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise pytest.UsageError(f"ehlo_wait_timeout is {given!r}; write a number of seconds")
    return seconds


@pytest.fixture(scope="session")
def _ehlo_commons() -> Iterator[Commons]:
    """The thread and the certificates of all inboxes."""
    from ehlo.testing.loopback import Commons

    with Commons() as commons:
        yield commons


@contextlib.contextmanager
def _opener(request: pytest.FixtureRequest, commons: Commons) -> Iterator[Callable[..., Inbox]]:
    """Yield what opens inboxes for a test; they are closed at the end."""
    from ehlo.testing.mailbox import Inbox

    timeout = _wait_timeout(request.config)
    all_of_them = request.node.stash.setdefault(_INBOXES, [])
    inboxes: list[Inbox] = []

    def opened(**options: Any) -> Inbox:
        options = {"wait_timeout": timeout, "commons": commons, **options}
        inbox = Inbox(**options).open()
        inboxes.append(inbox)
        all_of_them.append(inbox)
        return inbox

    try:
        yield opened
    finally:
        for inbox in reversed(inboxes):
            inbox.close()
    if not request.node.stash.get(_FAILED, False):
        for inbox in inboxes:
            inbox.warn_of_unused_faults()


@pytest.fixture
def ehlo_smtp(request: pytest.FixtureRequest, _ehlo_commons: Commons) -> Iterator[Inbox]:
    """Open an SMTP server on a free port of this machine: an `ehlo.testing.Inbox`."""
    with _opener(request, _ehlo_commons) as opened:
        yield opened()


@pytest.fixture
def ehlo_memory(request: pytest.FixtureRequest, _ehlo_commons: Commons) -> Iterator[Inbox]:
    """Open an SMTP server without a socket: an `ehlo.testing.Inbox`.

    smtplib and aiosmtplib of this process talk to it, whatever host and port they name.
    """
    with _opener(request, _ehlo_commons) as opened:
        yield opened(memory=True)


@pytest.fixture
def ehlo_inbox_factory(
    request: pytest.FixtureRequest, _ehlo_commons: Commons
) -> Iterator[Callable[..., Inbox]]:
    """Open further inboxes in a test: `ehlo_inbox_factory(memory=True, starttls=True)`.

    The keywords are those of `ehlo.testing.Inbox`. Each is closed when the test is over.
    """
    with _opener(request, _ehlo_commons) as opened:
        yield opened


@pytest.hookimpl(hookwrapper=True)  # the newer `wrapper` ends a pytest that has an old pluggy
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Result[pytest.TestReport], None]:
    """Add mails and transcripts to the report of a test that has failed."""
    outcome = yield
    inboxes = item.stash.get(_INBOXES, [])
    if not inboxes:
        return
    if call.when == "teardown":
        inboxes.clear()  # pytest keeps its items to the end
        return
    report = outcome.get_result()
    item.stash[_FAILED] = report.failed
    when, directory = _attach(item.config)
    if report.failed if when == "failed" else when == "always" and call.when == "call":
        for number, inbox in enumerate(inboxes, 1):
            report.sections.append((f"{inbox!r}", inbox.report()))
            if directory is not None and len(inbox):
                name = _FORBIDDEN.sub("_", item.nodeid)[-_LONGEST_NAME:]
                inbox.save(directory / name if number == 1 else directory / f"{name}-{number}")
