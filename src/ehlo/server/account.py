"""Accounts: how many clients connect from an address, how often, and what they do.

A proxy's connections are its own, and what is sent over them is its client's.
"""

from __future__ import annotations

from collections.abc import Callable

from ehlo.net import Peer
from ehlo.server.runtime import Runtime
from ehlo.session import ProxyInfo

__all__ = ["Account"]


class Account:
    """Counts what one session does under its address; a key of `None` is exempt."""

    __slots__ = ("_client_key", "_key", "_runtime")

    def __init__(self, runtime: Runtime, peer: Peer, proxy: ProxyInfo | None) -> None:
        unknown = proxy is not None and proxy.peer == peer  # a proxy is many clients, or none
        self._runtime = runtime
        self._key = None if unknown else runtime.exempt.key(peer)
        self._client_key = self._key

    def open(self) -> bool:
        """Count a connection; return whether its address may have one more."""
        runtime, key = self._runtime, self._key
        if not runtime.connections.admit(key):
            return False
        if runtime.connection_rate.admit(key):
            return True
        runtime.connections.release(key)
        return False

    def close(self) -> None:
        """Stop counting the connection."""
        self._runtime.connections.release(self._key)

    def speak_for(self, peer: Peer) -> None:
        """Count what the session does from now on under the address of `peer`."""
        self._client_key = self._runtime.exempt.key(peer)

    def may_send(self) -> bool:
        """Count a message; return whether its address may send one more."""
        return self._runtime.message_rate.admit(self._client_key)

    def may_add_recipient(self) -> bool:
        """Count a recipient; return whether its address may have one more."""
        return self._runtime.recipient_rate.admit(self._client_key)

    def may_log_in(self) -> bool:
        """Return whether its address has logins left that may fail."""
        return not self._runtime.login_failures.spent(self._client_key)

    def may_be_asked(self) -> bool:
        """Return the same, if all logins of its address that are being checked fail."""
        return self._runtime.login_failures.may_begin(self._client_key)

    def begin_login(self) -> Callable[[], None]:
        """Count a login that is being checked, until the returned function is called."""
        return self._runtime.login_failures.begin(self._client_key)

    def note_failed_login(self) -> float:
        """Count a failed login; return the seconds by which its reply is delayed."""
        self._runtime.login_failures.note(self._client_key)
        return self._runtime.failed_logins.delay(self._client_key)
