"""Fixtures: a real server beside the test, and certificates for it; and SIGINT, which works."""

import signal

from support.serving import certificates as certificates
from support.serving import loop_name as loop_name
from support.serving import no_delay as no_delay
from support.serving import serve as serve


def pytest_configure() -> None:
    """Handle SIGINT again where it is ignored, as under `nohup`: programs under test inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
