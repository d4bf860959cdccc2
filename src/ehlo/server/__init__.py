"""A server on asyncio: where bytes come from, and where replies go.

A server's life is in `server` and `run`, the way of a message in `driver` and `answer`. They import
from the packages below. No package but `workers` imports from them.
"""
