"""Fixtures: a real server next to the test, and certificates for it."""

from support.clock import clock as clock
from support.serving import certificates as certificates
from support.serving import delays as delays
from support.serving import full_disk as full_disk
from support.serving import loop_name as loop_name
from support.serving import no_delay as no_delay
from support.serving import serve as serve
