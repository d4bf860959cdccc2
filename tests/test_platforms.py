"""A Python without the modules that only POSIX systems have, such as that of Windows."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIDING = """
import importlib.abc, sys
hidden = {"pwd", "grp", "fcntl", "resource", "termios", "uvloop"}
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
for name in hidden:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Hide())
import ehlo
"""
SERVING = """
with ehlo.Server(lambda *_: None, addr="127.0.0.1:0", loop="asyncio").in_thread() as server:
    assert server.addresses
"""


@pytest.mark.parametrize(
    "more", ["ehlo.Server, ehlo.listen_and_serve", "ehlo.Handler", "ehlo.PasswordFile", SERVING]
)
def test_ehlo_does_without_them(more: str) -> None:
    subprocess.run([sys.executable, "-c", f"{HIDING}{more}"], check=True, timeout=60)
