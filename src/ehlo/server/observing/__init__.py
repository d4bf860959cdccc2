"""Observes a running server: its log, its counts, and the sockets that show them.

Nothing here changes a reply.
"""
