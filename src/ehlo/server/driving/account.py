"""What a client is counted under: how many come from its address, how often, and what they do.

A proxy's connections are its own, and what is said over them is its client's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ehlo.net import Peer
from ehlo.session import ProxyInfo

if TYPE_CHECKING:
    from ehlo.server.runtime import Runtime

__all__ = ["Account"]


class Account:
    """That of one session; `None` as a key is nobody whose doings are counted."""

    __slots__ = ("_client_key", "_key", "_runtime")

    def __init__(self, runtime: Runtime, peer: Peer, proxy: ProxyInfo | None) -> None:
        unknown = proxy is not None and proxy.peer == peer  # a proxy is many clients, or none
        self._runtime = runtime
        self._key = None if unknown else runtime.exempt.key(peer)
        self._client_key = self._key

    def open(self) -> bool:
        """Count a connection in, unless there are too many, or its address has come too often."""
        runtime, key = self._runtime, self._key
        if not runtime.connections.admit(key):
            return False
        if runtime.connection_rate.admit(key):
            return True
        runtime.connections.release(key)
        return False

    def close(self) -> None:
        """Count it out."""
        self._runtime.connections.release(self._key)

    def speak_for(self, peer: Peer) -> None:
        """From now on it is `peer` who does things."""
        self._client_key = self._runtime.exempt.key(peer)

    def may_send(self) -> bool:
        """Count a message; whether its address may send one more."""
        return self._runtime.message_rate.admit(self._client_key)

    def may_add_recipient(self) -> bool:
        """The same for a recipient."""
        return self._runtime.recipient_rate.admit(self._client_key)

    def may_log_in(self) -> bool:
        """Whether its address was not wrong too often."""
        return not self._runtime.login_failures.spent(self._client_key)

    def may_be_asked(self) -> bool:
        """The same, if the logins of its address that are being checked now are wrong, too."""
        return self._runtime.login_failures.may_begin(self._client_key)

    def begin_login(self) -> Callable[[], None]:
        """A login is being checked, until what is returned is called."""
        return self._runtime.login_failures.begin(self._client_key)

    def note_failed_login(self) -> float:
        """Count a wrong login; the seconds that its answer waits."""
        self._runtime.login_failures.note(self._client_key)
        return self._runtime.failed_logins.delay(self._client_key)
