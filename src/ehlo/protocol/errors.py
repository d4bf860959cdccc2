"""Whose fault it was, as types: `Reject` answers the client, `ProtocolError` is a bug of ours."""

from __future__ import annotations

from ehlo.protocol.reply import Reply

__all__ = ["ParserError", "ProtocolError", "Reject"]

_DEFAULTS = {
    4: ("4.3.0", "Requested action not taken"),
    5: ("5.7.1", "Requested action refused"),
}


class Reject(Exception):  # noqa: N818  the name says what it does, as the field's others do
    """Raised by a hook to refuse, with the reply that the client gets.

    `code` is 400 to 599; `enhanced` is an enhanced status code of the same class (RFC 3463), or
    `None` to take `x.7.1` or `4.3.0`; `text` is one line or several, separated by `\\n`. A code of
    421 or 521 closes the connection after the reply.

    Raises `ValueError` when code and enhanced code do not fit, or the text cannot be sent.
    """

    __slots__ = ("reply",)

    reply: Reply

    def __init__(self, code: int, enhanced: str | None = None, text: str | None = None) -> None:
        if not 400 <= code <= 599:
            raise ValueError(f"a refusal is 4xx or 5xx, not {code}")
        default_enhanced, default_text = _DEFAULTS[code // 100]
        self.reply = Reply(code, enhanced or default_enhanced, text or default_text)
        super().__init__(code, self.reply.enhanced, self.reply.text)

    def __str__(self) -> str:
        return str(self.reply)

    @classmethod
    def of(cls, reply: Reply) -> Reject:
        """The refusal that says `reply`, which must be 4xx or 5xx."""
        return cls(reply.code, reply.enhanced, reply.text)


class ParserError(Exception):
    """A parser of a user's own extension failed: our trouble, and not the client's mistake."""


class ProtocolError(Exception):
    """The core was used wrongly by us: a reply without a question, input after the end."""
