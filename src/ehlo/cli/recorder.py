"""`ehlo serve --record DIR`: writes each session as a dialogue, when it has ended."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, cast

import click

from ehlo import paths
from ehlo.cli.flags import Given, fields_of
from ehlo.cli.running import checked
from ehlo.cli.values import Directory
from ehlo.handler import Callbacks, Composed
from ehlo.net import addresses_of, parse_address
from ehlo.protocol.settings import Settings
from ehlo.server.options.config import option
from ehlo.server.options.rules import Rules
from ehlo.server.options.target import callbacks_of, with_handler
from ehlo.server.server import Server
from ehlo.session import Session
from ehlo.testing import dialogue

_MOST: Final = 10_000  # files of one run: clients must not fill the disk
_NUMBERS: Final = ("max_size", "max_recipients", "max_recipient_domains", "max_messages")
_LIMITS: Final = {
    "slow_errors": "slow_errors",
    "max_errors": "errors",
    "max_refused_recipients": "refused_recipients",
    "max_idle_commands": "idle_commands",
}
_FLAGS: Final = ("strict_eol", "lenient_addresses", "tls_required", "auth_required", "lmtp")

logger: logging.Logger = logging.getLogger("ehlo.server")


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """Holds the options of recordings."""

    record: Annotated[str, Directory(for_files=True)] | None = option(
        None, group="Logging and metrics"
    )
    """Directory to write each session to, as a dialogue for ehlo replay. Secrets and messages are
    left out unless --transcripts shows them."""
    record_addresses: Literal["keep", "replace"] = option("keep", group="Logging and metrics")
    """Whether recordings keep the addresses of people and machines, or replace them."""


def add_recorder(server: Server, given: Given) -> None:
    """Let the server record its sessions, if a directory is given. Raises `click.UsageError`."""
    own = RecordOptions(**fields_of(RecordOptions, given))
    if own.record is None:
        return
    replaces = own.record_addresses == "replace"
    options = server.options
    if options.transcripts == "off":
        server.configure(transcripts="masked")
    elif options.transcripts == "full" and replaces:
        raise click.UsageError(
            "--record-addresses replace cannot be combined with --transcripts full, because logins "
            "have names; use --transcripts bodies"
        )
    callbacks = checked(lambda: callbacks_of(with_handler(server.options)))
    recorder = Recorder(server, Path(own.record), replace=replaces)
    server.configure(handler=Composed(recorder.around(callbacks)), factory=False)


class Recorder:
    """Writes the sessions of a server to files in a directory."""

    def __init__(self, server: Server, directory: Path, *, replace: bool) -> None:
        self._server = server
        self._directory = directory
        self._replace = replace
        self._numbers = itertools.count(1)

    def around(self, callbacks: Callbacks) -> Callbacks:
        """Return the hooks with a recording before `on_disconnect`."""
        inner = callbacks.by_name.get("on_disconnect")

        def record(session: Session) -> object:
            self.record(session)
            return None if inner is None else inner(session)

        async def record_in_thread(session: Session) -> object:
            await asyncio.to_thread(self.record, session)
            return await cast("Callable[[Session], Awaitable[object]]", inner)(session)

        hook = record_in_thread if inspect.iscoroutinefunction(inner) else record
        return replace(callbacks, by_name={**callbacks.by_name, "on_disconnect": hook})

    def record(self, session: Session) -> None:
        """Write the session to a file of its own; log why if that fails."""
        transcript, number = session.transcript, next(self._numbers)
        if transcript is None or not len(transcript) or number > _MOST:
            if number == _MOST + 1:
                logger.warning("recording stopped: files=%d", _MOST)
            return
        began = datetime.fromtimestamp(transcript[0].time, UTC)
        peer = "" if self._replace else f" {session.peer}"
        title = f"{began:%Y-%m-%d %H:%M:%S}{peer} {session.id}"
        scenario = dialogue.record(
            transcript, title, self._given(session), replace_addresses=self._replace
        )
        path = self._directory / f"{began:%Y%m%dT%H%M%S}-{session.id}.smtp"
        try:
            with os.fdopen(paths.create(str(path), 0o600), "wb") as file:
                file.write(dialogue.text_of([scenario]).encode())
        except OSError as error:
            logger.error("session not recorded: file=%s reason=%s", path, error.strerror)

    def _given(self, session: Session) -> list[str]:
        run = self._server.running
        services = [] if run is None else run.services
        for routes in services:
            addresses = map(parse_address, addresses_of(routes.rules.options.addr))
            if len(services) == 1 or any(each.port == session.local.port for each in addresses):
                return list(given_of(routes.rules))
        return []


def given_of(rules: Rules) -> Iterator[str]:
    """Yield the settings of a dialogue: the rules that differ from the usual ones."""
    settings, usual, options = rules.settings, Settings(), rules.options
    for name in _NUMBERS:
        if getattr(settings, name) != getattr(usual, name):
            yield f"{name} {getattr(settings, name)}"
    for name, field in _LIMITS.items():
        if getattr(settings.limits, field) != getattr(usual.limits, field):
            yield f"{name} {getattr(settings.limits, field)}"
    if settings.bare_newlines is not usual.bare_newlines:
        yield f"bare_newlines {settings.bare_newlines.value}"
    own = any(row.mail or row.rcpt for row in options.own_extensions)
    if settings.ignore_unknown_params or own:
        yield "unknown_params ignore"
    yield from (name for name in _FLAGS if getattr(settings, name))
    if settings.tls_available or options.tls_listener:
        yield "tls_listener" if options.tls_listener else "tls"
    listed = {
        "auth": " ".join(settings.mechanisms),
        "open": " ".join(sorted(settings.open_mechanisms)),
        "own": " ".join(sorted(settings.own_verbs)),
        "extensions": ", ".join(_offer(*each) for each in (options.extensions or {}).items()),
    }
    yield from (f"{name} {value}" for name, value in listed.items() if value)


def _offer(keyword: str, choice: bool | str) -> str:
    if choice is False:
        return f"{keyword}=off"
    return keyword if choice is True else f"{keyword}={choice}"
