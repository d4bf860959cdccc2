"""Fixtures: programs under test."""

from support.program import start as start
