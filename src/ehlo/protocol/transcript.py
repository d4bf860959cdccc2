"""What an observer is told of a connection's lines. Credentials are masked, bodies are left out."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Final

from ehlo.protocol.mechanisms import MECHANISMS

__all__ = ["Observer", "Transcript"]

Observer = Callable[[str, str, str], None]
"""Told of each line: `("read" or "write", verb, line)`."""

_MASK: Final = "****"
_SHOWN: Final = 512  # octets of a line that is no command


class Transcript:
    """Tells one observer. After AUTH, whatever is no command may be a secret of a hasty client."""

    __slots__ = ("_answered", "_masking", "_mechanisms", "_observer", "verb")

    def __init__(self, observer: Observer, mechanisms: Container[str] = ()) -> None:
        self._observer = observer
        self._mechanisms = mechanisms  # names that may be shown, beside those that all know
        self._answered = False  # whether the client has said anything in a login
        self._masking = False
        self.verb = ""  # of the command under way

    def command(self, verb: str, argument: str, *, known: bool) -> None:
        """A line was read that has the form of a command."""
        if verb == "AUTH":
            self._masking = True
            mechanism, space, _secret = argument.strip().partition(" ")
            shown = mechanism if not mechanism or self._knows(mechanism.upper()) else _MASK
            argument = f"{shown} {_MASK}" if space else shown
            self._answered = bool(space)
        elif known:
            self._masking = False
        elif (self._masking and verb != "*") or f"{verb} {argument}".lstrip()[:4].upper() == "AUTH":
            self._masking = True
            verb, argument = _MASK, ""
        self.verb = verb
        self._observer("read", verb, f"{verb} {argument}".rstrip())

    def _knows(self, mechanism: str) -> bool:
        return mechanism in MECHANISMS or mechanism in self._mechanisms

    def no_command(self, line: bytes) -> None:
        """A line was read that is refused as it stands."""
        self.verb = ""
        if line.lstrip()[:4].upper() == b"AUTH":
            self._masking = True
        shown = line[:_SHOWN].decode("ascii", "backslashreplace").encode("unicode_escape").decode()
        self._observer("read", "", _MASK if self._masking else shown)

    def response(self) -> None:
        """A line of a login was read."""
        self._answered = True
        self._observer("read", "AUTH", _MASK)

    def challenge(self, wire: bytes) -> None:
        """A challenge was written. What answers the client may be made of a secret: SCRAM's is."""
        shown = f"334 {_MASK}" if self._answered else wire.decode().rstrip("\r\n")
        self._observer("write", self.verb, shown)

    def said(self, wire: bytes) -> None:
        """A reply was written."""
        for line in wire.decode().splitlines():
            self._observer("write", self.verb, line)
