"""Fixtures: a real server, in a thread or in a process of its own, and certificates for it."""

import sys
from collections.abc import Callable

import pytest

from robustness.process import launch as launch
from robustness.scale import IN_FULL
from support.clock import clock as clock
from support.program import start as start
from support.serving import certificates as certificates
from support.serving import loop_name as loop_name
from support.serving import no_delay as no_delay
from support.serving import serve as serve


@pytest.fixture
def tell(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], None]:
    """Print a measurement, in the full form of the tests only."""

    def write(text: str) -> None:
        if IN_FULL:
            with capsys.disabled():
                sys.stdout.write(f"\n  {request.node.name}: {text}\n")

    return write
