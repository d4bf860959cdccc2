"""Describes the machine of a run, which absolute times depend on."""

import os
import platform
import ssl
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from load import program
from measure import cores


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _postfix() -> str:
    command = [program("postconf"), "-d", "-h", "mail_version"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _cores() -> str:
    server, load = cores()
    return f"{os.cpu_count()}; servers on core {server}, load on core {load}"


def machine() -> dict[str, str]:
    """Return the facts about the machine, by name."""
    return {
        "Date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "CPU": _cpu_model(),
        "Cores": _cores(),
        "Kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "OpenSSL": ssl.OPENSSL_VERSION,
        "ehlo": _version("ehlo"),
        "aiosmtpd": _version("aiosmtpd"),
        "uvloop": _version("uvloop"),
        "Postfix": _postfix(),
    }
