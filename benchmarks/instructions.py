#!/usr/bin/env python3
"""What one plain transaction costs in the core, in instructions: a figure that a busy machine does
not move.

`python benchmarks/instructions.py` runs itself under valgrind's callgrind, once with few
transactions and once with many, and prints what each one more has cost. `--src DIR` measures
another tree, to compare with.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FEW, MANY = 100, 300

TRANSACTION = (
    b"MAIL FROM:<sender@example.com>\r\n",
    b"RCPT TO:<recipient@example.com>\r\n",
    b"DATA\r\n",
    b"Subject: hello\r\n\r\n" + b"x" * 68 + b"\r\n" + b"line\r\n" * 160 + b".\r\n",
)


def run(transactions: int) -> None:
    """What is measured: one kept connection, as a server drives it."""
    from ehlo.protocol import events
    from ehlo.protocol.connection import Connection
    from ehlo.protocol.settings import Settings

    connection = Connection(Settings(), lambda: "nonce", asks=frozenset({events.Mail}))
    waiting = events.Waiting
    for packet in (b"", b"EHLO client.example\r\n", *TRANSACTION * transactions):
        connection.receive_data(packet)
        while not isinstance(event := connection.next_event(), waiting):
            if isinstance(event, events.Mail | events.MessageEnd):
                connection.reply()
        connection.data_to_send()


def counted(src: Path, transactions: int) -> int:
    """Instructions of a whole process."""
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"),
                *(sys.executable, __file__, "--run", str(transactions)),
            ],
            env={**os.environ, "PYTHONPATH": str(src), "PYTHONHASHSEED": "0"},
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    total = re.search(r"Collected : (\d+)", found.stderr)
    if total is None:
        raise RuntimeError(found.stderr)
    return int(total[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Instructions of a plain transaction in the core.")
    parser.add_argument("--src", type=Path, default=Path(__file__).parents[1] / "src")
    parser.add_argument("--run", type=int, metavar="N", help="be what is measured")
    given = parser.parse_args()
    if given.run is not None:
        run(given.run)
        return
    more = counted(given.src, MANY) - counted(given.src, FEW)
    print(f"{more // (MANY - FEW):,} instructions per transaction")


if __name__ == "__main__":
    main()
