"""`Queue`: a handler around a handler, which stores mail before the 250, and delivers it later."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from ehlo.functions import callbacks_of_functions
from ehlo.handler import AnyServer, Callbacks, Composed, Handler, callbacks_of_handler, is_async
from ehlo.message import Message
from ehlo.protocol import reply as replies
from ehlo.protocol.reply import Reject
from ehlo.queue import facts, ledger
from ehlo.queue.consumer import Terms
from ehlo.queue.depot import Depot
from ehlo.queue.family import Family, Lock
from ehlo.queue.meter import Levels, Meter
from ehlo.queue.timing import Duration, Persistence, SystemTime, Timekeeper, seconds_in
from ehlo.server.options.config import AnyHandler, bytes_of
from ehlo.server.system.privileges import UnusableError
from ehlo.session import Session
from ehlo.store.database import DiskFullError, StoreError

_DELIVERIES: Final = 8
_LOOK: Final = 5.0  # seconds between two looks for files that no process delivers from
_THRESHOLD: Final = 1_048_576  # bytes, until the server says its own
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
    - `lease`: seconds after which a message of a process that hangs is tried by another.
    - `retry_after`, `retry_max`: seconds before the second attempt, and the longest wait; each wait
      is twice the one before, plus or minus a fifth.
    - `max_attempts`, `max_age`: when a delivery is dead.
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
            raise ValueError(f"two queues, {url} and {handler.url}; leave one out")
        inner = _callbacks_of(handler)
        self.url: str = url
        """The path of the SQLite file, as it was given."""
        self._family = Family(url)
        self._inner = inner
        self._terms = Terms(
            _positive("lease", lease),
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
        self._threshold = _THRESHOLD
        self._own: Depot | None = None
        self._adopted: dict[Path, Depot] = {}
        self._opening: asyncio.Lock | None = None
        self._looking: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._troubled = False
        hooks = {
            **inner.by_name,
            "on_message": self._put,
            "on_startup": self._start,
            "on_shutdown": self._stop,
        }
        streams = inner.streams or "on_replied" not in inner
        self._meter = Meter(self._look)
        super().__init__(Callbacks(hooks, streams, inner.origins, self._meter))

    def only_deliver(self) -> None:
        """Accept no mail in this process, as `ehlo work` does. Call it before the start."""
        self.accepts = False
        if not self._terms.deliveries:
            self._terms = self._terms._replace(deliveries=_DELIVERIES)

    # -- accepting ---------------------------------------------------------------------------------

    async def _put(self, session: Session, message: Message) -> str:
        """Store a message; return its id when it is on disk. Raises `Reject`, always with a 4xx."""
        try:
            depot = self._own or await self._open()
            await self._store(depot, session, message)
        except DiskFullError as error:
            self._note_trouble(error)
            raise Reject.of(replies.NO_MEMORY) from None
        except StoreError as error:
            self._note_trouble(error)
            raise Reject.of(replies.TROUBLE) from None
        self._troubled = False
        self._meter.counts["accepted"] += len(message.recipients)
        depot.wake()
        return message.id

    async def _store(self, depot: Depot, session: Session, message: Message) -> None:
        digest = hashlib.sha256()
        sender = facts.encode_address(message.sender)
        recipients = [facts.encode_address(each) for each in message.recipients]
        digest.update(facts.encode([message.sender, message.recipients]).encode())
        file: str | None = None
        body: bytes | None = None
        if not message.spooled:
            body = message.body
            digest.update(body)
        elif message.size <= self._threshold:
            body = await asyncio.to_thread(_read, message, digest.update)
        else:
            file = await asyncio.to_thread(depot.files.write, message, digest.update)
        arrival = ledger.Arrival(
            message.id,
            digest.hexdigest(),
            self._time.now(),
            sender,
            recipients,
            facts.encode_session(session),
            message.size,
            message.trace,
            file,
            body,
        )
        try:
            await depot.writer.do(partial(ledger.insert, arrival=arrival), len(body or b""))
        except BaseException as error:
            if isinstance(error, StoreError) and file is not None:
                await asyncio.to_thread(depot.files.delete, [file])
            if isinstance(error, ledger.GoneFileError):
                await self._lose(depot)
            raise

    def _note_trouble(self, error: StoreError) -> None:
        level = logging.DEBUG if self._troubled else logging.ERROR
        logger.log(level, "mail was not accepted: error=%s", error)
        self._troubled = True

    async def _open(self) -> Depot:
        """Open a file of this process's own. Raises `StoreError`."""
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._own is None:
                path, lock = await asyncio.to_thread(self._family.own)
                try:
                    self._own = await asyncio.to_thread(Depot.opened, path, lock)
                except BaseException:
                    lock.release()
                    raise
                if self._wake is not None:
                    self._wake.set()
            return self._own

    async def _lose(self, depot: Depot) -> None:
        """Close a file that was removed; the next message opens another one in its place."""
        if self._own is depot:
            self._own = None
            await depot.close()

    # -- the start and the end ---------------------------------------------------------------------

    async def _start(self, server: AnyServer) -> None:
        self._threshold = bytes_of(server.options.spool_threshold)
        self._opening, self._wake = asyncio.Lock(), asyncio.Event()
        try:
            if self.accepts:
                await self._open()
        except StoreError as error:
            raise UnusableError(f"queue: {error}") from error
        try:
            await self._call("on_startup", server)
        except BaseException:
            await self._close()
            raise
        if self._terms.deliveries:
            self._looking = asyncio.create_task(self._look_after(), name="ehlo queue files")

    async def _stop(self, server: AnyServer) -> None:
        """Let deliveries end. What is under way when this is canceled is given back."""
        try:
            if self._looking is not None:
                self._looking.cancel()
                await asyncio.gather(self._looking, return_exceptions=True)
            for depot in self._depots:
                depot.stop()
            await asyncio.gather(*(depot.ended() for depot in self._depots))
            await self._call("on_shutdown", server)
        finally:
            await self._close()

    @property
    def _depots(self) -> list[Depot]:
        own = [] if self._own is None else [self._own]
        return own + list(self._adopted.values())

    async def _look(self) -> Mapping[str, Levels]:
        """Return what the files hold that this process has open. Raises `StoreError`."""
        now, depots = self._time.now(), self._depots
        return {str(each.path): await each.levels(now) for each in depots}

    async def _close(self) -> None:
        depots = self._depots
        self._own, self._looking = None, None
        self._adopted.clear()
        closing = asyncio.gather(*(depot.close() for depot in depots))
        try:
            await asyncio.wait_for(asyncio.shield(closing), _LAST)
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

    # -- delivering --------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        """Deliver from the file of this process, and from those that no process does."""
        wake = self._wake or asyncio.Event()
        while True:
            for path in await asyncio.to_thread(self._family.members):
                try:
                    await self._take(path)
                except StoreError as error:
                    logger.warning("cannot deliver from a file of the queue: error=%s", error)
            if self.accepts:
                await self._let_go_of_idle()
            await self._time.wait(wake, self._time.now() + _LOOK)
            wake.clear()

    async def _take(self, path: Path) -> None:
        """Deliver from a file, unless a process does. Raises `StoreError`."""
        own = self._own if self._own is not None and self._own.path == path else None
        depot = own or self._adopted.get(path)
        if depot is not None and depot.delivers:
            return
        if own is None and self.accepts and not await asyncio.to_thread(_has_mail, path):
            return
        lock = Lock.taken(path, "deliver")
        if lock is None:
            return
        try:
            if depot is None:
                depot = await asyncio.to_thread(Depot.opened, path, None)
            await depot.deliver(
                lock,
                self._inner.by_name["on_message"],
                self._terms,
                self._time,
                self._meter.counts,
                streams=self._inner.streams,
            )
        except BaseException:
            lock.release()
            raise
        if own is None:
            self._adopted[path] = depot
            logger.info("delivering from %s", path)

    async def _let_go_of_idle(self) -> None:
        """Let go of the files of others from which all is delivered."""
        for path, depot in list(self._adopted.items()):
            if depot.is_idle or not depot.delivers:
                del self._adopted[path]
                await depot.close()


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


def _read(message: Message, update: Callable[[bytes], object]) -> bytes:
    body = message.file.read()[len(message.trace) :]
    update(body)
    return body


def _has_mail(path: Path) -> bool:
    """Return whether something in a file is to be delivered."""
    try:
        with contextlib.closing(ledger.connect(path, writes=False)) as database:
            return ledger.has_mail(database)
    except sqlite3.OperationalError:
        return False  # locked, or not ready: there is another look later
    except sqlite3.DatabaseError:
        return True  # no queue, or damaged, which is an error once it is opened


def _positive(option: str, value: Duration) -> float:
    found = seconds_in(option, value)
    if not found > 0:
        raise ValueError(f"{option}: {value!r}: write more than 0 seconds")
    return found


def _whole(option: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{option}: {value!r}: write a whole number that is {least} or more")
    return value
