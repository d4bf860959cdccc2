"""URLs of a queue: the path of an SQLite file, or `postgresql://user@host/database`."""

from __future__ import annotations

import importlib.util
import re
from typing import Final, NamedTuple, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_SCHEMES: Final = ("postgresql://", "postgres://")
_CACHE: Final = "statement_cache_size"
_STATEMENTS: Final = 100
_SCHEME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*")
_HOST: Final = r"(?:\[[^\]]*\]|[^:,]*)(?::[0-9]*)?"  # a port that is not a number may be a password
_HOSTS: Final = re.compile(f"{_HOST}(?:,{_HOST})*")
# It would be the path of a file, which would have the password in its name
_MISTYPED: Final = re.compile(r"postgres(?:ql)?(?::|//.*@)", re.IGNORECASE)
_WRITE: Final = "not a URL; write postgresql://user@host:5432/database"


class DatabaseURL(NamedTuple):
    """The URL of a database of PostgreSQL."""

    dsn: str
    """What asyncpg connects to."""
    name: str
    """The URL without its password and its parameters, for people."""
    cache: int
    """How many statements are prepared; 0 behind a pooler that assigns each transaction."""

    @property
    def is_pooled(self) -> bool:
        """Whether a session may be another one after each transaction."""
        return not self.cache

    @classmethod
    def of(cls, url: str) -> Self:
        """Return the parts of a URL; its parameter `statement_cache_size` is for asyncpg.

        Raises `ValueError`, which shows no password, also if asyncpg is not installed.
        """
        name = shown(url)
        if importlib.util.find_spec("asyncpg") is None:
            raise ValueError(
                f"queue {name}: asyncpg is not installed; run: pip install 'ehlo[postgres]'"
            )
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ValueError(f"queue {name}: {_WRITE}") from None
        fields = parse_qsl(parts.query, keep_blank_values=True)
        sizes = [value for key, value in fields if key == _CACHE]
        if not all(value.isascii() and value.isdecimal() for value in sizes):
            raise ValueError(f"queue {name}: {_CACHE} must be a whole number; write 0 or 100")
        rest = urlencode([each for each in fields if each[0] != _CACHE])
        cache = int(sizes[-1]) if sizes else _STATEMENTS
        return cls(urlunsplit(parts._replace(query=rest)), name, cache)


def is_postgres(url: str) -> bool:
    """Return whether a URL is of PostgreSQL."""
    return url.startswith(_SCHEMES)


def check_not_mistyped(url: str) -> None:
    """Raise `ValueError`, which shows no password, for `postgresql:/user:password@host`."""
    if _MISTYPED.match(url):
        raise ValueError(f"queue postgresql:...: {_WRITE}")


def shown(url: str) -> str:
    """Return a URL without its password and its parameters, which may have one, too.

    If it cannot be told where the password ends, only the scheme is left.
    """
    scheme, mark, _ = url.partition("://")
    if not mark:
        return url
    hidden = f"{scheme if _SCHEME.fullmatch(scheme) else ''}://..."
    try:
        parts = urlsplit(url)
    except ValueError:
        return hidden
    user, at, hosts = parts.netloc.rpartition("@")
    if url.count("@") > parts.netloc.count("@") or not _HOSTS.fullmatch(hosts):
        return hidden
    return urlunsplit((scheme, user.partition(":")[0] + at + hosts, parts.path, "", ""))
