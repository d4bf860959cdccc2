"""A store of received mail: one SQLite file, written by one thread, read and searched by others.

    async with Store.open("mail.db", keep=1_000) as store:
        mail_id = await store.put(Delivery(message, "a@x.test", ["b@y.test"]))
        page = await store.search('subject:"password reset" is:unread')

It knows nothing of the web or of SMTP.
"""

from __future__ import annotations

from ehlo.sqlite.errors import DiskFullError, StoreError, TooSlowError
from ehlo.store.archive import Store
from ehlo.store.records import (
    Change,
    Delivery,
    MailCounts,
    Page,
    StoredMail,
    StoredMessage,
    StoredSession,
)

__all__ = [
    "Change",
    "Delivery",
    "DiskFullError",
    "MailCounts",
    "Page",
    "Store",
    "StoreError",
    "StoredMail",
    "StoredMessage",
    "StoredSession",
    "TooSlowError",
]
