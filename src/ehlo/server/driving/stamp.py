"""Our `Received` field on each message of a session; what is the same in all is made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ehlo.protocol.state import Transaction
from ehlo.protocol.trace import received_head, stamped, with_protocol

if TYPE_CHECKING:
    from ehlo.server.driver import Driver

__all__ = ["Stamp"]


class Stamp:
    """That of one session."""

    __slots__ = ("_facts", "_head")

    def __init__(self) -> None:
        self._facts: tuple[object, ...] = ()  # that the head was made of
        self._head = ""

    def field(self, driver: Driver, transaction: Transaction, message_id: str) -> bytes:
        """The field for a message."""
        session, smtputf8 = driver.session, transaction.smtputf8
        conversation = driver.connection.conversation
        facts = (
            *(conversation.helo, conversation.esmtp, smtputf8),
            *(session.peer, session.rdns, session.tls, session.user),
        )
        if facts != self._facts:
            self._head = _head(driver, smtputf8=smtputf8)
            self._facts = facts
        recipients = transaction.recipients
        return stamped(
            self._head,
            message_id,
            str(recipients[0]) if len(recipients) == 1 else "",
            driver.runtime.clock.date(),
            transaction.sender.params.get("MT-PRIORITY"),
        )


def _head(driver: Driver, *, smtputf8: bool) -> str:
    session, conversation = driver.session, driver.connection.conversation
    peer, tls = session.peer, session.tls
    return received_head(
        helo=conversation.helo,
        rdns=session.rdns,
        address="" if peer.is_unix else peer.host,
        by=driver.rules.by,
        protocol=with_protocol(
            esmtp=conversation.esmtp,
            lmtp=conversation.settings.lmtp,
            tls=tls is not None,
            authenticated=session.user is not None,
            smtputf8=smtputf8,
        ),
        tls=f"version={tls.version} cipher={tls.cipher}" if tls is not None else "",
    )
