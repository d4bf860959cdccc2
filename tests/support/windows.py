"""Hides from this process what Python lacks on Windows. Run it before `ehlo` is imported.

The standard library keeps what it needs itself: it has other code there.
"""

# ruff: noqa: F401  modules of the standard library are imported before anything is hidden

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.util
import logging.handlers
import multiprocessing
import os
import pathlib
import pickle
import selectors
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import Any

MODULES = {"pwd", "grp", "fcntl", "resource", "termios", "tty", "syslog", "uvloop"}
NAMES: dict[Any, str] = {
    os: "O_DIRECTORY O_NOFOLLOW O_CLOEXEC O_NONBLOCK O_PATH getuid geteuid getgid getegid "
    "getresuid chown fchown fchmod fstatvfs sysconf fork pread pwrite preadv pwritev set_blocking "
    "getgroups setuid memfd_create sched_getaffinity",
    socket: "AF_UNIX SOCK_CLOEXEC SOCK_NONBLOCK SO_REUSEPORT",
    signal: "SIGHUP SIGURG SIGQUIT SIGKILL SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE pthread_kill "
    "siginterrupt",
}
# What a proactor lacks
METHODS = "add_signal_handler remove_signal_handler add_reader remove_reader create_unix_server"


class _Hiding(MetaPathFinder):
    def find_spec(self, name: str, _path: Sequence[str] | None, _target: object = None) -> None:
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def hide() -> None:
    """Hide it."""
    find, pair, family = importlib.util.find_spec, socket.socketpair, socket.AF_UNIX
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Hiding())
    changed: Any = importlib.util
    changed.find_spec = lambda name, *more: None if name in MODULES else find(name, *more)
    for module, names in NAMES.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    os.supports_dir_fd = set()
    changed = os
    changed.process_cpu_count = os.cpu_count  # which asks for `sched_getaffinity`, if that is there
    changed = socket
    changed.socketpair = lambda *_: pair(family)
    for name in METHODS.split():
        setattr(asyncio.SelectorEventLoop, name, _missing)


def _missing(*_arguments: object, **_more: object) -> None:
    raise NotImplementedError


hide()
