"""Lists the scenarios of the benchmark and their targets."""

from dataclasses import dataclass, replace
from typing import Literal

AIOSMTPD = "aiosmtpd"
SMTP_SINK = "smtp-sink"
EHLO_ASYNC = "ehlo-async"
EHLO_DEF = "ehlo-def"
EHLO_TUNED = "ehlo-tuned"  # ehlo-async with malloc as the command line and workers set it
EHLO_HOURLY = "ehlo-hourly"  # ehlo-async with the hourly limits, which are disabled by default
EHLO_ONE = "ehlo-one"
EHLO_TWO = "ehlo-two"
SMTPDFIX = "smtpdfix"  # this and the next three are fixtures of pytest
LOCALSERVER = "pytest-localserver"
EHLO_MEMORY = "ehlo-memory"
EHLO_PORT = "ehlo-port"
EHLO_QUEUE = "ehlo-queue"  # this and the next one have each message on disk before its 250
POSTFIX = "postfix"
INBOX = "inbox"  # ehlo.inbox.Catcher
INBOX_BARE = "inbox-bare"  # without its index for searches, which is filled when no mail comes
MAILDEV = "maildev"  # by npm

LABELS = {
    AIOSMTPD: "aiosmtpd",
    SMTP_SINK: "smtp-sink",
    EHLO_ASYNC: "ehlo async",
    EHLO_DEF: "ehlo def",
    EHLO_TUNED: "ehlo async, malloc tuned",
    EHLO_HOURLY: "ehlo hourly limits",
    EHLO_ONE: "one process",
    EHLO_TWO: "2 workers",
    SMTPDFIX: "smtpdfix",
    LOCALSERVER: "pytest-localserver",
    EHLO_MEMORY: "ehlo_memory",
    EHLO_PORT: "ehlo_smtp",
    EHLO_QUEUE: "ehlo, SQLite",
    POSTFIX: "Postfix, discard",
    INBOX: "inbox",
    INBOX_BARE: "inbox, without index",
    MAILDEV: "MailDev",
}

ALL = (AIOSMTPD, SMTP_SINK, EHLO_ASYNC, EHLO_DEF)
WITH_TUNED = (*ALL, EHLO_TUNED)  # the columns of the tables
WITH_HOURLY = (*WITH_TUNED, EHLO_HOURLY)
WORKERS = (EHLO_ONE, EHLO_TWO)
FIXTURES = (SMTPDFIX, LOCALSERVER, EHLO_MEMORY, EHLO_PORT)
QUEUES = (EHLO_QUEUE, POSTFIX)
INBOXES = (EHLO_TUNED, INBOX_BARE, INBOX, MAILDEV)
EVERY = (*WITH_HOURLY, *WORKERS, *FIXTURES, *QUEUES, *INBOXES[1:])
OURS = (EHLO_ASYNC, EHLO_DEF)  # the others do not support BDAT
WITH_TLS = (AIOSMTPD, EHLO_ASYNC, EHLO_DEF)  # smtp-sink has no TLS


# What the client waits for: the reply to each command, as smtp-source does; the replies to an
# envelope (RFC 2920); or the replies to an envelope and a body by BDAT (RFC 3030)
Dialogue = Literal["each", "pipelined", "bdat"]


@dataclass(frozen=True, slots=True)
class Messages:
    """CPU time of the server per message, in seconds."""

    name: str
    title: str
    size: int  # bytes of the body, without its few header lines
    count: int  # messages per round
    sessions: int = 20
    kept: bool = True  # False: one connection, and under TLS one handshake, per message
    tls: bool = False
    servers: tuple[str, ...] = ALL
    dialogue: Dialogue = "each"


@dataclass(frozen=True, slots=True)
class Workers(Messages):
    """CPU time of all processes, and messages per second, of workers and of a single process.

    Servers and load may use every core: on a single core, workers cannot share the work.
    """

    servers: tuple[str, ...] = WORKERS


Cost = Literal["time", "cpu", "flushes"]
COSTS: tuple[Cost, ...] = ("time", "cpu", "flushes")


@dataclass(frozen=True, slots=True)
class Queued(Messages):
    """A cost of a message that is on disk before its 250: seconds, CPU seconds, or flushes."""

    servers: tuple[str, ...] = QUEUES
    what: Cost = "time"


@dataclass(frozen=True, slots=True)
class Puts(Messages):
    """The longest wait for the reply to a message in a round, in seconds, with several workers."""

    servers: tuple[str, ...] = (EHLO_QUEUE,)
    workers: int = 4


@dataclass(frozen=True, slots=True)
class Caught(Messages):
    """CPU time per message that is caught for a browser, next to a handler that does nothing."""

    servers: tuple[str, ...] = INBOXES


@dataclass(frozen=True, slots=True)
class Idle:
    """Memory of the server per idle connection that received its greeting, in bytes."""

    name: str
    title: str
    count: int  # connections
    tls: bool = False
    servers: tuple[str, ...] = ALL


@dataclass(frozen=True, slots=True)
class Import:
    """Wall time of `import ehlo` in a new interpreter, minus that of a bare one, in seconds."""

    name: str
    title: str
    count: int  # interpreters started
    tls: bool = False
    servers: tuple[str, ...] = (EHLO_ASYNC,)


@dataclass(frozen=True, slots=True)
class Kit:
    """CPU time of pytest per test that sends one mail, less a test that does nothing."""

    name: str
    title: str
    count: int  # tests per round
    tls: bool = False
    servers: tuple[str, ...] = FIXTURES


Scenario = Messages | Workers | Queued | Puts | Caught | Idle | Import | Kit

KB, MB = 1 << 10, 1 << 20

SCENARIOS: tuple[Scenario, ...] = (
    Messages("1k-kept", "1 KB, kept connection", KB, 2000, servers=WITH_HOURLY),
    Messages("1k-own", "1 KB, own connection", KB, 600, kept=False),
    Messages("100k-kept", "100 KB, kept connection", 100 * KB, 100, servers=WITH_TUNED),
    Messages("10m-kept", "10 MB, kept connection", 10 * MB, 4, sessions=4, servers=WITH_TUNED),
    # clients that do not wait for each reply
    Messages("1k-pipelined", "1 KB, pipelined", KB, 2000, dialogue="pipelined"),
    Messages("1k-bdat", "1 KB, BDAT", KB, 2000, servers=OURS, dialogue="bdat"),
    Messages("100k-bdat", "100 KB, BDAT", 100 * KB, 100, servers=OURS, dialogue="bdat"),
    # under TLS
    Messages("1k-tls-kept", "1 KB, TLS, kept connection", KB, 2000, tls=True, servers=WITH_TLS),
    Messages("1k-tls-own", "1 KB, TLS handshake each", KB, 150, 20, False, True, WITH_TLS),
    # several processes
    Workers("1k-kept-workers", "1 KB, kept connection, 2 workers", KB, 6000),
    Workers("1k-own-workers", "1 KB, own connection, 2 workers", KB, 2000, kept=False),
    # with a queue on disk
    Queued("queue-20", "1 KB, 20 sessions", KB, 2000),
    Queued("queue-200", "1 KB, 200 sessions", KB, 4000, 200),
    Puts("queue-puts", "1 KB, 40 sessions, 4 workers: longest wait", KB, 4000, 40),
    # in an inbox
    Caught("inbox-1k", "1 KB, caught", KB, 1000),
    Caught("inbox-100k", "100 KB, caught", 100 * KB, 100),
    # without messages
    Idle("idle", "idle connection", 1000, servers=(AIOSMTPD, SMTP_SINK, EHLO_ASYNC)),
    Idle("idle-tls", "idle connection, TLS", 300, tls=True, servers=(AIOSMTPD, EHLO_ASYNC)),
    Import("import", "import ehlo, wall time", 25),
    # in a test suite
    Kit("kit", "a test with one mail", 400),
)


@dataclass(frozen=True, slots=True)
class Target:
    """The upper limit of a server's figure: absolute, or as a multiple of that of `against`."""

    scenario: str
    server: str
    against: str | None
    at_most: float


TARGETS = (
    Target("1k-kept", EHLO_ASYNC, AIOSMTPD, 0.40),
    Target("1k-own", EHLO_ASYNC, AIOSMTPD, 0.40),
    Target("100k-kept", EHLO_ASYNC, SMTP_SINK, 0.5),
    Target("100k-kept", EHLO_TUNED, SMTP_SINK, 0.5),
    Target("10m-kept", EHLO_ASYNC, SMTP_SINK, 0.45),
    Target("10m-kept", EHLO_TUNED, SMTP_SINK, 0.45),
    Target("1k-tls-kept", EHLO_ASYNC, AIOSMTPD, 0.55),
    # At most the Go original's handshake, which took 0.775 of aiosmtpd's in the same run
    Target("1k-tls-own", EHLO_ASYNC, AIOSMTPD, 0.775),
    Target("queue-20-time", EHLO_QUEUE, POSTFIX, 1 / 1.8),
    Target("queue-200-time", EHLO_QUEUE, POSTFIX, 1 / 4),
    Target("queue-20-cpu", EHLO_QUEUE, POSTFIX, 0.2),
    Target("queue-200-cpu", EHLO_QUEUE, POSTFIX, 0.2),
    Target("queue-20-flushes", EHLO_QUEUE, None, 0.12),
    Target("queue-puts", EHLO_QUEUE, None, 0.2),
    Target("inbox-1k", INBOX_BARE, EHLO_TUNED, 3.5),
    Target("inbox-100k", INBOX_BARE, EHLO_TUNED, 3.0),
    Target("idle", EHLO_ASYNC, None, 4 * KB),
    Target("idle-tls", EHLO_ASYNC, None, 48 * KB),
    Target("import", EHLO_ASYNC, None, 0.060),
    Target("kit", EHLO_MEMORY, SMTPDFIX, 0.25),
    Target("kit", EHLO_MEMORY, LOCALSERVER, 0.25),
    Target("kit", EHLO_PORT, SMTPDFIX, 0.6),
    Target("kit", EHLO_PORT, LOCALSERVER, 0.6),
)

# What one server costs more than another, in each of these scenarios
DIFFERENCES = (
    ("hand-over to a thread", EHLO_DEF, EHLO_ASYNC, ("1k-kept", "1k-own")),
    ("hourly limits", EHLO_HOURLY, EHLO_ASYNC, ("1k-kept",)),
    ("malloc not tuned", EHLO_ASYNC, EHLO_TUNED, ("1k-kept", "100k-kept", "10m-kept")),
)


def shrunk(scenario: Scenario) -> Scenario:
    """Return the scenario with tiny counts, which check that it works but measure nothing."""
    count = max(2, scenario.count // 50)
    if isinstance(scenario, Messages):
        return replace(scenario, count=count, sessions=min(scenario.sessions, count))
    return replace(scenario, count=count)
