"""Fixtures: programs under test, a private PostgreSQL, and a queue on each engine."""

from robustness.conftest import tell as tell
from support.postgres import database as database
from support.postgres import postgres_server as postgres_server
from support.program import start as start
from support.queueing import bench as bench
