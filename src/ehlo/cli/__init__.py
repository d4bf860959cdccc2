"""The command line: the only room that may import everything, and the only one that knows click.

`ehlo` prints each message as it comes, `ehlo serve module:attr` runs a handler or a server of
yours. Logging is set up here and nowhere else.
"""

from ehlo.cli.commands import main

__all__ = ["main"]
