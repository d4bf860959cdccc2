"""Fixtures: inboxes of both kinds, and a check that nothing is left of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ehlo.testing import Inbox
from ehlo.testing.loopback import Commons

DEADLINE = 30.0

Make = Callable[..., Inbox]


@pytest.fixture(scope="session")
def commons() -> Iterator[Commons]:
    """Make one thread and one certificate authority for all tests."""
    with Commons() as commons:
        yield commons


@pytest.fixture(params=["port", "memory"])
def inbox(request: pytest.FixtureRequest, commons: Commons) -> Iterator[Inbox]:
    """Open an inbox of each kind."""
    with Inbox(memory=request.param == "memory", commons=commons) as inbox:
        yield inbox


@pytest.fixture
def port(commons: Commons) -> Iterator[Inbox]:
    with Inbox(commons=commons) as inbox:
        yield inbox


@pytest.fixture
def memory(commons: Commons) -> Iterator[Inbox]:
    with Inbox(memory=True, commons=commons) as inbox:
        yield inbox
