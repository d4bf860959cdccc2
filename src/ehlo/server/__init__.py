"""A server on asyncio: where bytes come from, and where replies go.

Here are a server's life and the way of a message: `server`, `run`, `driver`, `answer`. They import
from the packages below. Of these, `workers` alone imports from here, to run a server as a worker.
"""
