"""`Hub`: passes on what changes in a store to all who listen, as the events of Mailpit.

It watches the store as long as somebody listens. What is kept for each of them is bounded, and so
is what waits here; when it is too much, listeners are told to read their lists again (`prune`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import metadata
from typing import Final, NamedTuple

from ehlo.inbox.answers import elsewhere
from ehlo.inbox.api.goform import to_text
from ehlo.inbox.api.shapes import summary_text
from ehlo.store import Change, Store, StoredMail, StoreError

MOST_BEHIND: Final = 256
"""Events that may wait for one client; with more, it is cut off."""
_MOST_WAITING: Final = 2_000  # changes that wait here
_MOST_AT_ONCE: Final = 200  # events that are made at once; then clients are served
_STATS_EVERY: Final = 0.25  # seconds
_MOST_ERRORS: Final = 20  # events about errors in a second; more are left out

_logger = logging.getLogger("ehlo.inbox")


class Notice(NamedTuple):
    """One event, as all clients get it."""

    kind: str
    """`new`, `stats`, `update`, `delete`, `prune`, `truncate`, `error` or `reload`; empty for a
    change of which nothing is to be told."""
    text: str
    """The event as JSON: `{"Type":…,"Data":…}`."""
    inbox: str | None = None
    """The inbox that it is about; `None` for any."""
    number: int = 0
    """The number of the change that it is about; 0 for none."""
    is_last: bool = False
    """Whether it is the last event of that change."""


class Hub:
    """Passes on the changes of a store; its methods are called in one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listeners: dict[Callable[[Notice], None], str | None] = {}
        self._lock = threading.Lock()
        self._waiting: list[Change] = []  # under the lock: the thread of the store appends
        self._is_told = False
        self._woken = asyncio.Event()
        self._changed = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._unwatch: Callable[[], None] | None = None
        self._errors = (0, 0)  # the second, and how many there were
        self._version = metadata.version("ehlo")

    @property
    def listeners(self) -> int:
        """The number of those who listen."""
        return len(self._listeners)

    @contextlib.contextmanager
    def listening(self, inbox: str | None, call: Callable[[Notice], None]) -> Iterator[None]:
        """Call `call` with each event about `inbox` (`None`: about all), until the block ends."""
        self._listeners[call] = inbox
        if self._unwatch is None:
            self._start()
        try:
            yield
        finally:
            del self._listeners[call]
            if not self._listeners:
                self._stop()

    def report_error(self, kind: str, address: str, message: str, level: str = "error") -> None:
        """Pass on that an SMTP client at `address` was refused with `message`."""
        if not self._listeners:
            return
        now = int(time.monotonic())
        second, count = self._errors
        self._errors = (now, count + 1 if second == now else 1)
        if self._errors[1] <= _MOST_ERRORS:
            data = {"Level": level, "Type": kind, "IP": address, "Message": message}
            self._publish(event_of("error", data))

    def tell_stats(self) -> None:
        """Pass on the counts soon, since one has changed that is not in the store."""
        self._changed.set()

    async def stats(self, inbox: str | None) -> Notice:
        """Return the event with the counts of an inbox."""
        counts = await self._store.counts(inbox)
        data = {"Total": counts.total, "Unread": counts.unread, "Version": self._version}
        return event_of("stats", data, inbox)

    async def events_after(self, number: int) -> list[Notice] | None:
        """Return the events after a change; `None` if they are too many, or no longer known."""
        changes = self._store.changes_after(number)
        if changes is None or sum(max(len(each.ids), 1) for each in changes) > MOST_BEHIND:
            return None
        return await self._events_of(changes)

    # -- what changes ------------------------------------------------------------------------------

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._woken, self._changed = asyncio.Event(), asyncio.Event()
        self._waiting, self._is_told = [], False
        woken = self._woken

        def note(changes: Sequence[Change]) -> None:
            """Note changes, in the thread of the store."""
            with self._lock:
                self._waiting += changes
                if len(self._waiting) > _MOST_WAITING:
                    last = self._waiting[-1]
                    self._waiting = [Change(last.number, "prune", None, ())]
                is_told, self._is_told = self._is_told, True
            if not is_told:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(woken.set)

        self._unwatch = self._store.watch(note)
        self._tasks = (loop.create_task(self._pass_on()), loop.create_task(self._tell_stats()))

    def _stop(self) -> None:
        if self._unwatch is not None:
            self._unwatch()
        for task in self._tasks:
            task.cancel()
        self._unwatch, self._tasks = None, ()

    async def _pass_on(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            with self._lock:
                changes, self._waiting = self._waiting, []
                self._is_told = False
            for some in _slices(changes):
                events = [event_of("prune", None)._replace(number=some[-1].number, is_last=True)]
                with _logged():  # without the mails, clients read their lists again
                    events = await self._events_of(some)
                for event in events:
                    self._publish(event)
                self._changed.set()
                await asyncio.sleep(0)  # clients are served

    async def _tell_stats(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            with _logged():
                for inbox in set(self._listeners.values()):
                    event = await self.stats(inbox)
                    for call, own in list(self._listeners.items()):
                        if own == inbox:
                            call(event)
            await asyncio.sleep(_STATS_EVERY)

    def _publish(self, event: Notice) -> None:
        for call, inbox in list(self._listeners.items()):
            seen = event_for(inbox, event)
            if seen is not None:
                call(seen)

    async def _events_of(self, changes: Sequence[Change]) -> list[Notice]:
        """Return the events of changes; of mails that are gone meanwhile there are none."""
        wanted = [mail_id for each in changes if each.kind != "delete" for mail_id in each.ids]
        mails = {each.id: each for each in await self._store.find(wanted)} if wanted else {}
        size = sum(len(each.summary) for each in mails.values())
        return await elsewhere(size, partial(_all_events, changes, mails))


class Subscription:
    """The events that one client has still to be sent; it is cut off when they are too many.

    Example:

        subscription = Subscription()
        with hub.listening(None, subscription.put):
            event = await subscription.get()
    """

    def __init__(self) -> None:
        self._events: deque[Notice] = deque()
        self._came = asyncio.Event()
        self.cut = asyncio.Event()
        """Set when the client is too slow."""

    def put(self, event: Notice) -> None:
        """Add an event."""
        if len(self._events) >= MOST_BEHIND:
            self._events.clear()
            self.cut.set()
        if not self.cut.is_set():
            self._events.append(event)
            self._came.set()

    async def get(self) -> Notice:
        """Return the next event, when there is one."""
        while not self._events:
            self._came.clear()
            await self._came.wait()
        return self._events.popleft()


def event_of(kind: str, data: object, inbox: str | None = None) -> Notice:
    """Return an event with its JSON."""
    return Notice(kind, to_text({"Type": kind, "Data": data}), inbox)


def event_for(inbox: str | None, event: Notice) -> Notice | None:
    """Return the event for a listener to `inbox` (`None`: all inboxes).

    Returns `None` if the event does not concern that listener. An inbox that was emptied leaves the
    mails of the others.
    """
    if inbox is None and event.kind == "truncate" and event.inbox is not None:
        return event._replace(kind="prune", text=event_of("prune", None).text)
    return event if inbox is None or event.inbox in (None, inbox) else None


def _all_events(changes: Sequence[Change], mails: Mapping[str, StoredMail]) -> list[Notice]:
    events: list[Notice] = []
    for change in changes:
        made = list(_events(change, mails)) or [Notice("", "")]
        numbered = [event._replace(number=change.number) for event in made]
        events += [*numbered[:-1], numbered[-1]._replace(is_last=True)]
    return events


def _events(change: Change, mails: Mapping[str, StoredMail]) -> Iterator[Notice]:
    kind, inbox = change.kind, change.inbox
    if kind == "prune":
        yield event_of("prune", None, inbox)
    elif kind == "truncate":
        yield event_of("truncate", None, inbox)
    elif kind == "delete":
        for mail_id in change.ids:
            yield event_of("delete", {"ID": mail_id}, inbox)
    else:
        for mail in filter(None, map(mails.get, change.ids)):
            if kind == "new":
                text = f'{{"Type":"new","Data":{summary_text(mail)}}}'
                yield Notice("new", text, mail.inbox)
            elif kind == "tags":
                yield event_of("update", {"ID": mail.id, "Tags": mail.tags}, mail.inbox)
            else:
                yield event_of("update", {"ID": mail.id, "Read": kind == "read"}, mail.inbox)


def _slices(changes: Sequence[Change]) -> Iterator[Sequence[Change]]:
    """Yield changes in slices, each of about so many events as are made at once."""
    some: list[Change] = []
    size = 0
    for change in changes:
        some.append(change)
        size += max(len(change.ids), 1)
        if size >= _MOST_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        _logger.warning("events cannot be read: %s", error)
