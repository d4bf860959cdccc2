"""The files that a server reads, and reads again: certificates, passwords, and those of its log.

Files are reloaded in one thread, one after the other, so that a slow disk delays no client. Where
reloading fails, what was read before stays in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from ehlo.passwords.file import PasswordFile
from ehlo.server.observing import journal
from ehlo.server.observing.failures import log_failure
from ehlo.server.system.threads import Threads
from ehlo.server.tls.certificates import Certificate, Holder, TLSConfig, file_context

if TYPE_CHECKING:
    from logging.handlers import WatchedFileHandler

LOOK_EVERY = 2.0  # seconds between two looks at the files of certificates

logger: logging.Logger = logging.getLogger("ehlo.server")

Step = Callable[[], bool]
"""Reloads something, and returns whether that worked. It logs a failure, and does not raise it."""


class Files:
    """Holds what the listeners of a server share, read once: TLS contexts and password files.

    All of them are reloaded on request, and certificates also when they have changed.
    """

    def __init__(self, salt_key: bytes = b"") -> None:
        self.salt_key: bytes = salt_key or secrets.token_bytes(32)
        """The secret of the salts for SCRAM where there is no password file. An unknown user has
        the same salt on each listener, and in each worker, as one has whose keys are stored."""
        # By the identity of their configuration, or the files of certificates and keys
        self._holders: dict[int | tuple[tuple[str, str], ...], Holder] = {}
        self._passwords: dict[str, PasswordFile] = {}
        self._threads = Threads(1, "ehlo-reload")
        self._watching: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def holder(
        self, config: TLSConfig | None, certificates: Sequence[tuple[str, str]] = ()
    ) -> Holder | None:
        """Return what holds the context of `config`, or that of certificates and their keys.

        Raises what a user's function raises, and as `file_context` does.
        """
        key = tuple(certificates) or id(config)
        if config is None and not certificates:
            return None
        if key not in self._holders:
            made = config or file_context(tuple(Certificate(*each) for each in certificates))
            self._holders[key] = Holder(made)
        return self._holders[key]

    def password_file(self, path: str) -> PasswordFile:
        """Return the `auth_file` at `path`, read. Raises `ValueError`."""
        if not path:
            raise ValueError(
                "auth_file is empty; name a file that ehlo passwd writes, or leave it out"
            )
        if path not in self._passwords:
            passwords = PasswordFile(path)
            try:
                passwords.load()
            except ValueError as error:  # it begins with the path
                raise ValueError(f"auth_file {error}; write it by ehlo passwd") from error
            if passwords.scram_algorithms and not passwords.has_secret:
                logger.warning(
                    "%s has no secret for the salts of unknown users; they may change with its "
                    "first line. Set a password by `ehlo passwd`, which adds it",
                    json.dumps(path),
                )
            self._passwords[path] = passwords
        return self._passwords[path]

    def watch(self) -> None:
        """Start to look for changes in the running loop, if there is anything to look at."""
        if self._watching is None and any(each.is_watched for each in self._holders.values()):
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    def reload(self) -> Future[bool]:
        """Reload everything, in any thread; the result is whether all of it worked."""
        renewals = [holder.renew for holder in self._holders.values()]
        passwords = [partial(_renew_passwords, each) for each in self._passwords.values()]
        return self._run([reopen_logs, *renewals, *passwords])

    def stop(self) -> None:
        """Stop reloading."""
        with self._lock:
            self._stopped = True
            self._threads.stop()
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await asyncio.wrap_future(self._run([each.look for each in self._holders.values()]))

    def _run(self, steps: Sequence[Step]) -> Future[bool]:
        done: Future[bool] = Future()
        done.set_running_or_notify_cancel()  # it cannot be cancelled
        with self._lock:
            if not self._stopped:
                self._threads.submit(partial(_all_of, steps), partial(_settle, done))
                return done
        done.set_result(False)
        return done


def _all_of(steps: Sequence[Step]) -> bool:
    return all([step() for step in steps])  # noqa: C419  each runs, whichever fails


def _settle(done: Future[bool], result: bool | None, error: BaseException | None) -> None:
    if error is not None:
        with contextlib.suppress(OSError):  # it may be the log itself that fails
            log_failure(logger, error, "reloading failed")
    done.set_result(bool(result))


def _renew_passwords(passwords: PasswordFile) -> bool:
    try:
        passwords.load()
    except ValueError as error:
        journal.reload_failed("passwords", str(error))
        return False
    journal.reloaded("passwords", file=passwords.path)
    return True


def reopen_logs() -> bool:
    """Reopen the log files that were moved away, and return whether that worked."""
    from logging.handlers import WatchedFileHandler  # most programs never need it

    files = [each for each in logging.getLogger().handlers if isinstance(each, WatchedFileHandler)]
    return all([_reopen(each) for each in files])  # noqa: C419  as above


def _reopen(handler: WatchedFileHandler) -> bool:
    handler.acquire()
    try:
        handler.reopenIfNeeded()
    except OSError as error:
        with contextlib.suppress(OSError):  # this line may go to the same file
            journal.reload_failed("log", str(error))
        return False
    finally:
        handler.release()
    return True
