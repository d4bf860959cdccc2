"""Fixtures: a real server next to the test, with certificates; both ways of a packet; SIGINT."""

import compileall
import gc
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support.examples import one_in_turn
from support.modules import modules_forgotten as modules_forgotten
from support.modules import modules_kept as modules_kept
from support.serving import LOOPS
from support.serving import certificates as certificates
from support.serving import loop_name as loop_name
from support.serving import no_delay as no_delay
from support.serving import serve as serve
from support.ways import way as way

pytest_plugins = ["ehlo.testing.plugin"]  # as its entry point does for users

# The same examples in each run, and no time for one: a busy machine, or chance, fails no test
settings.register_profile(
    "ehlo", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ehlo")

CHECKOUT = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Prepare what the programs under test inherit."""
    # It is ignored under `nohup`, for one
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Otherwise a line of one process may be written amid a line of another
    os.environ.pop("PYTHONUNBUFFERED", None)
    # The code of ehlo is compiled once. That of a test is not: it may change within a second, and
    # keep its size, so that Python would run the file of before
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = False
    if not hasattr(config, "workerinput"):  # of pytest-xdist
        for directory in (CHECKOUT / "src", CHECKOUT / "tests/support"):
            compileall.compile_dir(directory, quiet=2)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test with one event loop in `make test`."""
    one_in_turn(metafunc, "loop_name", LOOPS)


def pytest_collection_finish() -> None:
    """Compile without a trace what tests write; the tests themselves are imported."""
    sys.dont_write_bytecode = True
    # The collector of garbage need not look at the tests themselves again and again
    gc.collect()
    gc.freeze()
