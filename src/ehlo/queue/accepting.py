"""`Queue`: a handler around a handler, which stores mail before the 250, and delivers it later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from ehlo.functions import callbacks_of_functions
from ehlo.handler import AnyServer, Callbacks, Composed, Handler, callbacks_of_handler, is_async
from ehlo.message import Message
from ehlo.protocol import reply as replies
from ehlo.protocol.reply import Reject
from ehlo.queue import facts
from ehlo.queue.consumer import Consumer
from ehlo.queue.depots import Depots
from ehlo.queue.engine import Engine, Ledger
from ehlo.queue.entries import Levels
from ehlo.queue.family import Family
from ehlo.queue.meter import Meter
from ehlo.queue.timing import (
    LONGEST,
    Duration,
    Persistence,
    SystemTime,
    Terms,
    Timekeeper,
    seconds_in,
)
from ehlo.queue.urls import DatabaseURL, is_postgres, shown
from ehlo.server.options.config import AnyHandler, spool_threshold
from ehlo.server.system.privileges import UnusableError
from ehlo.session import Session
from ehlo.sqlite.errors import DiskFullError, StoreError

_DELIVERIES: Final = 8
_LAST: Final = 1.0  # seconds to give leases back

logger: logging.Logger = logging.getLogger("ehlo.queue")


class Queue(Composed):
    """Stores each message on disk before its 250, and calls the handler after it, with retries.

    `handler` is what a `Server` takes. Its hooks from `on_connect` to `on_data` decide before the
    250, as always. Its `on_message` is called later, once for each attempt, with all recipients
    that are still due. Returning delivers; `message.refuse(recipient, reply)` settles one
    recipient. `Retry`, a 4xx and any other exception try again later. A 5xx `Reject` and `False`
    end the delivery as failed. Delivery is at least once: use `message.digest` for what must not
    happen twice.

    - `url`: the path of an SQLite file. `mail.db` stands for `mail-0.db` and, with `workers`, for
      `mail-1.db` and so on, one for each process.
    - `lease`: seconds after which the messages of a process that died or hangs are tried again.
    - `retry_after`, `retry_max`: seconds before the second attempt, and the longest wait; each wait
      is twice the one before, plus or minus a fifth.
    - `max_attempts`, `max_age`: when a delivery is dead. A `max_age` of 0 is one attempt.
    - `keep_dead`: how long a failed or dead delivery is kept, with its mail and its last error.
    - `deliveries`: maximum attempts at a time in this process; 0 leaves them to `ehlo work`.
    - `timeout`: maximum seconds of an attempt.
    - `accepts`: whether this process accepts mail, too.
    - `time`: a clock for tests.

    `max_age`, `keep_dead` and the other times are seconds, or text such as `"30d"`; `None` is
    unlimited. Raises `ValueError` for a value that is wrong.

    Example::

        def handler(message):
            archive(message.id, message.data)

        server = ehlo.Server(ehlo.Queue("mail.db", handler), addr="127.0.0.1:2525")
    """

    def __init__(
        self,
        url: str,
        handler: AnyHandler,
        *,
        lease: Duration = 60,
        retry_after: Duration = 5,
        retry_max: Duration = 3600,
        max_attempts: int = 12,
        max_age: Duration = None,
        keep_dead: Duration = "30d",
        deliveries: int = _DELIVERIES,
        timeout: Duration = 600,
        accepts: bool = True,
        time: Timekeeper | None = None,
    ) -> None:
        if isinstance(handler, Queue):
            raise ValueError(f"two queues, {shown(url)} and {handler.url}; leave one out")
        inner = _callbacks_of(handler)
        self.url: str = shown(url)
        """The path of the SQLite file, or the URL of the database without its password."""
        self._inner = inner
        self._terms = Terms(
            min(_positive("lease", lease), LONGEST),
            _positive("timeout", timeout),
            seconds_in("keep_dead", keep_dead),
            _whole("deliveries", deliveries, 0),
            Persistence(
                _positive("retry_after", retry_after),
                _positive("retry_max", retry_max),
                _whole("max_attempts", max_attempts, 1),
                seconds_in("max_age", max_age),
            ),
        )
        self.accepts: bool = accepts
        """Whether this process accepts mail, too."""
        self._time = time or SystemTime()
        self._make_engine = _engine_of(url, self._terms.patience, self._time)
        self._engine: Engine | None = None
        self._sessions = facts.SessionWriter()
        self._troubled = False
        hooks = {
            **inner.by_name,
            "on_message": self._put,
            "on_startup": self._start,
            "on_shutdown": self._stop,
        }
        streams = inner.streams or "on_replied" not in inner
        self._meter = Meter(self._look)
        super().__init__(Callbacks(hooks, streams, inner.origins, self._meter, inner.silent))

    def only_deliver(self) -> None:
        """Accept no mail in this process, as `ehlo work` does. Call it before the start."""
        self.accepts = False
        if not self._terms.deliveries:
            self._terms = self._terms._replace(deliveries=_DELIVERIES)

    # -- accepting ---------------------------------------------------------------------------------

    async def _put(self, session: Session, message: Message) -> str:
        """Store a message; return its id when it is on disk. Raises `Reject`, always with a 4xx."""
        try:
            if self._engine is None:
                raise StoreError("the queue has not started")
            arrival = facts.arrival_of(self._sessions.write(session), message)
            await self._engine.put(arrival, message)
        except DiskFullError as error:
            self._note_trouble(error)
            raise Reject.of(replies.NO_MEMORY) from None
        except StoreError as error:
            self._note_trouble(error)
            raise Reject.of(replies.TROUBLE) from None
        self._troubled = False
        self._meter.counts["accepted"] += len(message.recipients)
        return message.id

    def _note_trouble(self, error: StoreError) -> None:
        level = logging.DEBUG if self._troubled else logging.ERROR
        logger.log(level, "mail was not accepted: error=%s", error)
        self._troubled = True

    # -- the start and the end ---------------------------------------------------------------------

    async def _start(self, server: AnyServer) -> None:
        self._engine = engine = self._make_engine()
        try:
            await engine.start(accepts=self.accepts, threshold=spool_threshold(server.options))
        except StoreError as error:
            await self._close()
            raise UnusableError(f"queue: {error}") from error
        try:
            await self._call("on_startup", server)
        except BaseException:
            await self._close()
            raise
        if self._terms.deliveries:
            engine.deliver(self._consumer)

    def _consumer(self, ledger: Ledger) -> Consumer:
        handler, streams = self._inner.by_name["on_message"], self._inner.streams
        counts = self._meter.counts
        return Consumer(ledger, handler, self._terms, self._time, counts, streams=streams)

    async def _look(self) -> Mapping[str, Levels]:
        """Return what is in the queue. Raises `StoreError`."""
        return {} if self._engine is None else await self._engine.levels()

    async def _stop(self, server: AnyServer) -> None:
        """Let deliveries end. What is under way when this is canceled is given back."""
        try:
            if self._engine is not None:
                await self._engine.stop()
            await self._call("on_shutdown", server)
        finally:
            await self._close()

    async def _close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is None:
            return
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(engine.close())), _LAST)
        except TimeoutError:
            logger.warning("the queue was not closed within %g s; its leases run out", _LAST)

    async def _call(self, name: str, server: AnyServer) -> None:
        hook = self._inner.by_name.get(name)
        if hook is None:
            return
        if is_async(hook):
            await hook(server)  # type: ignore[misc]  # an `async def`
        else:
            await asyncio.to_thread(hook, server)


def _engine_of(url: str, patience: Persistence, time: Timekeeper) -> Callable[[], Engine]:
    """Return what makes the engine for a URL, in a running loop. Raises `ValueError`."""
    if is_postgres(url):
        database = DatabaseURL.of(url)

        def make() -> Engine:
            from ehlo.queue.postgres.cluster import Cluster  # slow to import

            return Cluster(database)

        return make
    return partial(Depots, Family(url), patience, time)


def _callbacks_of(handler: AnyHandler) -> Callbacks:
    if isinstance(handler, type) and issubclass(handler, Handler):
        handler = handler()
    if isinstance(handler, Handler):
        callbacks = callbacks_of_handler(handler)
        if "on_message" not in callbacks:
            raise TypeError(f"{type(handler).__name__} has no on_message; define it to accept mail")
        return callbacks
    if isinstance(handler, str | type) or not callable(handler):
        raise TypeError(f"handler must be a function or an ehlo.Handler, not {handler!r}")
    return callbacks_of_functions(handler, None, None)


def _positive(option: str, value: Duration) -> float:
    found = seconds_in(option, value)
    if not found > 0:
        raise ValueError(f"{option}: {value!r}: write more than 0 seconds")
    return found


def _whole(option: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{option}: {value!r}: write a whole number that is {least} or more")
    return value
