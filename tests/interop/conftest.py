"""Fixtures: certificates, servers, clients, peers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import peers
from .clients import CLASSES, Client
from .post import Certificates, Office, Security, office

Serve = Callable[..., Office]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this directory as `interop`."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.interop)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.made_in(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def serve(certificates: Certificates) -> Iterator[Serve]:
    """Start a server that runs until the test ends: `serve(security, **options)`."""
    with contextlib.ExitStack() as stack:

        def start(security: Security = "plain", **options: Any) -> Office:
            return stack.enter_context(office(certificates, security, **options))

        yield start


@pytest.fixture
def peer() -> Callable[[str], str]:
    """Return the path of a program: `peer("swaks")`. Without it the test is skipped, or fails."""
    return peers.peer


@pytest.fixture(scope="session")
def clients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Client]:
    """Return all clients by name."""
    return {each.name: each(tmp_path_factory.mktemp(each.name)) for each in CLASSES}
