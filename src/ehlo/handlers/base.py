"""`Handler`: a hook for each moment of a session. What is not overridden is not called."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ehlo.protocol.address import Address
from ehlo.protocol.credentials import Credentials
from ehlo.protocol.reply import Reply
from ehlo.protocol.sasl import Secret
from ehlo.session import Message, Session

if TYPE_CHECKING:
    from ehlo.server.server import Server

__all__ = ["Answer", "Handler"]

Answer = Awaitable[Reply | None] | Reply | None
MessageAnswer = Reply | str | Mapping[str, Reply | str | None] | None


class Handler:
    """Subclass it and override the hooks that you need; each may be `def` or `async def`.

    To answer: return `None` to accept, a `Reply` to say it in your own words (a 4xx or 5xx one
    refuses), or raise `Reject`. Any other exception is taken for a bug: it is logged, and the
    client gets `451 4.3.0` (`421 4.3.0` at `on_connect`). A `def` hook runs in a thread, an
    `async def` one on the server's loop. One session's hooks do not run at the same time, unless
    one was over its deadline and is running still.
    """

    streams: ClassVar[bool] = False
    """Whether messages are read by `stream()` and `file` alone. No memory is kept for the others
    then: `data`, `body` and `email` of one that is on disk raise `RuntimeError`."""

    def on_startup(self, server: Server) -> Awaitable[None] | None:
        """The server listens, in the loop that will serve; an exception here ends the start.

        A server that is ended meanwhile waits a second for it, and then cancels it.
        """

    def on_shutdown(self, server: Server) -> Awaitable[None] | None:
        """The last session has ended. It is not told when `on_startup` has not returned.

        It has the time that is left of the grace, and 5 seconds at least; the server then ends
        without it: an `async def` one is cancelled, a `def` one, which has a thread of its own, is
        left behind.
        """

    def on_connect(self, session: Session) -> Answer:
        """A client has connected; the answer is the greeting.

        It is called again when a proxy says, by XCLIENT, whom it speaks for.
        """

    def on_hello(self, session: Session, name: str) -> Answer:
        """HELO or EHLO. `session.helo` has the name once this has accepted it."""

    def on_tls(self, session: Session) -> Answer:
        """A TLS handshake is done; `session.tls` tells of it. A refusal is said, then we close."""

    def on_auth(
        self, session: Session, credentials: Credentials
    ) -> Awaitable[str | bool | Reply | None] | str | bool | Reply | None:
        """A login. Return the identity, a non-empty `str`, to accept; `None` or `False` refuses.

        Whatever else is returned is taken for a bug: `454 4.7.0`, and the client is not logged in.
        """

    def on_secret(self, session: Session, username: str) -> Awaitable[Secret] | Secret:
        """What you keep of `username` for CRAM-MD5 and SCRAM; `None` where there is no such user.

        The password in plaintext serves all of them; `ScramKeys`, or a list of them for several
        algorithms, serve SCRAM without it. The mechanisms are offered when this is overridden.
        SCRAM's `username` is prepared by SASLprep (RFC 4013).
        """

    def on_mail(self, session: Session, sender: Address, params: Mapping[str, Any]) -> Answer:
        """MAIL FROM, with its typed parameters by upper-case keyword."""

    def on_rcpt(self, session: Session, recipient: Address, params: Mapping[str, Any]) -> Answer:
        """RCPT TO, with its typed parameters by upper-case keyword."""

    def on_data(self, session: Session) -> Answer:
        """DATA, before the 354."""

    def on_message(
        self, session: Session, message: Message
    ) -> Awaitable[MessageAnswer] | MessageAnswer:
        """The whole message is here. Returning accepts it, and is the promise to deliver it.

        A `str` is a queue id: `250 2.0.0 Ok: queued as <id>`. Every handler has this hook. In LMTP
        there is an answer for each recipient: `message.refuse` refuses for one of them, or return a
        mapping from recipients to what would be returned for all; whom it leaves out is accepted.
        """
        raise NotImplementedError

    def on_replied(self, session: Session, message: Message, sent: bool) -> Awaitable[None] | None:
        """The final reply to `message` has left, or (`sent` is `False`) could not.

        It is called in any case, but for a shutdown whose grace is over; the time for which it
        waits until there is a thread for it does not count as its own.
        """

    def on_vrfy(self, session: Session, text: str) -> Answer:
        """VRFY; accepted with `252`, which tells nothing."""

    def on_reset(self, session: Session) -> Answer:
        """RSET."""

    def on_command(self, session: Session, verb: str, argument: str) -> Answer:
        """A command of your own (see `Extension`); accepted with `250 2.0.0 Ok`."""

    def on_disconnect(self, session: Session) -> Awaitable[None] | None:
        """The client has gone, or was sent away; no other hook of this session will run."""
