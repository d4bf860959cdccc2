"""Archives mail: a queue on SQLite takes it before the 250, and a handler files it afterwards.

If archive.db is locked or the disk is full, the mail stays in the queue and is tried again. A mail
that is delivered twice, or sent twice, has the same digest and is filed once.
"""

import logging
import sqlite3
import sys
from contextlib import closing

import ehlo

SCHEMA = """
CREATE TABLE IF NOT EXISTS mail (
    digest TEXT PRIMARY KEY, accepted REAL, sender TEXT, subject TEXT, raw BLOB
)"""


def archive(message: ehlo.QueuedMessage) -> None:
    """File one message; an exception leaves it in the queue."""
    row = message.digest, message.accepted, str(message.sender), message.content.subject
    with closing(sqlite3.connect("archive.db", timeout=30)) as database:
        database.execute(SCHEMA)
        database.execute("INSERT OR IGNORE INTO mail VALUES (?, ?, ?, ?, ?)", (*row, message.data))
        database.commit()


logging.basicConfig(level=logging.INFO)
addr = sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525"
ehlo.Server(ehlo.Queue("mail.db", archive), addr=addr).listen_and_serve()
