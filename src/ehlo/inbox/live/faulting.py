"""Faults by the API: `faults`, the rules by which the SMTP server fails, and Mailpit's `chaos`.

There is one set of rules. A trigger of `chaos` is a rule that fails without end, with a probability
and with Mailpit's text; `faults` shows it, and `PUT faults` replaces it with all the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NotRequired, TypedDict

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.faults import Fault, Faults, Stage
from ehlo.inbox.answers import (
    RefusedError,
    done,
    elsewhere,
    json_answer,
    read_body,
    read_json,
    resource,
)
from ehlo.inbox.desk import Desk
from ehlo.protocol.reply import Disconnect, Reply

MOST_RULES: Final = 100
MOST_REPLIES: Final = 100
_LONGEST: Final = 1_000  # characters of a text
_LONGEST_DELAY: Final = 86_400.0  # seconds
_DROP: Final = "drop"


class Rule(TypedDict):
    """A rule by which the server fails: it has one of Reply, Delay, Drop and Script."""

    At: NotRequired[str]
    """`connect`, `helo`, `starttls`, `auth`, `mail`, `rcpt`, `data` or `end`; none with Script."""
    Reply: NotRequired[str]
    """The rejection to send, such as `450 4.2.1 Greylisted`."""
    Delay: NotRequired[float]
    """Seconds to wait."""
    Drop: NotRequired[bool]
    """Close the connection without a reply."""
    Script: NotRequired[list[str]]
    """Replies for one message after the other; 250 lets it pass, `drop` closes the connection."""
    Times: NotRequired[int]
    """How often it strikes; 0 is without end, and 1 the default."""
    After: NotRequired[int]
    """How many matching commands pass before it strikes."""
    To: NotRequired[str]
    """The recipient that it is for, or `@domain`."""
    MailFrom: NotRequired[str]
    """The envelope sender that it is for, or `@domain`."""
    Probability: NotRequired[float]
    """How probable it is that it strikes, from 0 to 1."""
    Used: NotRequired[int]
    """How often it has struck; ignored in requests."""


class RuleSet(TypedDict):
    """All rules, in the order in which they are looked at."""

    Seed: NotRequired[int]
    """What decides about rules with a probability."""
    Faults: list[Rule]


class ChaosTrigger(TypedDict):
    """A trigger of Mailpit's chaos."""

    ErrorCode: int
    """The code to reject with, from 400 to 599."""
    Probability: int
    """How probable it is, in percent."""


class ChaosTriggers(TypedDict):
    """The triggers of Mailpit's chaos; one that is left out is reset."""

    Sender: ChaosTrigger
    Recipient: ChaosTrigger
    Authentication: ChaosTrigger


_CHAOS: Final[Mapping[str, tuple[Stage, int]]] = MappingProxyType(
    {"Sender": ("mail", 451), "Recipient": ("rcpt", 451), "Authentication": ("auth", 535)}
)
_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        name.lower(): ("mail_from" if name == "MailFrom" else name.lower())
        for name in Rule.__annotations__
    }
    | {"mail_from": "mail_from"}
)


class Faulting:
    """The endpoints of faults."""

    def __init__(self, desk: Desk) -> None:
        self._faults = desk.faults

    async def get(self, _request: Request) -> Response:
        """Return all rules."""
        return json_answer(self._rules())

    async def put(self, request: Request) -> Response:
        """Replace all rules, or none of them if one is wrong."""
        body = await read_body(request)
        seed, tables = await elsewhere(len(body), lambda: _read(body))
        try:
            made = Faults.of_tables(tables, seed=seed)
        except ValueError as error:
            raise RefusedError(str(error)) from None
        self._faults.replace(list(self._faults), made)
        return json_answer(self._rules())

    async def delete(self, _request: Request) -> Response:
        """Remove all rules."""
        self._faults.clear()
        return done()

    async def chaos(self, _request: Request) -> Response:
        """Return the triggers of chaos."""
        return json_answer(self._triggers())

    async def set_chaos(self, request: Request) -> Response:
        """Replace the triggers of chaos."""
        wanted = await read_json(request, ChaosTriggers)
        made = Faults(seed=self._faults.seed)
        triggers: Mapping[str, Any] = wanted
        for name, (stage, _) in _CHAOS.items():
            code, percent = triggers[name]["ErrorCode"], triggers[name]["Probability"]
            if not code and not percent:
                continue
            if not 400 <= code <= 599:
                raise RefusedError("error code must be between 400 and 599")
            if not 0 <= percent <= 100:
                raise RefusedError("probability must be between 0 and 100")
            reply = f"{code} {_chaos_text(name)}"
            made.fail(stage, reply, times=None, probability=percent / 100)
        self._faults.replace([each for each in self._faults if _trigger_of(each)], made)
        return json_answer(self._triggers())

    def _rules(self) -> RuleSet:
        return {"Seed": self._faults.seed, "Faults": [_shape_of(each) for each in self._faults]}

    def _triggers(self) -> dict[str, ChaosTrigger]:
        found: dict[str, ChaosTrigger] = {
            name: {"ErrorCode": code, "Probability": 0} for name, (_, code) in _CHAOS.items()
        }
        for fault in self._faults:
            name = _trigger_of(fault)
            if name:
                code = int(str(fault.replies[0])[:3])
                found[name] = {"ErrorCode": code, "Probability": round(fault.probability * 100)}
        return found


def _chaos_text(name: str) -> str:
    return f"Chaos {name.lower()} error"


def _trigger_of(fault: Fault) -> str:
    """Return the name of the trigger that a rule is; empty if it is none."""
    whole = (fault.kind, fault.times, fault.after, fault.to, fault.mail_from)
    reply = fault.replies[0] if fault.replies else None
    if whole == ("fail", None, 0, None, None) and isinstance(reply, Reply):
        for name, (stage, _) in _CHAOS.items():
            if fault.stage == stage and str(reply).endswith(f" {_chaos_text(name)}"):
                return name
    return ""


# -- rules as JSON ---------------------------------------------------------------------------------


def _shape_of(fault: Fault) -> Rule:
    shape: Rule = {}
    if fault.kind == "script":
        shape["Script"] = [
            _DROP if isinstance(each, Disconnect) else str(each or "250") for each in fault.replies
        ]
    else:
        shape["At"] = fault.stage
        shape["Times"] = fault.times or 0
        shape["After"] = fault.after
        shape["Probability"] = fault.probability
    if fault.kind == "fail":
        shape["Reply"] = str(fault.replies[0])
    elif fault.kind == "delay":
        shape["Delay"] = fault.delay
    elif fault.kind == "drop":
        shape["Drop"] = True
    if fault.to is not None:
        shape["To"] = fault.to
    if fault.mail_from is not None:
        shape["MailFrom"] = fault.mail_from
    shape["Used"] = fault.used
    return shape


def _read(body: bytes) -> tuple[int | None, list[dict[str, object]]]:
    """Return the seed and the rules in a request, as a file of faults has them."""
    try:
        value = json.loads(body)
    except RecursionError:
        raise RefusedError("the rules are nested too deeply") from None
    except ValueError as error:
        raise RefusedError(f"not JSON: {error}") from None
    given = _lowered(value, "the rules")
    seed, rules = given.pop("seed", None), given.pop("faults", None)
    if given:
        raise RefusedError(f"{_short(next(iter(given)))} is unknown; write Seed and Faults")
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 1 << 64):
        raise RefusedError("Seed must be a whole number of 0 or more, below 2^64")
    if not isinstance(rules, list) or len(rules) > MOST_RULES:
        raise RefusedError(f"Faults must be a list of at most {MOST_RULES} rules")
    return seed, [_table_of(number, rule) for number, rule in enumerate(rules, 1)]


def _table_of(number: int, rule: object) -> dict[str, object]:
    table: dict[str, object] = {}
    for name, value in _lowered(rule, f"fault {number}").items():
        known = _NAMES.get(name)
        if known is None:
            names = ", ".join(Rule.__annotations__)
            raise RefusedError(f"fault {number}: {_short(name)} is unknown; write {names}")
        texts = value if isinstance(value, list) else [value]
        if len(texts) > MOST_REPLIES or any(
            isinstance(text, list | dict) or len(str(text)) > _LONGEST for text in texts
        ):
            raise RefusedError(f"fault {number}: {known} is too long")
        if known == "delay" and isinstance(value, int | float) and not value <= _LONGEST_DELAY:
            raise RefusedError(f"fault {number}: Delay must be at most {_LONGEST_DELAY:.0f}")
        if known == "script" and isinstance(value, list):
            value = [Disconnect() if each == _DROP else each for each in value]
        if value is not None and known != "used" and not (known == "drop" and value is False):
            table[known] = value
    return table


def _lowered(value: object, what: str) -> dict[str, object]:
    """Return a JSON object with its keys in lower case, as Mailpit's clients may write them."""
    if not isinstance(value, dict):
        raise RefusedError(f"{what}: not a JSON object")
    return {str(name).lower(): each for name, each in value.items()}


def _short(name: str) -> str:
    return repr(name[:50])


def routes(desk: Desk) -> list[BaseRoute]:
    """Return the routes of faults."""
    faulting = Faulting(desk)
    return [
        resource("/api/v1/faults", GET=faulting.get, PUT=faulting.put, DELETE=faulting.delete),
        resource("/api/v1/chaos", GET=faulting.chaos, PUT=faulting.set_chaos),
    ]
