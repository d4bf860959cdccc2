"""Passwords in the environment: taken out of it before any module of the user's is imported.

Otherwise a program that such a module starts would inherit them. `main` takes them first of all,
and `--env-file` never puts them there. Commands, and through them workers, get them from here.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final

NAMES: Final = ("EHLO_QUEUE", "EHLO_RELAY", "EHLO_TLS_PASSPHRASE", "EHLO_WEB_AUTH")
"""The variables that are passwords, or may have one."""


class Secrets:
    """Holds the variables that were taken. It is the `obj` of click's contexts."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def take(self, variables: MutableMapping[str, str]) -> None:
        """Move the passwords among these variables here. Those that are here keep their values."""
        for name in NAMES:
            value = variables.pop(name, None)
            if value is not None:
                self._values.setdefault(name, value)

    def get(self, name: str) -> str | None:
        """Return the value of a variable that was taken, and `None` for all others."""
        return self._values.get(name)
