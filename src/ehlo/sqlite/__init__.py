"""Files of SQLite that ehlo writes: one thread writes to each, and errors are in words.

The store of the inbox and the queue are built on it. It knows nothing of mail.
"""
