"""A user without privileges, and a house that the user can enter: root's own may be closed."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import idna
import pytest

import ehlo
from support.program import DEADLINE

__all__ = ["ACCOUNT", "open_house", "python_of_account"]

ACCOUNT = "nobody"  # of the system, without privileges


@functools.cache
def _installation() -> Path:
    """Return a copy of all that a server imports; it is deleted when this process ends."""
    directory = tempfile.TemporaryDirectory()
    atexit.register(directory.cleanup)
    for package in (ehlo, click, idna):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, Path(directory.name) / source.name)
    return Path(directory.name)


@contextlib.contextmanager
def _house() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        house = Path(name)
        # Directories of its own, and links to the files: that takes a tenth of copying them
        shutil.copytree(_installation(), house, copy_function=os.link, dirs_exist_ok=True)
        house.chmod(0o755)
        yield house


@pytest.fixture
def open_house() -> Iterator[Path]:
    """Return a directory that all users can read, with all that a server imports."""
    with _house() as house:
        yield house


@functools.cache
def python_of_account() -> str:
    """Return an interpreter that the account can run: this one may be in the home of root."""
    for python in (sys.executable, "/usr/bin/python3"):
        command = [python, "-c", "import asyncio, ssl, ehlo.cli"]
        with _house() as house, contextlib.suppress(PermissionError, subprocess.CalledProcessError):
            subprocess.run(
                command,
                env={"PYTHONPATH": str(house)},
                cwd=house,
                user=ACCOUNT,
                group=pwd.getpwnam(ACCOUNT).pw_gid,
                extra_groups=[],
                capture_output=True,
                timeout=DEADLINE,
                check=True,
            )
            return python
    pytest.skip(f"the user {ACCOUNT} can run no Python of this machine")
