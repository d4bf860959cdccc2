"""The schema on PostgreSQL, its version, and the settings without which nothing is durable.

The rows of deliveries change often, so they are narrow. Messages never change. A body over `LARGE`
bytes is in chunks, so that no process holds all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ehlo.sqlite.errors import StoreError

if TYPE_CHECKING:
    from ehlo.queue.postgres.cable import Pg

LARGE: Final = 1 << 20  # bytes
"""Bodies over this size are in chunks of this size."""
BLOCK: Final = 1_000
"""How many numbers of messages a process takes at once."""
_VERSION: Final = 1
_LOCK: Final = 0x65686C71  # "ehlq": front ends that start together make one schema
_VACUUM: Final = "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000"
_SCHEMA: Final = f"""
CREATE SEQUENCE ehlo_numbers INCREMENT BY {BLOCK};
CREATE TABLE ehlo_messages(
    number bigint PRIMARY KEY,
    id text NOT NULL,
    digest text NOT NULL,
    accepted timestamptz NOT NULL DEFAULT clock_timestamp(),
    sender text NOT NULL,
    facts text NOT NULL,
    size bigint NOT NULL,
    trace bytea NOT NULL,
    body bytea  -- null: in ehlo_bodies
) WITH ({_VACUUM}, toast.autovacuum_vacuum_scale_factor = 0.01);
ALTER TABLE ehlo_messages
    ALTER facts SET STORAGE EXTERNAL,
    ALTER trace SET STORAGE EXTERNAL,
    ALTER body SET STORAGE EXTERNAL;
CREATE INDEX ehlo_messages_by_id ON ehlo_messages(id);
CREATE TABLE ehlo_bodies(
    message bigint NOT NULL,
    part integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (message, part)
);
ALTER TABLE ehlo_bodies ALTER data SET STORAGE EXTERNAL;
CREATE TABLE ehlo_deliveries(
    message bigint NOT NULL,
    place integer NOT NULL,  -- among the recipients of the message, from 0
    attempts integer NOT NULL DEFAULT 0,
    due timestamptz DEFAULT statement_timestamp(),
    ended timestamptz,
    state text NOT NULL DEFAULT 'waiting',
    owner text,
    recipient text NOT NULL,
    error text NOT NULL DEFAULT '',
    PRIMARY KEY (message, place)
) WITH ({_VACUUM}, fillfactor = 80);
CREATE INDEX ehlo_deliveries_due ON ehlo_deliveries(due) WHERE due IS NOT NULL;
CREATE INDEX ehlo_deliveries_ended ON ehlo_deliveries(ended) WHERE ended IS NOT NULL;
CREATE TABLE ehlo_schema(version integer NOT NULL);
INSERT INTO ehlo_schema VALUES ({_VERSION});
"""

_FIND: Final = """
SELECT count(*) FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n
ON n.oid = c.relnamespace WHERE relname = 'ehlo_schema' AND nspname = ANY(current_schemas(false))
"""


async def ensure_schema(connection: Pg) -> None:
    """Make the tables, or check their version. Raises `StoreError`."""
    if not await has_schema(connection):
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            if not await has_schema(connection):
                await connection.execute(_SCHEMA)


async def has_schema(connection: Pg) -> bool:
    """Return whether the tables are there. Raises `StoreError` for those of a newer ehlo."""
    # By a query: `to_regclass` may look in a cache that a lock has outlived
    if not await connection.fetchval(_FIND):
        return False
    version = await connection.fetchval("SELECT version FROM ehlo_schema")
    if version is None or version > _VERSION:
        raise StoreError(
            f"made by a newer ehlo (schema {version}; this one knows {_VERSION}); "
            "upgrade ehlo, or name another database"
        )
    return True


async def check_durable(connection: Pg) -> None:
    """Raise `StoreError` if a commit need not survive a crash, or the database cannot be used."""
    names = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")
    columns = ", ".join(f"current_setting('{name}')" for name in (*names, "server_encoding"))
    row = await connection.fetchrow(f"SELECT {columns}, pg_is_in_recovery()")
    fsync, full_pages, commit, standbys, encoding, is_standby = row
    if fsync == "off" or full_pages == "off":
        wrong = "fsync" if fsync == "off" else "full_page_writes"
        raise StoreError(f"{wrong} is off, so a crash loses mail; set {wrong} = on")
    if commit == "off" or (commit == "local" and standbys):
        raise StoreError(
            f"synchronous_commit is {commit}, so a crash loses mail; set synchronous_commit = on"
        )
    if encoding != "UTF8":
        raise StoreError(f"the encoding is {encoding}; create the database with ENCODING 'UTF8'")
    if is_standby:
        raise StoreError("a standby, which cannot be written; name the primary server")
