"""URLs of a queue: the path of an SQLite file, or `postgresql://user@host/database`."""

from __future__ import annotations

import importlib.util
from typing import Final, NamedTuple, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_SCHEMES: Final = ("postgresql://", "postgres://")
_CACHE: Final = "statement_cache_size"
_STATEMENTS: Final = 100
_WRITE: Final = "not a URL; write postgresql://user@host:5432/database"


class DatabaseURL(NamedTuple):
    """The URL of a database of PostgreSQL."""

    dsn: str
    """What asyncpg connects to."""
    name: str
    """The URL without its password, for people."""
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


def shown(url: str) -> str:
    """Return a URL without its password."""
    if not is_postgres(url):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return "postgresql://..."
    user, at, host = parts.netloc.rpartition("@")
    fields = [each for each in parse_qsl(parts.query) if each[0] not in ("password", _CACHE)]
    bare = parts._replace(netloc=user.partition(":")[0] + at + host, query=urlencode(fields))
    return urlunsplit(bare)
