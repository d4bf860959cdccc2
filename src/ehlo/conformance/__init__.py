"""Conformance: a battery of cases for any SMTP server, as a client sees it.

Each case says what RFC demands it, what it sends, and which replies are right. `ehlo check` runs
them and prints a table.

Example::

    from ehlo.conformance import check

    for result in check(Peer("127.0.0.1", 2525)):
        print(result.outcome, result.case.title)
"""

from ehlo.conformance.battery import Result, check
from ehlo.conformance.catalog import CASES
from ehlo.conformance.probe import Patience
from ehlo.conformance.trial import Case

__all__ = ["CASES", "Case", "Patience", "Result", "check"]
