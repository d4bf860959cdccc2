"""The command line: the only package that may import everything, and the only one with click.

`ehlo` prints each message that arrives; `ehlo serve module:attr` runs your handler or server. This
package sets up logging, and no other does.
"""

from ehlo.cli.commands import main

__all__ = ["main"]
