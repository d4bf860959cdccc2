"""Fixtures: Chromium, an inbox, and a page in it."""

from support.browsing import browser as browser
from support.browsing import module_page as module_page
from support.browsing import module_site as module_site
from support.browsing import page as page
from support.browsing import site as site
from support.browsing import watch as watch
from support.program import start as start
