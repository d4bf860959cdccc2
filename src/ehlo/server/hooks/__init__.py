"""What a handler is asked: its hooks, a run of one, and what its result means.

No hook of a session is called anywhere else.
"""
