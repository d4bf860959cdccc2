"""Taking mail from PostgreSQL: claims, outcomes, and what else consumers and people change.

Claims and outcomes do not wait for the disk: after a crash of the server, some of the last second
are done again, as after any crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, get_args

from ehlo.queue.entries import (
    ENDED,
    PLACES,
    Act,
    Claimed,
    Due,
    Haul,
    Levels,
    Settled,
    State,
)
from ehlo.queue.timing import LONGEST

if TYPE_CHECKING:
    from ehlo.queue.postgres.cable import Pg

_SMALL: Final = 65_536  # bytes of a body that comes with the claim
_SLICE: Final = 1_000  # deliveries that are deleted at once
_SOON: Final = "asked AS (SELECT set_config('synchronous_commit', 'off', true))"

_FREE: Final = f"message * {PLACES} + place <> ALL ($6::bigint[])"

# The rows of other recipients of a message are leased with the first one. Rows that another
# consumer is about to lease are left out, so two consumers may share the recipients of a message.
# Rows of the owner itself are leased again, too, unless they are under way there, although their
# lease has run out: a crash of the server may have undone their end. Without LATERAL and
# unnest, the planner would read all rows, since it takes nearly all to be due: 50 ms for 100,000.
_CLAIM: Final = f"""
WITH {_SOON}, due AS MATERIALIZED (
    SELECT message, place FROM ehlo_deliveries
    WHERE due <= now() AND {_FREE} ORDER BY due LIMIT $2
    FOR UPDATE SKIP LOCKED
), wanted AS MATERIALIZED (
    SELECT d.* FROM (SELECT DISTINCT message FROM due) AS m, LATERAL (
        SELECT message, place FROM ehlo_deliveries
        WHERE message = m.message AND due <= now() AND {_FREE}
        FOR UPDATE SKIP LOCKED
    ) AS d
)
UPDATE ehlo_deliveries AS d SET
    state = CASE WHEN attempts < $3 THEN 'running' ELSE 'dead' END,
    owner = CASE WHEN attempts < $3 THEN $1 END,
    due = CASE WHEN attempts < $3 THEN now() + $4 * interval '1 second' END,
    ended = CASE WHEN attempts < $3 THEN NULL ELSE now() END,
    error = CASE WHEN attempts < $3 OR error <> '' THEN error ELSE $5 END,
    attempts = CASE WHEN attempts < $3 THEN attempts + 1 ELSE attempts END
FROM asked, unnest(ARRAY(SELECT message FROM wanted), ARRAY(SELECT place FROM wanted))
    AS w(message, place)
WHERE d.message = w.message AND d.place = w.place
RETURNING d.message, d.place, d.recipient, d.attempts, d.state = 'dead'
"""
_READ: Final = """
SELECT number, id, digest, extract(epoch FROM accepted)::float8, sender, facts, size, trace,
    CASE WHEN size <= $2 THEN body END,
    CASE WHEN size > $2 THEN CASE WHEN body IS NULL THEN 'chunks' ELSE 'row' END END,
    extract(epoch FROM now() - accepted)::float8
FROM ehlo_messages WHERE number = ANY($1) ORDER BY accepted, number
"""
_RENEW: Final = f"""
WITH {_SOON}
UPDATE ehlo_deliveries AS d SET due = now() + $4 * interval '1 second'
FROM unnest($1::bigint[], $2::integer[]) AS s(message, place), asked
WHERE d.message = s.message AND d.place = s.place AND d.owner = $3
"""
# This statement still sees the deliveries that it deletes, so they are counted
_DELETE_EMPTY: Final = """
, counted AS (
    SELECT message, count(*) AS number FROM gone GROUP BY message
), empty AS (
    DELETE FROM ehlo_messages AS m USING counted
    WHERE m.number = counted.message AND counted.number = (
        SELECT count(*) FROM ehlo_deliveries AS d WHERE d.message = counted.message
    )
    RETURNING m.number, m.body IS NULL AS is_large
), bodies AS (
    DELETE FROM ehlo_bodies AS b USING empty WHERE empty.is_large AND b.message = empty.number
)
SELECT count(*) FROM gone
"""
_DONE: Final = f"""
WITH {_SOON}, gone AS (
    DELETE FROM ehlo_deliveries AS d
    USING unnest($1::bigint[], $2::integer[]) AS s(message, place), asked
    WHERE d.message = s.message AND d.place = s.place AND d.owner = $3
    RETURNING d.message, d.place
) {_DELETE_EMPTY}
"""
_OTHERWISE: Final = f"""
WITH {_SOON}
UPDATE ehlo_deliveries AS d SET
    state = s.state,
    due = CASE WHEN s.state = 'waiting' THEN now() + s.wait * interval '1 second' END,
    ended = CASE WHEN s.state <> 'waiting' THEN now() END,
    error = CASE WHEN s.uncounted THEN d.error ELSE s.error END,
    owner = NULL,
    attempts = d.attempts - s.uncounted::integer
FROM unnest($1::bigint[], $2::integer[], $4::text[], $5::float8[], $6::text[], $7::boolean[])
    AS s(message, place, state, wait, error, uncounted), asked
WHERE d.message = s.message AND d.place = s.place AND d.owner = $3
"""
_PURGE: Final = f"""
WITH old AS MATERIALIZED (
    SELECT message, place FROM ehlo_deliveries
    WHERE ended < now() - $1 * interval '1 second' LIMIT $2
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM ehlo_deliveries AS d USING old
    WHERE d.message = old.message AND d.place = old.place
    RETURNING d.message, d.place
) {_DELETE_EMPTY}
"""
# If two consumers end the last two recipients of a message at once, each of them still sees the
# delivery of the other one, and neither deletes the message
_SWEEP: Final = """
WITH empty AS (
    DELETE FROM ehlo_messages AS m
    WHERE NOT EXISTS (SELECT FROM ehlo_deliveries AS d WHERE d.message = m.number)
    RETURNING number
)
DELETE FROM ehlo_bodies AS b USING empty WHERE b.message = empty.number
"""
_LEVELS: Final = """
SELECT state, count(*), extract(epoch FROM now() - min(due))::float8
FROM ehlo_deliveries GROUP BY state
"""
_CHOSEN: Final = "message IN (SELECT number FROM ehlo_messages WHERE id = $1)"
_ENDED: Final = "$1::text IS NULL AND state IN ('failed', 'dead')"
_CHANGES: Final[dict[str, str]] = {
    "retry": "UPDATE ehlo_deliveries SET state = 'waiting', due = now(), attempts = 0, ended = NULL"
    " WHERE state <> 'running'",
    "hold": "UPDATE ehlo_deliveries SET state = 'held', due = NULL WHERE state = 'waiting'",
    "drop": "DELETE FROM ehlo_deliveries WHERE true",
}


async def claim(
    connection: Pg, owner: str, most: int, lease: float, most_attempts: int, held: Sequence[int]
) -> tuple[list[Due], dict[int, list[Due]]]:
    """Return the deliveries that are dead, and by message those that are leased from now on.

    Those in `held` are left alone.
    """
    rows = await connection.fetch(_CLAIM, owner, most, most_attempts, lease, ENDED, held)
    dead: list[Due] = []
    due: dict[int, list[Due]] = {}
    for message, place, recipient, attempts, is_dead in sorted(rows):
        each = Due(message * PLACES + place, recipient, attempts)
        if is_dead:
            dead.append(each)
        else:
            due.setdefault(message, []).append(each)
    return dead, due


async def read(connection: Pg, dead: Sequence[Due], due: dict[int, list[Due]], most: int) -> Haul:
    """Return what was claimed, with the messages; `most` is how much was asked for."""
    gone = {each.number // PLACES for each in dead}
    rows = await connection.fetch(_READ, [*due, *gone], _SMALL) if due or gone else []
    ids = {row[0]: row[1] for row in rows}
    claimed = [Claimed._make([*row, due[row[0]], None]) for row in rows if row[0] in due]
    died = [(ids.get(each.number // PLACES, ""), each.recipient) for each in dead]
    is_full = sum(map(len, due.values())) + len(dead) >= most
    return Haul(claimed, 0.0 if is_full else None, died)


async def renew(connection: Pg, numbers: Sequence[int], owner: str, lease: float) -> None:
    """Extend leases."""
    await connection.execute(_RENEW, *_places(numbers), owner, lease)


async def settle(connection: Pg, settled: Sequence[Settled], owner: str) -> None:
    """Note the ends of attempts."""
    done = [each.number for each in settled if each.state is None]
    others = [each for each in settled if each.state is not None]
    if done:
        await connection.fetchval(_DONE, *_places(done), owner)
    if others:
        await connection.execute(
            _OTHERWISE,
            *_places([each.number for each in others]),
            owner,
            [each.state for each in others],
            [each.wait for each in others],
            [text_of(each.error) for each in others],
            [each.uncounted for each in others],
        )


async def purge(connection: Pg, keep: float) -> bool:
    """Delete a slice of what ended long ago; with the last one, messages that no delivery needs.

    Returns whether more may be left.
    """
    if keep < LONGEST and await connection.fetchval(_PURGE, keep, _SLICE) == _SLICE:
        return True
    await connection.execute(_SWEEP)
    return False


async def levels(connection: Pg) -> Levels:
    """Return how many deliveries there are."""
    found: dict[str, float] = dict.fromkeys((*get_args(State), "oldest_due"), 0.0)
    for state, count, late in await connection.fetch(_LEVELS):
        found[state] = count
        if state == "waiting":
            found["oldest_due"] = max(0.0, late)
    return found


async def change(connection: Pg, what: Act, message_id: str | None) -> int:
    """Retry, hold or drop deliveries; return how many have changed. It waits for the disk."""
    chosen = _ENDED if message_id is None else _CHOSEN
    changed = f"WITH gone AS ({_CHANGES[what]} AND {chosen} RETURNING message, place)"
    rest = _DELETE_EMPTY if what == "drop" else " SELECT count(*) FROM gone"
    count: int = await connection.fetchval(changed + rest, message_id)
    return count


def text_of(text: str) -> str:
    """Return a text as PostgreSQL holds it: without NUL, and without half of a character."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _places(numbers: Sequence[int]) -> tuple[list[int], list[int]]:
    return [each // PLACES for each in numbers], [each % PLACES for each in numbers]
