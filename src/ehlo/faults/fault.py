"""`Fault`: one rule by which a server fails, and the mail that it matches."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from ehlo.domains import to_ascii
from ehlo.faults.around import Action, MailPath, Stage
from ehlo.protocol.address import Address
from ehlo.protocol.reply import Disconnect, Reject, Reply

STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
_WITH_SENDER: Final = STAGES[STAGES.index("mail") :]
_WITH_RECIPIENT: Final = STAGES[STAGES.index("rcpt") :]

_QUOTED_PAIR: Final = re.compile(r"\\(.)")

Key = tuple[str, str]
"""The local part and the domain of an address, so that spellings of one address are equal."""


def _not_there() -> None:
    """Do nothing: the fault is in no `Faults`."""


@dataclass(eq=False, kw_only=True, repr=False)
class Fault:
    """A rule: at `stage`, send one of `replies`, wait for `delay` seconds, or drop the connection.

    `Faults` makes them. `str()` shows the call that made it, and how often it was used.

    Raises `ValueError` for a value that makes no sense, and names it.

    Example:

        >>> faults = ehlo.Faults()
        >>> fault = faults.fail("rcpt", "450 4.2.1 Greylisted", times=2, to="a@example.com")
        >>> print(fault)
        fail('rcpt', '450 4.2.1 Greylisted', times=2, to='a@example.com'), used 0 times
    """

    kind: Literal["fail", "delay", "drop", "script"]
    """The method of `Faults` that made it."""
    stage: Stage
    """Where it strikes."""
    replies: tuple[Action, ...] = ()
    """What it answers with, in turn; `None` lets the message pass to the handler."""
    delay: float = 0.0
    """Seconds that it waits for."""
    times: int | None = 1
    """How often it strikes; `None` is unlimited."""
    after: int = 0
    """How many matching commands pass before it strikes."""
    to: str | None = None
    """The recipient that it matches, or `@domain`; `None` matches any."""
    mail_from: str | None = None
    """The envelope sender that it matches, or `@domain`; `None` matches any."""
    probability: float = 1.0
    """The probability that it strikes, from 0 to 1."""
    used: int = 0
    """How often it has struck."""
    remove: Callable[[], None] = _not_there
    """Called to remove it from its `Faults`."""
    random: random.Random = field(default_factory=random.Random)
    """Where its random numbers come from."""
    came: int = 0
    """How many matching commands have come."""

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"at is {self.stage!r}; it must be one of {', '.join(STAGES)}")
        if self.times is not None and not is_count(self.times, 1):
            raise ValueError(f"times is {self.times!r}; it must be 1 or more, or None (unlimited)")
        if not is_count(self.after, 0):
            raise ValueError(f"after is {self.after!r}; it must be 0 or more")
        if not is_number(self.probability) or not 0 <= self.probability <= 1:
            raise ValueError(f"probability is {self.probability!r}; it must be from 0 to 1")
        self._check_path("to", self.to, _WITH_RECIPIENT)
        self._check_path("mail_from", self.mail_from, _WITH_SENDER)

    def _check_path(self, name: str, path: object, stages: tuple[Stage, ...]) -> None:
        if path is None:
            return
        if not isinstance(path, str):
            raise ValueError(f"{name} is {path!r}; it must be an address, or @domain")
        if self.stage not in stages:
            raise ValueError(
                f"{name} is not known at {self.stage}; leave it out, or use {', '.join(stages)}"
            )

    def __str__(self) -> str:
        """Return the call that made it, and how often it was used."""
        shown = [] if self.kind == "script" else [repr(self.stage)]
        if self.kind == "delay":
            shown.append(f"{self.delay:g}")
        elif self.kind != "drop":
            shown += [repr(text_of(reply)) for reply in self.replies]
        usual = {"times": len(self.replies) or 1, "after": 0, "probability": 1}
        for name in ("times", "after", "to", "mail_from", "probability"):
            value = getattr(self, name)
            if value != usual.get(name):
                shown.append(f"{name}={value!r}")
        often = "once" if self.used == 1 else f"{self.used} times"
        return f"{self.kind}({', '.join(shown)}), used {often}"

    def __repr__(self) -> str:
        return f"<Fault {self}>"

    def is_for(self, at: Stage, sender: Key | None) -> bool:
        """Return whether it matches a stage and an envelope sender."""
        return self.stage == at and _matches(self.mail_from, sender)

    def is_for_recipient(self, recipient: Key) -> bool:
        """Return whether it matches a recipient."""
        return _matches(self.to, recipient)

    def is_due(self) -> bool:
        """Count a matching command; return whether `after` others have passed."""
        self.came += 1
        return self.came > self.after

    def strike(self) -> bool:
        """Return whether it strikes now, and count it."""
        if self.times is not None and self.used >= self.times:
            return False
        if self.probability < 1.0 and self.random.random() >= self.probability:
            return False
        self.used += 1
        return True

    @property
    def action(self) -> Action:
        """The reply, or the `Disconnect`, of the last strike; `None` is none."""
        return self.replies[(self.used - 1) % len(self.replies)] if self.replies else None


# -- arguments -------------------------------------------------------------------------------------


def is_count(value: object, least: int) -> bool:
    """Return whether `value` is a whole number that is not under `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """Return whether `value` is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def reply_of(given: object) -> Reply:
    """Return the reply that a text such as `450 4.2.1 Later` means. Raises `ValueError`."""
    if isinstance(given, Reply):
        return given
    code, _, text = given.strip().partition(" ") if isinstance(given, str) else ("", "", "")
    if not (code.isascii() and code.isdecimal() and len(code) == 3):
        raise ValueError(f'reply is {given!r}; write a code and a text: "451 4.3.0 Try later"')
    try:
        return Reply(int(code), None, text) if code < "400" else Reject(int(code), text).reply
    except ValueError as error:
        raise ValueError(f"reply is {given!r}: {error}") from None


def text_of(action: Action) -> str:
    """Return an action as text; `None` is a 250."""
    return "drop" if isinstance(action, Disconnect) else str(action or "250")


def key_of(path: MailPath) -> Key:
    """Return local part and domain of an address."""
    if isinstance(path, Address):
        local, domain = path.local, path.domain
    else:
        local, at, domain = path.strip().removeprefix("<").removesuffix(">").rpartition("@")
        if not at:
            local, domain = domain, ""
        if len(local) > 1 and local[0] == local[-1] == '"':
            local = _QUOTED_PAIR.sub(r"\1", local[1:-1])
    with suppress(ValueError):  # what is no domain has one spelling
        domain = to_ascii(domain)
    return local.casefold(), domain.lower()


def _matches(wanted: str | None, key: Key | None) -> bool:
    """Return whether a rule for `wanted` is for an address; `None` is for any."""
    return wanted is None or (key is not None and names(wanted, key))


def names(wanted: str, key: Key) -> bool:
    """Return whether `wanted` is an address, in any spelling, or `@` and its domain."""
    local, domain = key_of(wanted)
    return domain == key[1] and local in (key[0], "" if domain else key[0])
