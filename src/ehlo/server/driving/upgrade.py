"""From clear text to TLS: the 220, the handshake, and the new connection that serves the client.

RFC 3207 4.2: nothing that was said before is remembered, since it may have been anybody's; only
what is counted against the client stays. A listener with implicit TLS begins with the handshake.
"""

from __future__ import annotations

import logging
import ssl
from functools import partial
from typing import TYPE_CHECKING

from ehlo.protocol import reply as replies
from ehlo.protocol.reply import Reply
from ehlo.protocol.xclient import endpoints
from ehlo.server.hooks.hookrun import Secured
from ehlo.server.hooks.hooks import answer_of
from ehlo.server.observing.journal import about
from ehlo.server.tls.channel import Channel

if TYPE_CHECKING:
    from ehlo.server.driver import Driver

__all__ = ["answered", "decrypted", "start"]

logger = logging.getLogger("ehlo.server")


def start(driver: Driver) -> None:
    """STARTTLS: say 220 in clear; what comes next is the handshake."""
    tls = driver.rules.tls
    assert tls is not None  # noqa: S101  STARTTLS is offered only with it
    try:
        channel = Channel(tls.current)
    except ssl.SSLError:
        about(logger, driver.session.id).exception("TLS is not to be had")
        driver.connection.reply(replies.TLS_UNAVAILABLE)
        return
    driver.connection.reply()
    driver.flush()
    driver.wire.begin_tls(channel)


def decrypted(driver: Driver, data: bytes) -> bytes | None:
    """What the client said under TLS; `None` before the handshake is done, and if it fails."""
    wire = driver.wire
    try:
        plain = wire.decrypted(data, partial(_done, driver))
    except ssl.SSLError as error:
        driver.journal.tls_failed(error.reason)
        driver.ending.closing = True
        wire.fail_tls()
        return None
    if wire.peer_closed:
        driver.connection.receive_eof()
    return plain


def _done(driver: Driver, channel: Channel) -> None:
    """The handshake is: what the client says from now on is for a new connection."""
    session, before, info = driver.session, driver.connection, channel.info()
    driver.connection = driver.new_connection(
        session.id,
        session.peer,
        tls=True,
        greet=driver.rules.tls_listener,
        counts=before.counts,
        bindings=channel.bindings(),
        certificate=info.peer_certificate,
    )
    conversation = driver.connection.conversation
    conversation.xclient = endpoints(before.conversation.xclient)
    session.restart(conversation)
    session.tls = info
    driver.journal.secured(info)
    driver.deadlines.allow_command()
    if driver.hooks.tls is not None:
        driver.run_hook(driver.hooks.tls, (session,), Secured(), answer_of)


def answered(driver: Driver, answer: Reply | None) -> None:
    """on_tls has answered; a refusal is said under TLS, and ends the session."""
    if answer is not None and answer.refuses:
        driver.connection.hang_up(answer)
    driver.noticed()
