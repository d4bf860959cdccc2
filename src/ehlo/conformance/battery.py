"""The battery: runs cases one after another, each on connections of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ehlo.conformance.catalog import CASES
from ehlo.conformance.probe import CaseFailedError, NotOfferedError, NotTriedError, Patience
from ehlo.conformance.trial import Case, Trial
from ehlo.net import Peer

Outcome = Literal["passed", "failed", "not offered", "not tried"]


@dataclass(frozen=True)
class Result:
    """The outcome of one case.

    Example:

        >>> from ehlo.conformance import CASES, Result
        >>> result = Result(CASES[0], "failed", "NOOP", "250", "500 no")
        >>> result.case.level, result.expected, result.replied
        ('must', '250', '500 no')
    """

    case: Case
    outcome: Outcome
    sent: str = ""
    """What was sent before the wrong reply."""
    expected: str = ""
    """What would have been right: codes, of which one must fit."""
    replied: str = ""
    """What the server replied instead."""
    reason: str = ""
    """Why the case was not tried, or the keywords that are not offered."""


def check(
    server: Peer,
    *,
    sender: str = "sender@example.org",
    recipient: str = "recipient@example.com",
    patience: Patience | None = None,
    cases: Sequence[Case] = CASES,
) -> Iterator[Result]:
    """Try the cases on a server, and yield the result of each; the server gets mail.

    Raises `ConnectionError` with the reason if there is no server that greets and accepts EHLO.

    Example:

        >>> import ehlo
        >>> from ehlo.conformance import CASES, check
        >>> with ehlo.Server(print, addr="127.0.0.1:0").in_thread() as server:
        ...     results = list(check(server.addresses[0], cases=CASES[:5]))
        >>> {result.outcome for result in results}
        {'passed'}
    """
    trial = Trial(server, patience or Patience(), sender, recipient)
    try:
        with trial.session("ehlo") as probe:
            trial = replace(trial, keywords=probe.last.keywords)
    except NotTriedError as error:
        raise ConnectionError(str(error)) from error
    except CaseFailedError:
        pass  # what it does wrong when it is left, a case finds
    for case in cases:
        yield _result(case, trial)


def _result(case: Case, trial: Trial) -> Result:
    missing = [keyword for keyword in case.needs if keyword not in trial.keywords]
    if missing:
        return Result(case, "not offered", reason=" ".join(missing))
    try:
        case.play(trial)
    except CaseFailedError as error:
        return Result(case, "failed", error.sent, error.expected, error.replied)
    except NotOfferedError as error:
        return Result(case, "not offered", reason=str(error))
    except NotTriedError as error:
        return Result(case, "not tried", reason=str(error))
    return Result(case, "passed")
