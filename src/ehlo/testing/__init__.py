"""The testing kit, for programs that send mail, and for handlers that receive it.

    from ehlo.testing import Inbox

    with Inbox() as inbox:
        send_welcome_mail("ada@example.com", smtp=(inbox.host, inbox.port))
        mail = inbox.wait_for(to="ada@example.com")

pytest has the fixtures `ehlo_smtp`, `ehlo_memory` and `ehlo_inbox_factory` without an import. Names
are imported when they are first used, so that the plugin does not slow pytest down.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ehlo.testing.mailbox import Inbox as Inbox
    from ehlo.testing.mailbox import UnusedFaultWarning as UnusedFaultWarning
    from ehlo.testing.received import ReceivedMail as ReceivedMail
    from ehlo.testing.received import Rejection as Rejection

# By module: the names that users import from `ehlo.testing`
_HOMES = {
    "ehlo.testing.mailbox": "Inbox UnusedFaultWarning",
    "ehlo.testing.received": "ReceivedMail Rejection",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ehlo.testing' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
