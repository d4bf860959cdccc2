"""Conformance: a battery of cases for any SMTP server, as a client sees it.

Each case names the RFC that requires it, what it sends, and which replies are right. `ehlo check`
runs them and prints a table.

Example:

    >>> import ehlo
    >>> from ehlo.conformance import CASES, check
    >>> with ehlo.Server(print, addr="127.0.0.1:0").in_thread() as server:
    ...     for result in check(server.addresses[0], cases=CASES[:1]):
    ...         print(result.outcome, result.case.section, result.case.title)
    passed RFC 5321 4.1.1.2 The null sender is accepted
"""

from ehlo.conformance.battery import Result, check
from ehlo.conformance.catalog import CASES
from ehlo.conformance.probe import Patience
from ehlo.conformance.trial import Case

__all__ = ["CASES", "Case", "Patience", "Result", "check"]
