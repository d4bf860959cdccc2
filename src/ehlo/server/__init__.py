"""A server on asyncio: where bytes come from, and where replies go.

Here are a server's life and the way of a message: `server`, `life`, `driver`, `dispatch`. They look
into the packages below; no package looks up at them but for a type, or to run a server as a worker.
"""
