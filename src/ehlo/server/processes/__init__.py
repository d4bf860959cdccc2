"""One server as several processes: a parent that binds and watches, and workers that serve.

A worker runs a `Server` like any other, and is told by its parent alone.
"""
