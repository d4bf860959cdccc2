"""The site: one table of all routes, below the root and once more for each inbox.

/api/v1/…  /api/events  /view/…  /…          all inboxes
/inbox/NAME/api/v1/…  and so on               one of them
/livez  /readyz                               whether it works
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp

from ehlo.inbox import openapi, preview
from ehlo.inbox.answers import last_routes
from ehlo.inbox.api import about, labels, listing, sending, single, thumbs
from ehlo.inbox.desk import Desk
from ehlo.inbox.guard import Guard
from ehlo.inbox.gzipped import Gzipped
from ehlo.inbox.live import faulting, looks, relaying, streaming, visits, waiting
from ehlo.inbox.pages.screens import Screens
from ehlo.inbox.pages.screens import routes as page_routes


def make_site(desk: Desk) -> ASGIApp:
    """Return the ASGI application of a desk."""
    screens = Screens(desk)
    below = routes_of(desk, screens)
    table: list[BaseRoute] = [Mount("/inbox/{inbox}", routes=below), *below]
    site = Starlette(
        routes=[Mount(desk.options.root, routes=table)] if desk.options.root else table,
        exception_handlers={404: screens.lost},
    )
    return Gzipped(Guard(site, desk.options))


def routes_of(desk: Desk, screens: Screens) -> list[BaseRoute]:
    """Return the routes of one inbox; each module of the API and of the pages has its own."""
    return [
        *listing.routes(desk),
        *single.routes(desk),
        *thumbs.routes(desk),
        *labels.routes(desk),
        *sending.routes(desk),
        *about.routes(desk),
        *preview.routes(desk),
        *streaming.routes(desk),
        *waiting.routes(desk),
        *looks.routes(desk),
        *faulting.routes(desk),
        *relaying.routes(desk),
        *openapi.routes(desk),
        *visits.routes(desk),
        *page_routes(screens),
        *last_routes(),  # behind all others
    ]
