"""`make run` installs what running needs and no more, and says how to send a first mail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.program import Start

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or not (ROOT / "Makefile").exists(), reason="needs make"
)


_OF_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # where `make` runs the tests


def made(target: str, place: Path) -> str:
    """Return the commands that `make` would run where nothing is installed."""
    command = ["make", "--dry-run", "--no-print-directory", target, f"VENV={place / 'venv'}"]
    own = {name: text for name, text in os.environ.items() if name not in _OF_MAKE}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, check=True, text=True)
    return done.stdout


def test_make_run_installs_the_inbox_and_no_more(tmp_path: Path) -> None:
    text = made("run", tmp_path)
    assert text.count("pip install") == 1
    assert "pip install --quiet --editable '.[inbox]'\n" in text
    assert "with what running it needs: about 15 seconds" in text
    assert text.rstrip().endswith("/venv/bin/ehlo")


def test_make_test_says_how_long_it_takes(tmp_path: Path) -> None:
    assert "minutes" in made("test", tmp_path).splitlines()[0]


def test_the_first_mail_that_make_run_names_arrives(tmp_path: Path, start: Start) -> None:
    text = made("run", tmp_path).replace("\\\n", "")
    shown = next(line for line in text.splitlines() if line.startswith("printf"))
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "ehlo").symlink_to(Path(sys.executable).with_name("ehlo"))
    said = subprocess.run(["sh", "-c", shown], capture_output=True, check=True, text=True).stdout
    command = said.splitlines()[-1]
    program = start("-m", "ehlo", "--addr", "127.0.0.1:0", env={"EHLO_NO_WEB": "0"})
    assert "http://127.0.0.1:" in program.err.until("showing mail on")
    host, port = program.listening()
    env = {"EHLO_SMTP": f"{host}:{port}", "PATH": "/usr/bin:/bin"}
    subprocess.run(["sh", "-c", command], check=True, env=env, cwd=tmp_path)
    assert program.stop() == 0
    assert "Subject: Hello\n\nIt works.\n" in program.out.text
