"""Archives mail in PostgreSQL, which has the queue, too: the handler of all processes.

Front ends accept with `ehlo serve app:Archive`, consumers deliver with `ehlo work app:Archive`;
compose.yaml next to this file starts two of each, behind HAProxy. The URL of the queue is in
EHLO_QUEUE, which ehlo removes from the environment, and that of the archive in DATABASE_URL.
"""

import os

import asyncpg

import ehlo

SCHEMA = """
SELECT pg_advisory_xact_lock(4711);  -- several processes start at once
CREATE TABLE IF NOT EXISTS archive (
    digest text PRIMARY KEY, accepted timestamptz, sender text, subject text, raw bytea
)"""
INSERT = """
INSERT INTO archive VALUES ($1, to_timestamp($2), $3, $4, $5) ON CONFLICT DO NOTHING"""


class Archive(ehlo.Handler):
    """Files each message once, in whichever process has it."""

    pool: asyncpg.Pool

    async def on_startup(self, server: object) -> None:
        self.pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=0, max_size=8)
        await self.pool.execute(SCHEMA)

    async def on_rcpt(self, session: ehlo.Session, recipient: ehlo.Address, params: object) -> None:
        if recipient.domain.lower() != "archive.example.com":
            raise ehlo.Reject(550, "5.7.1", "No relaying")

    async def on_message(  # type: ignore[override]  # only a queue calls it
        self, session: ehlo.Session, message: ehlo.QueuedMessage
    ) -> None:
        subject = message.content.subject.replace("\0", "")  # PostgreSQL stores none in text
        row = message.digest, message.accepted, str(message.sender), subject, message.data
        await self.pool.execute(INSERT, *row)

    async def on_shutdown(self, server: object) -> None:
        await self.pool.close()
