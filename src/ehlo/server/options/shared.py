"""What the listeners of a server share, and is had anew for all of them at once."""

from __future__ import annotations

from ehlo.passwords.file import PasswordFile
from ehlo.server.tls.certificates import Holder, TLSConfig

__all__ = ["Shared"]


class Shared:
    """What is read once for all listeners that name it: contexts and files of passwords."""

    def __init__(self) -> None:
        self._holders: list[tuple[TLSConfig, Holder]] = []
        self._passwords: dict[str, PasswordFile] = {}

    @property
    def holders(self) -> list[Holder]:
        """All of them."""
        return [holder for _, holder in self._holders]

    @property
    def passwords(self) -> list[PasswordFile]:
        """All of them."""
        return list(self._passwords.values())

    def holder(self, config: TLSConfig | None) -> Holder | None:
        """What holds the context of `config`. Raises what a function of the user's raises."""
        if config is None:
            return None
        for known, holder in self._holders:
            if known is config:
                return holder
        holder = Holder(config)
        self._holders.append((config, holder))
        return holder

    def password_file(self, path: str) -> PasswordFile:
        """The file, read. Raises `ValueError`."""
        if path not in self._passwords:
            passwords = PasswordFile(path)
            passwords.load()
            self._passwords[path] = passwords
        return self._passwords[path]
