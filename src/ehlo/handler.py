"""`Handler`: a hook for each moment of a session. A hook that is not overridden is not called."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ehlo.message import Message
from ehlo.protocol.address import Address
from ehlo.protocol.auth.credentials import Credentials
from ehlo.protocol.auth.mechanism import Secret
from ehlo.protocol.reply import Reply
from ehlo.session import Session

__all__ = ["Answer", "Callbacks", "Handler", "callbacks_of_handler", "is_async"]

Answer = Awaitable[Reply | None] | Reply | None
MessageAnswer = Reply | str | Mapping[str, Reply | str | None] | None


class Handler:
    """Answers what clients ask; subclass it and override the hooks that you need.

    Each hook may be `def` or `async def`. A `def` hook runs in a thread, an `async def` hook on the
    server's event loop. Hooks of one session do not run at the same time, unless one of them has
    missed its deadline and is still running.

    A hook accepts by returning `None`, answers in its own words by returning a `Reply` (a 4xx or
    5xx reply rejects), and rejects by raising `Reject`. Any other exception is logged, and the
    client gets `451 4.3.0` (`421 4.3.0` from `on_connect`).

    Example:

        class Inbound(ehlo.Handler):
            async def on_rcpt(self, session, recipient, params):
                if recipient.domain != "example.com":
                    raise ehlo.Reject(550, "5.1.1", "No such user here")

            async def on_message(self, session, message):
                return await store(message)     # "250 2.0.0 Ok: queued as <id>"
    """

    streams: ClassVar[bool] = False
    """Whether you read messages only by `stream()` and `file`.

    The server then reserves no memory for the other forms: `data`, `body` and `email` of a message
    on disk raise `RuntimeError`.
    """

    # `server` is the `ehlo.Server`, which stands above this module and cannot be named here

    def on_startup(self, server: Any) -> Awaitable[None] | None:
        """Called when the server listens, on the event loop that will serve clients.

        `server` is the `ehlo.Server`. An exception stops the start. If the server is stopped
        meanwhile, it waits a second for this hook, and then cancels it.
        """

    def on_shutdown(self, server: Any) -> Awaitable[None] | None:
        """Called when the last session has ended, if `on_startup` had returned.

        `server` is the `ehlo.Server`. This hook has the rest of the grace period, and at least
        5 seconds. Then the server stops without it: an `async def` hook is cancelled, a `def` hook
        keeps its own thread and is abandoned.
        """

    def on_connect(self, session: Session) -> Answer:
        """Called when a client has connected; the answer is the greeting.

        It is called again when a proxy names another client by XCLIENT.
        """

    def on_hello(self, session: Session, name: str) -> Answer:
        """Called for HELO, EHLO and LHLO; `session.helo` is set once this has accepted `name`."""

    def on_tls(self, session: Session) -> Answer:
        """Called when a TLS handshake is complete; `session.tls` describes it.

        A rejection is sent to the client, and the connection is closed.
        """

    def on_auth(
        self, session: Session, credentials: Credentials
    ) -> Awaitable[str | bool | Reply | None] | str | bool | Reply | None:
        """Called for a login. Return the identity, a non-empty `str`, to accept it.

        `None` and `False` reject it (535). Any other value is logged as an error, the client gets
        `454 4.7.0`, and is not logged in.
        """

    def on_secret(self, session: Session, username: str) -> Awaitable[Secret] | Secret:
        """Called for the stored secret of `username`, for CRAM-MD5 and SCRAM.

        Return the password in plaintext, which serves both; or `ScramKeys`, or a list of them for
        several algorithms, which serve SCRAM; or `None` for an unknown user. These mechanisms are
        offered when this hook is overridden. SCRAM's `username` is prepared by SASLprep (RFC 4013).
        """

    def on_mail(self, session: Session, sender: Address, params: Mapping[str, Any]) -> Answer:
        """Called for MAIL FROM; `params` has its typed parameters by upper-case keyword."""

    def on_rcpt(self, session: Session, recipient: Address, params: Mapping[str, Any]) -> Answer:
        """Called for RCPT TO; `params` has its typed parameters by upper-case keyword."""

    def on_data(self, session: Session) -> Answer:
        """Called for DATA, or the first BDAT chunk, before the body is read."""

    def on_message(
        self, session: Session, message: Message
    ) -> Awaitable[MessageAnswer] | MessageAnswer:
        """Called when a message is complete. Every handler has this hook.

        Returning accepts the message (250); you are then responsible for it. A `str` is its queue
        id: `250 2.0.0 Ok: queued as <id>`.

        In LMTP each recipient has an answer. `message.refuse` rejects the message for one of them;
        or return a mapping from recipients to answers. Recipients that are missing from the
        mapping are accepted.
        """
        raise NotImplementedError

    def on_replied(self, session: Session, message: Message, sent: bool) -> Awaitable[None] | None:
        """Called when the final reply to `message` has been sent, or could not be (`sent` false).

        It is always called, unless the grace period of a shutdown is over. The time that it waits
        for a free thread does not count towards its deadline.
        """

    def on_vrfy(self, session: Session, text: str) -> Answer:
        """Called for VRFY; accepting answers `252`, which reveals nothing."""

    def on_reset(self, session: Session) -> Answer:
        """Called for RSET."""

    def on_command(self, session: Session, verb: str, argument: str) -> Answer:
        """Called for a command of your own (see `Extension`); accepting answers `250 2.0.0 Ok`."""

    def on_disconnect(self, session: Session) -> Awaitable[None] | None:
        """Called when the client has disconnected; no other hook of this session follows."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Holds the hooks that an application has, from a `Handler` or from plain functions."""

    by_name: Mapping[str, Callable[..., Any]]
    """What to call, without `self`, by the name of the hook."""
    streams: bool = False
    """See `Handler.streams`."""

    def __contains__(self, name: str) -> bool:
        return name in self.by_name


def callbacks_of_handler(handler: Handler) -> Callbacks:
    """Return the hooks that `handler` overrides, in its class or in the instance."""
    names = [name for name in vars(Handler) if name.startswith("on_")]
    bound = {name: getattr(handler, name) for name in names}
    overridden = {
        name: call
        for name, call in bound.items()
        if getattr(call, "__func__", None) is not vars(Handler)[name]
    }
    return Callbacks(overridden, streams=handler.streams)


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether a call gives an awaitable: `async def`, a partial, an async `__call__`."""
    return inspect.iscoroutinefunction(inspect.unwrap(function)) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  its kind is asked for, not whether it is
    )
