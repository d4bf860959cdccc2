"""`Trial`: a server under test, its connections in a given state; and `Case`, which tries it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from ehlo.conformance.probe import CLOSED, CaseFailedError, NotTriedError, Patience, Probe
from ehlo.net import Peer

Level = Literal["must", "should"]
Stage = Literal["connect", "greeting", "ehlo", "mail", "rcpt", "data"]
STAGES: Final[tuple[Stage, ...]] = ("connect", "greeting", "ehlo", "mail", "rcpt", "data")
"""How far a session is when a case begins."""

_CLIENT: Final = "client.example"
_DATA_FOLLOWS: Final = 354
_LAST: Final = "221 421 closed"  # what may follow a QUIT
_LOGIN_REQUIRED: Final = 530  # or TLS (RFC 4954 6, RFC 3207 4)


@dataclass(frozen=True)
class Trial:
    """A server under test, and the addresses that its mail has."""

    address: Peer
    patience: Patience
    sender: str
    recipient: str
    keywords: dict[str, str] = field(default_factory=dict)
    """What the server offers in its reply to EHLO."""

    def filled(self, text: str) -> str:
        """Return the text of a case with `{from}`, `{to}` and the domain of each."""
        places = {
            "{from}": self.sender,
            "{to}": self.recipient,
            "{from-domain}": self.sender.rpartition("@")[2] or "example.org",
            "{to-domain}": self.recipient.rpartition("@")[2] or "example.com",
        }
        for place, value in places.items():
            text = text.replace(place, value)
        return text

    @contextlib.contextmanager
    def session(self, stage: Stage) -> Iterator[Probe]:
        """Yield a connection in this state, and see that it has no reply too many at its end.

        Raises `NotTriedError` if the server does not let it come so far.
        """
        probe = self._connected()
        try:
            for step in STAGES[1 : STAGES.index(stage) + 1]:
                self._advance(probe, step)
            yield probe
            self._leave(probe)
        finally:
            probe.close()

    def _connected(self) -> Probe:
        try:
            return Probe(self.address, self.patience)
        except OSError as error:
            raise NotTriedError(f"cannot connect: {error.strerror or error}") from error

    def _advance(self, probe: Probe, stage: Stage) -> None:
        line, expected, advice = {
            "greeting": ("", "220", "try later"),
            "ehlo": (f"EHLO {_CLIENT}", "250", "enable EHLO"),
            "mail": (f"MAIL FROM:<{self.sender}>", "250", "give another --from"),
            "rcpt": (f"RCPT TO:<{self.recipient}>", "250 251", "give another --to"),
            "data": ("DATA", "354", "give another --to"),
        }[stage]
        if line:
            probe.send(f"{line}\r\n".encode())
        heard = probe.hear()
        if not heard.fits(expected):
            if heard.code == _LOGIN_REQUIRED:
                advice = "the check cannot log in"
            raise NotTriedError(f"{line or 'the greeting'}: {heard}; {advice}")

    def _leave(self, probe: Probe) -> None:
        """Send QUIT. Raises `CaseFailedError` if a reply to something else comes first."""
        if probe.last.code in (CLOSED, _DATA_FOLLOWS):
            return
        probe.send(b"QUIT\r\n")
        heard = probe.hear()
        if not heard.fits(_LAST):
            raise CaseFailedError(probe.sent, "221, and no reply before it", [heard])


@dataclass(frozen=True)
class Case:
    """One thing that a server must or should do.

    Example:

        >>> from ehlo.conformance import CASES
        >>> [case] = [case for case in CASES if case.name == "vrfy-is-supported"]
        >>> case.level, case.section, case.needs
        ('must', 'RFC 5321 4.5.1', ())
    """

    title: str
    """What a server does that passes."""
    level: Level
    section: str
    """The RFC, with its section."""
    group: str
    play: Callable[[Trial], None] = field(repr=False)
    """Tries a server. Raises `CaseFailedError` or `NotTriedError`."""
    needs: tuple[str, ...] = ()
    """Keywords that the server must offer in its reply to EHLO."""

    @property
    def name(self) -> str:
        """The title as one word, for `--json` and `--only`."""
        title = self.title.lower().replace(" .. ", " two dots ").replace(" . ", " dot ")
        words = "".join(each if each.isalnum() else " " for each in title).split()
        return "-".join(words)
