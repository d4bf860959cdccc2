"""`Faults`: the rules by which a server fails on purpose, and the files that have them.

It decides without input and output: it is asked what happens now, and counts.
"""

from __future__ import annotations

import functools
import math
import random
import secrets
import threading
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final, Self, TypedDict, Unpack, overload

from ehlo.faults.around import Action, MailPath, Stage, Verdict, around
from ehlo.faults.fault import STAGES, Fault, is_count, is_number, key_of, reply_of, text_of
from ehlo.handler import Callbacks, Handler, callbacks_of_handler
from ehlo.protocol.address import Address
from ehlo.protocol.reply import Disconnect, Reply

_LATER: Final = "451 4.3.0 Try later"
_NOTHING: Final = Verdict()
_KINDS: Final = ("reply", "delay", "drop", "script")
_WHOM: Final = ("to", "mail_from")
_WHEN: Final = ("times", "after", *_WHOM, "probability")


class ForWhom(TypedDict, total=False):
    """The keywords that say which mail a fault matches."""

    to: str | None
    """A recipient, or `"@example.com"` for all of a domain; `None` is any. From `rcpt` on."""
    mail_from: str | None
    """The same for the envelope sender; `""` is the null sender. From `mail` on."""


class When(ForWhom, total=False):
    """The keywords that say when a fault strikes."""

    times: int | None
    """How often it strikes; `None` is unlimited."""
    after: int
    """How many matching commands pass before it strikes."""
    probability: float
    """The probability that it strikes, from 0 to 1."""


class Faults(Sequence[Fault]):
    """Rules by which a server fails on purpose; thread-safe.

    The rules are tried in the order in which they were added. Delays add up until a rule
    rejects or drops; the rules after it do not strike then. A rule that has struck `times` times
    stays in the sequence and lets everything pass.

    `seed` decides what rules with a `probability` do: each rule has random numbers of its own, so
    that the same rules and the same clients have the same faults. Without one, `seed` is random;
    it is an attribute.

    All methods that add a rule take:

    - `times`: how often it strikes; `None` is unlimited.
    - `after`: how many matching commands pass before it strikes. Those that other rules reject
      count, too.
    - `to`: a recipient, or `"@example.com"` for all of a domain; from `rcpt` on. Case and quotes
      make no difference. At `data` and `end` any recipient of the message counts.
    - `mail_from`: the same for the envelope sender; `""` is the null sender; from `mail` on.
    - `probability`: a number from 0 to 1.

    Raises `ValueError` for an argument that makes no sense, and names it.

    Example:

        >>> faults = ehlo.Faults()
        >>> greylisted = faults.fail("rcpt", "450 4.2.1 Greylisted", times=2)
        >>> lost = faults.drop("end", after=1)
        >>> class Accepting(ehlo.Handler):
        ...     async def on_message(self, session, message): ...
        >>> server = ehlo.Server(faults.around(Accepting()), addr="127.0.0.1:2525")
    """

    def __init__(self, *, seed: int | None = None) -> None:
        self.seed: int = secrets.randbits(32) if seed is None else seed
        """What the random numbers of the rules are made of."""
        self._lock = threading.Lock()
        self._faults: tuple[Fault, ...] = ()  # replaced, never changed: it is read without the lock
        self._numbers = count()

    @overload
    def __getitem__(self, index: int) -> Fault: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Fault, ...]: ...
    def __getitem__(self, index: int | slice) -> Fault | tuple[Fault, ...]:
        return self._faults[index]

    def __len__(self) -> int:
        return len(self._faults)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def __repr__(self) -> str:
        return f"<Faults seed={self.seed}: {', '.join(map(str, self))}>"

    # -- rules -----------------------------------------------------------------------------------

    def fail(self, at: Stage, reply: str | Reply = _LATER, **when: Unpack[When]) -> Fault:
        """Reject by `reply`, a 4xx or 5xx, instead of the handler; a 421 closes the connection."""
        _check_keywords("fail", when)
        answer = reply_of(reply)
        if not answer.refuses:
            raise ValueError(f"reply is {text_of(answer)!r}, which accepts; use a 4xx or 5xx reply")
        return self._add(Fault(kind="fail", stage=at, replies=(answer,), **when))

    def delay(self, at: Stage, seconds: float, **when: Unpack[When]) -> Fault:
        """Wait for `seconds` before anything else happens; other clients are not delayed.

        A client that leaves, and a server that shuts down, end the wait. It is bounded by the
        `handler_timeout` of the server. At `end`, a handler gets the message after the wait, but an
        `ehlo.testing.Inbox` has the mail at once.
        """
        _check_keywords("delay", when)
        if not is_number(seconds) or not 0 < seconds < math.inf:
            raise ValueError(f"seconds is {seconds!r}; it must be a number over 0")
        return self._add(Fault(kind="delay", stage=at, delay=float(seconds), **when))

    def drop(self, at: Stage, **when: Unpack[When]) -> Fault:
        """Close the connection without a reply."""
        _check_keywords("drop", when)
        return self._add(Fault(kind="drop", stage=at, replies=(Disconnect(),), **when))

    def script(
        self,
        *replies: str | Reply | Disconnect,
        **for_whom: Unpack[ForWhom],
    ) -> Fault:
        """Give each message the next of `replies`; after the last one, all messages pass.

        A positive reply, such as `"250"`, lets the message pass to the handler.
        """
        _check_keywords("script", for_whom)
        if not replies:
            raise ValueError('script has no replies; write script("450 4.2.1 Later", "250")')
        actions = tuple(map(_action_of, replies))
        times = len(actions)
        fault = Fault(kind="script", stage="end", replies=actions, times=times, **for_whom)
        return self._add(fault)

    def _add(self, fault: Fault) -> Fault:
        fault.remove = functools.partial(self._remove, fault)
        with self._lock:
            # Its own numbers, which no other rule moves on. They keep no secret
            fault.random = random.Random(f"{self.seed} {next(self._numbers)}")  # noqa: S311
            self._faults = (*self._faults, fault)
        return fault

    def _remove(self, fault: Fault) -> None:
        with self._lock:
            self._faults = tuple(each for each in self._faults if each is not fault)

    def clear(self) -> None:
        """Remove all rules."""
        with self._lock:
            self._faults = ()

    def replace(self, old: Iterable[Fault], new: Faults) -> None:
        """Replace the rules `old` by those of `new` and take over its seed, at once.

        The rules of `new` come last. They belong to these faults afterwards.
        """
        gone = {id(fault) for fault in old}
        with self._lock:
            for fault in new:
                fault.remove = functools.partial(self._remove, fault)
            kept = (fault for fault in self._faults if id(fault) not in gone)
            self._faults = (*kept, *new)
            self.seed = new.seed

    # -- what happens now ------------------------------------------------------------------------

    def strike(
        self,
        at: Stage,
        *,
        mail_from: MailPath | None = None,
        to: MailPath | Iterable[MailPath] | None = None,
        each: bool = False,
    ) -> Verdict:
        """Return what happens now, and count it.

        `mail_from` is the envelope sender. `to` is the recipient at `rcpt`, and all of them from
        `data` on. With `each`, as in LMTP, each recipient gets its own reply at the end: a rule
        with `to` rejects the message for that recipient only.
        """
        if not self._faults:
            return _NOTHING
        paths = [to] if isinstance(to, str | Address) else list(to or ())
        keys = {str(path): key_of(path) for path in paths}
        sender = None if mail_from is None else key_of(mail_from)
        delay, decided = 0.0, False
        action: Action = None
        refused: dict[str, Reply] = {}
        with self._lock:
            for fault in self._faults:
                hit = [path for path, key in keys.items() if fault.is_for_recipient(key)]
                if not fault.is_for(at, sender) or (fault.to is not None and not hit):
                    continue
                left = [path for path in hit if path not in refused]
                is_due = fault.is_due()  # which counts, whatever was decided
                if decided or not is_due or (hit and not left) or not fault.strike():
                    continue
                delay += fault.delay
                for_some = each and fault.to is not None and len(left) + len(refused) < len(keys)
                if for_some and isinstance(fault.action, Reply):
                    refused.update(dict.fromkeys(left, fault.action))
                elif fault.kind != "delay":
                    action, decided = fault.action, True
        return Verdict(delay, action, refused)

    # -- handlers --------------------------------------------------------------------------------

    def around(self, handler: Handler) -> Handler:
        """Return a handler that has the faults in front of the hooks of `handler`.

        What a fault rejects or drops does not reach `handler`. Its other hooks are the same.
        Faults at `auth` need `on_auth` or `on_secret`. A `def` hook at one of the stages is called
        in a thread of its own, outside of the server's pool.

        Raises `TypeError` if a hook of `handler` cannot be called with its arguments, or if
        `on_message` is missing.
        """
        callbacks = callbacks_of_handler(handler)
        if "on_message" not in callbacks:
            raise TypeError(f"{type(handler).__name__} has no on_message; define it to accept mail")
        return self.around_hooks(callbacks)

    def around_hooks(self, callbacks: Callbacks) -> Handler:
        """Return a handler that has the faults in front of hooks, which may be functions."""
        return around(self.strike, lambda: not self._faults, callbacks)

    # -- files -----------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the faults in a TOML file, which has a `[[fault]]` for each.

        Each has `at` with `reply`, `delay` or `drop = true`, or it has `script`; and `times`
        (0 = unlimited), `after`, `to`, `mail_from`, `probability`. `seed` stands above them.

        Raises `OSError` if the file cannot be read, and `ValueError` that names the line or the
        fault.

        Example of a file:

            seed = 7

            [[fault]]
            at = "rcpt"
            reply = "450 4.2.1 Greylisted"
            times = 2

            [[fault]]
            at = "end"
            drop = true
            probability = 0.1

            [[fault]]
            script = ["451 4.3.0 Try later", "250"]
        """
        try:
            content = tomllib.loads(Path(path).read_bytes().decode())
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 at byte {error.start}; save the file as UTF-8") from None
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"not TOML: {error}") from None
        seed, tables = content.pop("seed", None), content.pop("fault", [])
        if seed is not None and not is_count(seed, 0):
            raise ValueError(f"seed is {seed!r}; it must be a whole number of 0 or more")
        if content:
            raise ValueError(f"{next(iter(content))} is unknown; the file has seed and [[fault]]")
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise ValueError("fault is not a list of tables; write [[fault]] above each")
        return cls.of_tables(tables, seed=seed)

    @classmethod
    def of_tables(cls, tables: Iterable[Mapping[str, object]], *, seed: int | None = None) -> Self:
        """Return the faults in tables such as those of a file; see `load`.

        Raises `ValueError` that names the fault by its number.
        """
        faults = cls(seed=seed)
        for number, table in enumerate(tables, 1):
            try:
                faults._add_table(dict(table))
            except ValueError as error:
                raise ValueError(f"fault {number}: {error}") from None
        return faults

    def _add_table(self, table: dict[str, Any]) -> Fault:
        """Add the fault of one `[[fault]]` of a file."""
        kinds = [kind for kind in _KINDS if kind in table]
        if len(kinds) != 1:
            wrong = f"{' and '.join(kinds)} cannot be combined" if kinds else "it does nothing"
            raise ValueError(f"{wrong}; write one of {', '.join(_KINDS)}")
        (kind,), rest = kinds, dict(table)
        what = rest.pop(kind)
        known = _WHOM if kind == "script" else ("at", *_WHEN)
        for name in rest:
            if name not in known:
                raise ValueError(f"{name} is unknown with {kind}; write {', '.join(known)}")
        if kind == "script":
            if not isinstance(what, list):
                raise ValueError(f'script is {what!r}; write a list: ["450 4.2.1 Later", "250"]')
            return self.script(*what, **rest)
        if "at" not in rest:
            raise ValueError(f"at is missing; write one of {', '.join(STAGES)}")
        at = rest.pop("at")
        if rest.get("times") == 0:
            rest["times"] = None
        if kind == "reply":
            return self.fail(at, what, **rest)
        if kind == "delay":
            return self.delay(at, what, **rest)
        if what is not True:
            raise ValueError(f"drop is {what!r}; write drop = true, or leave it out")
        return self.drop(at, **rest)


def _check_keywords(method: str, given: Mapping[str, object]) -> None:
    """Raise `TypeError` for a keyword that `method` has not."""
    known = _WHOM if method == "script" else _WHEN
    for name in given:
        if name not in known:
            raise TypeError(f"{method}() has no keyword {name}; write {', '.join(known)}")


def _action_of(given: str | Reply | Disconnect) -> Action:
    """Return what an entry of a script does; a positive reply lets the message pass."""
    if isinstance(given, Disconnect):
        return given
    reply = reply_of(given)
    return reply if reply.refuses else None
