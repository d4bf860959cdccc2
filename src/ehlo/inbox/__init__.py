"""The inbox: caught mail in a browser, and through an API that Mailpit's clients understand.

`Desk` is what all parts share. `make_site` makes of it an ASGI application with the API, its
events and the pages. No other package imports this one, except the command line.
"""

from __future__ import annotations

try:
    from ehlo.inbox.catcher import Catcher
    from ehlo.inbox.desk import Desk, Traffic, WebOptions
    from ehlo.inbox.site import make_site
except ModuleNotFoundError as error:
    missing = (error.name or "ehlo").partition(".")[0]
    if missing == "ehlo":
        raise
    wanted = f"{missing} is not installed; run pip install 'ehlo[inbox]'"
    raise ModuleNotFoundError(wanted, name=error.name) from error

__all__ = ["Catcher", "Desk", "Traffic", "WebOptions", "make_site"]
