"""Faults: a server that fails on purpose, by rules, so that a client can be tested."""

from ehlo.faults.around import Stage, Verdict
from ehlo.faults.fault import Fault
from ehlo.faults.plan import Faults

__all__ = ["Fault", "Faults", "Stage", "Verdict"]
