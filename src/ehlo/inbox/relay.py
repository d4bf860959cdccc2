"""`Relay`: the server that messages are released to, from the URL that names it."""

from __future__ import annotations

from typing import NamedTuple, Self
from urllib.parse import unquote, urlsplit

from ehlo.net import Peer, is_loopback


class Relay(NamedTuple):
    """A server that takes released messages."""

    host: str
    port: int
    user: str = ""
    password: str = ""
    has_tls: bool = False
    """Whether the connection begins with TLS."""

    @classmethod
    def of(cls, url: str) -> Self:
        """Return the server of a URL: `smtp://[user:password@]host[:port]`, or `smtps://…`.

        With `smtp`, STARTTLS is used if the server offers it. With a user, it must, except on a
        loopback address, and its certificate must be valid. Raises `ValueError`, which does not
        quote the password.
        """
        form = "write smtp://host:25 or smtps://user:password@host:465"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError(f"relay: not a URL; {form}") from None
        if parts.scheme not in ("smtp", "smtps") or not host or parts.path.strip("/"):
            raise ValueError(f"relay: not the URL of an SMTP server; {form}")
        if bool(parts.username) != bool(parts.password) or parts.query or parts.fragment:
            raise ValueError(f"relay: user and password go together, and nothing follows; {form}")
        has_tls = parts.scheme == "smtps"
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(host, port or (465 if has_tls else 25), user, password, has_tls)

    @property
    def must_have_tls(self) -> bool:
        """Whether a password would otherwise be sent in the clear."""
        return bool(self.user) and not self.has_tls and not is_loopback(self.host)

    @property
    def address(self) -> str:
        """The host and the port, as the pages and the API show them."""
        return str(Peer(self.host, self.port))

    def __repr__(self) -> str:
        return f"<Relay {self.address}>"
