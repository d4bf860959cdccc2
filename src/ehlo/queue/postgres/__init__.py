"""A queue on PostgreSQL: one database for any number of front ends and consumers, by asyncpg.

The clock of the database decides what is due. Nothing that a session holds is relied on, so that a
pooler may be in between.
"""
