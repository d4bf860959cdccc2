"""Fixtures: a real server beside the test, and certificates for it."""

from support.serving import certificates as certificates
from support.serving import loop_name as loop_name
from support.serving import no_delay as no_delay
from support.serving import serve as serve
