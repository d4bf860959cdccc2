"""What a server was told: its options, the frozen rules they become, and the files they name.

A mistake in them is found before anything listens.
"""
