"""Finds and runs the programs that these tests talk to."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

CHECKOUT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"
TIMEOUT = 60.0
"""Seconds that a program may take before it is killed."""

# Programs of the system, too, whatever the user's PATH is
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def peer(name: str) -> str:
    """Return the path of a program, or for a package of npm that of its `node_modules`.

    Without it the test is skipped, or fails where `EHLO_REQUIRE_PEERS=1` says that all are there.
    """
    is_package = name in ("nodemailer", "mailpit-api")
    found = node_modules(name) if is_package else shutil.which(name, path=_PATH)
    if found is None:
        absent(f"{name} is not installed; .ci/run does that")
    return found


def absent(why: str) -> NoReturn:
    """Skip the test, or fail it if peers are required: something is missing."""
    if os.environ.get("EHLO_REQUIRE_PEERS") == "1":
        pytest.fail(f"{why} (and EHLO_REQUIRE_PEERS=1)")
    pytest.skip(why)


def node_modules(package: str = "nodemailer") -> str | None:
    """Return the directory in which `.ci/peers` has installed a package of npm."""
    folder = Path(os.environ.get("EHLO_NODE_MODULES") or CHECKOUT / "node_modules")
    return str(folder) if (folder / package).is_dir() else None


def run(
    command: Sequence[str | Path],
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, with stdout and stderr together."""
    return subprocess.run(
        [str(part) for part in command],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PATH": _PATH, "LC_ALL": "C", **(env or {})},
        timeout=timeout,
        check=False,
    )
