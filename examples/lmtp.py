"""Delivers mail: LMTP on a Unix socket, with one file and one reply per recipient.

Postfix delivers to it with `virtual_transport = lmtp:unix:/run/ehlo/lmtp`. The mode and the group
of the socket and of its directory must give access to Postfix's user.
"""

import itertools
import logging
import sys
from pathlib import Path

import ehlo

MAILBOXES = Path("mailboxes")  # contains one directory per address
LIMIT = 1000  # messages per mailbox
LONGEST = 255  # bytes of a file's name; an address may have more

logger = logging.getLogger("delivery")


class Delivery(ehlo.Handler):
    """Delivers a message to each recipient, unless `on_message` rejects it for that one."""

    def on_rcpt(self, session: ehlo.Session, recipient: ehlo.Address, params: object) -> None:
        if not self.mailbox(recipient).is_dir():
            raise ehlo.Reject(550, "5.1.1", "No such mailbox")

    def on_message(self, session: ehlo.Session, message: ehlo.Message) -> None:
        for number, recipient in enumerate(message.recipients):
            mailbox = self.mailbox(recipient)
            if len(list(itertools.islice(mailbox.iterdir(), LIMIT))) == LIMIT:
                message.refuse(recipient, ehlo.Reply(452, "4.2.2", "Mailbox full"))
                continue
            name = f"{message.id}.{number}.eml"
            try:
                (mailbox / f".{name}").write_bytes(message.data)
                (mailbox / f".{name}").rename(mailbox / name)  # so that no file is half a message
            except OSError:
                logger.exception("cannot deliver %s to %s", message.id, recipient)
                message.refuse(recipient, ehlo.Reply(451, "4.3.0", "Not now"))

    def mailbox(self, recipient: ehlo.Address) -> Path:
        """Return the path of a mailbox; a client cannot name any other file with it."""
        name = str(recipient).lower()
        good = "/" not in name and not name.startswith(".") and len(name.encode()) <= LONGEST
        return MAILBOXES / (name if good else "no mailbox")


logging.basicConfig(level=logging.INFO)
addr = sys.argv[1] if sys.argv[1:] else "unix:lmtp"
ehlo.Server(Delivery(), addr=addr, lmtp=True).listen_and_serve()
