"""What is told of a running server: its log, its counts, and the windows that show them.

It looks on: nothing here changes what a client is answered.
"""
