"""A delivery agent: LMTP on a Unix socket, a file for each recipient, and an answer for each.

Postfix delivers to it with `virtual_transport = lmtp:unix:/run/ehlo/lmtp`. Its user must be let in:
by the mode and the group of the directory that the socket is in, and of the socket.
"""

import itertools
import logging
import sys
from pathlib import Path

import ehlo

MAILBOXES = Path("mailboxes")  # a directory for each address
LIMIT = 1000  # messages in one of them

logger = logging.getLogger("delivery")


class Delivery(ehlo.Handler):
    """Whom `on_message` does not refuse has got it when it returns."""

    def on_rcpt(self, session: ehlo.Session, recipient: ehlo.Address, params: object) -> None:
        if not self.mailbox(recipient).is_dir():
            raise ehlo.Reject(550, "5.1.1", "No such mailbox")

    def on_message(self, session: ehlo.Session, message: ehlo.Message) -> None:
        for number, recipient in enumerate(message.recipients):
            mailbox = self.mailbox(recipient)
            if len(list(itertools.islice(mailbox.iterdir(), LIMIT))) == LIMIT:
                message.refuse(recipient, ehlo.Reply(452, "4.2.2", "Mailbox full"))
                continue
            try:
                (mailbox / f"{message.id}.{number}.eml").write_bytes(message.data)
            except OSError:
                logger.exception("%s is not delivered to %s", message.id, recipient)
                message.refuse(recipient, ehlo.Reply(451, "4.3.0", "Not now"))

    def mailbox(self, recipient: ehlo.Address) -> Path:
        """What a stranger says is the name of nothing but a mailbox."""
        name = str(recipient).lower()
        return MAILBOXES / (name if "/" not in name and not name.startswith(".") else "no mailbox")


logging.basicConfig(level=logging.INFO)
addr = sys.argv[1] if sys.argv[1:] else "unix:lmtp"
ehlo.Server(Delivery(), addr=addr, lmtp=True).listen_and_serve()
