"""Every block of Python on README.md and in docs/ is a whole file, and does what its page says."""

import ast
import asyncio
import importlib.util
import json
import re
import shutil
import smtplib
import socket
import sqlite3
import ssl
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Final

import httpx
import pytest

from ehlo import Address, Faults, Handler, Message, Peer, Queue, Reply, Server, Session
from ehlo.cli.commands import cli, main
from ehlo.cli.values import Directory, ReadableFile
from ehlo.inbox import Catcher
from ehlo.passwords.file import PasswordFile
from ehlo.server.system import listener
from ehlo.store import Delivery
from support.certificates import Certificates
from support.loading import look_until
from support.pages import (
    DEADLINE,
    PAGES,
    ROOT,
    Reader,
    Served,
    a_mail,
    blocks,
    commands,
    lines_of,
    send,
    shown,
)
from support.pages import reader as reader
from support.passwords import write as write_passwords
from support.ports import reserved_port
from support.program import Start
from support.program import start as start
from support.queueing import rows as deliveries

LUNCH = a_mail()
TO_EVE = a_mail("eve@example.com")
TO_ELSEWHERE = a_mail("carol@example.net")


def address(server: Server, number: int = 0) -> tuple[str, int]:
    host, port = server.addresses[number]
    return host, port


def accepts_lunch(server: Server) -> None:
    assert send(server) == {}


# -- README.md -----------------------------------------------------------------------------------


def test_readme_receives_mail(reader: Reader, capfd: pytest.CaptureFixture[str]) -> None:
    reader.run("README", "app.py", accepts_lunch)
    assert capfd.readouterr().out == shown("README", "app.py")


def test_readme_tests_a_mail(reader: Reader) -> None:
    reader.save("README", "test_reset.py")
    assert "1 passed" in reader.pytest("ehlo.testing.plugin")


def test_readme_files_mail(reader: Reader) -> None:
    def served(server: Server) -> None:
        assert send(server) == {}
        assert send(server, TO_ELSEWHERE) == {"carol@example.net": 550}

    reader.run("README", "inbound.py", served)
    (path,) = (reader.directory / "mail").iterdir()
    assert b"At noon?" in path.read_bytes()


# -- faults --------------------------------------------------------------------------------------


def test_faults_are_rules_in_a_file(reader: Reader) -> None:
    (block,) = (each for each in blocks(ROOT / "docs/faults.md") if each.language == "toml")
    (reader.directory / block.name).write_text(block.code)
    faults = Faults.load(reader.directory / block.name)
    assert [fault.kind for fault in faults] == ["fail", "delay", "drop", "script"]


def test_faults_test_a_client(reader: Reader) -> None:
    reader.save("faults", "test_retry.py")
    assert "2 passed" in reader.pytest()


# -- conformance ---------------------------------------------------------------------------------


def test_conformance_is_a_test_of_a_user(reader: Reader) -> None:
    reader.save("conformance", "test_conformance.py")
    assert "1 passed" in reader.pytest()


# -- tutorial ------------------------------------------------------------------------------------


def masked(text: str) -> str:
    """Return a text without what is different in each run: ids, times, ports, the client's name."""
    text = re.sub(r"(?<= id )\S+|EHLO \S+", "#", text.replace(" (Ctrl+C stops it)", ""))
    return re.sub(r"\d+(\.\d+)?", "#", text)


@pytest.mark.parametrize("number", [0, 1])
def test_tutorial_shows_what_a_server_prints(reader: Reader, start: Start, number: int) -> None:
    """`ehlo`, and `ehlo serve app.py`, as a program of its own."""
    found = [block for block in blocks(ROOT / "docs/tutorial.md") if block.language != "python"]
    sending = [at for at, block in enumerate(found) if "ehlo sendmail" in block.code][number]
    serving, printed = found[sending - 1].code.split(), found[sending + 1].code
    reader.save("tutorial", "app.py")
    options = ("--port", "0", "--log-format", "text")
    program = start("-m", *serving, *options, cwd=reader.directory, env={"PYTHONUNBUFFERED": "1"})
    host, port = program.listening()
    (line,) = lines_of(found[sending].code)
    assert reader.shell(line, Peer(host, port)).returncode == 0
    if number:
        program.err.until("connection closed")
    assert program.stop() == 0
    lines = (program.out.text + program.err.text if number else program.out.text).splitlines()
    lines = [each for each in lines if each and "received SIGTERM" not in each]
    assert sorted(map(masked, lines)) == sorted(map(masked, filter(None, printed.splitlines())))


def test_tutorial_rejects_recipients(reader: Reader) -> None:
    def served(server: Server) -> None:
        assert send(server) == {}
        assert send(server, TO_EVE) == {"eve@example.com": 550}
        assert send(server, TO_ELSEWHERE) == {"carol@example.net": 550}
        (line,) = lines_of(shown("tutorial", "app.py#2", "sh", "# fails"))
        done = reader.shell(line, server.addresses[0])
        assert (done.returncode, done.stderr) == (67, shown("tutorial", "app.py#2"))

    reader.serve("tutorial", "app.py#2", served)


def test_tutorial_reads_the_mail(reader: Reader, capfd: pytest.CaptureFixture[str]) -> None:
    def served(server: Server) -> None:
        reader.save("tutorial", "send.py", port=server.addresses[0].port)
        reader.command("send.py")

    reader.serve("tutorial", "app.py#3", served)
    assert capfd.readouterr().out == shown("tutorial", "send.py")
    (folder,) = (reader.directory / "mail").iterdir()
    assert (folder / "text.txt").read_text() == "They are attached.\n"
    assert (folder / "attachment-0").read_text() == "We had lunch.\n"
    assert b"Subject: Minutes" in (folder / "message.eml").read_bytes()


def test_tutorial_adds_tls_and_a_login(reader: Reader, certificates: Certificates) -> None:
    reader.certificate(certificates)
    (reader.directory / "server.crt").write_text(Path(certificates.authority_file).read_text())
    write_passwords(reader.directory / "users", alice="wonderland")

    def served(server: Server) -> None:
        reader.save("tutorial", "login.py", port=server.addresses[0].port)
        assert reader.command("login.py") == shown("tutorial", "login.py")

    reader.serve(
        "tutorial",
        "app.py#3",
        served,
        auth_file="users",
        auth_required=True,
        tls_config=certificates.server(),
    )


# -- testing -------------------------------------------------------------------------------------


def test_testing_with_pytest(reader: Reader) -> None:
    reader.save(
        "testing", "test_welcome.py", "test_reminder.py", "test_failures.py", "test_login.py"
    )
    (reader.directory / "pytest.ini").write_text(shown("testing", "test_login.py", "ini"))
    assert "7 passed" in reader.pytest("ehlo.testing.plugin")


def test_testing_a_handler(reader: Reader) -> None:
    reader.save("testing-handlers", "test_rejection.py", "test_relay.py")
    reader.save("testing-handlers", "test_submission.py", "test_transcript.py")
    assert "4 passed" in reader.pytest()


def test_recording_in_python(reader: Reader) -> None:
    reader.save("recording", "test_recording.py")
    assert "1 passed" in reader.pytest()


def test_the_recording_on_the_page_plays(tmp_path: Path) -> None:
    text = (ROOT / "docs/recording.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```text\n(== .*?)```", text, re.DOTALL)
    path = tmp_path / "page.smtp"
    path.write_text(block)
    assert main(["replay", str(path)]) == 0


def test_protocol_without_input_and_output(reader: Reader) -> None:
    reader.save("protocol", "responder.py")
    said = reader.command("responder.py")
    assert "28 bytes from a@example.net" in said
    assert "250 2.0.0 Ok: queued as 4bXyZ1" in said


def test_testing_with_unittest(reader: Reader) -> None:
    reader.save("testing-unittest", "test_welcome_unittest.py", "test_order_unittest.py")
    names = "test_welcome_unittest", "test_order_unittest"
    assert "Ran 3 tests" in reader.command("-W", "error", "-m", "unittest", *names)


def test_testing_with_django(reader: Reader) -> None:
    pytest.importorskip("django")
    reader.save("testing-django", "test_welcome_django.py", "test_settings_django.py")
    (reader.directory / "settings.py").write_text("")
    env = {"DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(reader.directory)}
    assert "Ran 2 tests" in reader.command("-m", "django", "test", env=env)


def test_testing_with_pytest_django(reader: Reader) -> None:
    pytest.importorskip("pytest_django")
    reader.save("testing-django", "test_welcome_pytest.py")
    (reader.directory / "settings.py").write_text("")
    (reader.directory / "pytest.ini").write_text("[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")
    assert "1 passed" in reader.pytest("ehlo.testing.plugin", "pytest_django.plugin")


# -- web -----------------------------------------------------------------------------------------


def lives(reader: Reader, app: object) -> None:
    """Run the lifespan of an ASGI application, and send a mail while it lives."""

    async def run() -> None:
        sent: asyncio.Queue[str] = asyncio.Queue()
        received: asyncio.Queue[dict[str, str]] = asyncio.Queue()

        async def send_event(event: dict[str, str]) -> None:
            await sent.put(event["type"])

        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        life = asyncio.ensure_future(app(scope, received.get, send_event))  # type: ignore[operator]  # ASGI
        await received.put({"type": "lifespan.startup"})
        assert await sent.get() == "lifespan.startup.complete"
        await asyncio.to_thread(accepts_lunch, reader.started[-1])
        await received.put({"type": "lifespan.shutdown"})
        assert await sent.get() == "lifespan.shutdown.complete"
        await life

    asyncio.run(run())


def test_web_fastapi(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("fastapi") is None:
        # The lifespan is Starlette's, and no route is called here
        starlette = pytest.importorskip("starlette.applications")

        class FastAPI(starlette.Starlette):  # type: ignore[misc,name-defined]  # of any version
            def get(self, path: str) -> object:
                return lambda function: function

        stand_in = types.ModuleType("fastapi")
        stand_in.FastAPI = FastAPI  # type: ignore[attr-defined]  # that is what a stand-in is
        monkeypatch.setitem(sys.modules, "fastapi", stand_in)
    main = reader.load("web", "main.py")
    lives(reader, main.app)
    assert main.subjects == ["Lunch"]


def test_web_starlette(reader: Reader) -> None:
    pytest.importorskip("starlette")
    site = reader.load("web", "mailsite.py")
    lives(reader, site.app)
    assert site.subjects == ["Lunch"]
    assert asyncio.run(site.mails(None)).body == b'["Lunch"]'


DJANGO_PROJECT = """
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["shop"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)

import django

django.setup()

from django.core.management import call_command

import ehlo
from shop.models import Mail
from support.pages import send


def listen_and_serve(server):
    server.configure(addr="127.0.0.1:0")
    with server.in_thread():
        assert send(server) == {}


ehlo.Server.listen_and_serve = listen_and_serve
call_command("migrate", run_syncdb=True, verbosity=0)
call_command("receive_mail")
print([(mail.sender, mail.subject) for mail in Mail.objects.all()])
"""


def test_web_django(reader: Reader) -> None:
    pytest.importorskip("django")
    reader.save("web", "shop/models.py", "shop/management/commands/receive_mail.py")
    (reader.directory / "project.py").write_text(DJANGO_PROJECT)
    env = {"PYTHONPATH": f"{reader.directory}:{ROOT / 'tests'}"}
    assert reader.command("project.py", env=env) == "[('alice@example.com', 'Lunch')]\n"


def test_web_flask(reader: Reader) -> None:
    pytest.importorskip("flask")
    shop = reader.load("web", "flaskshop.py")
    reader.served = accepts_lunch
    result = shop.app.test_cli_runner().invoke(args=["receive-mail"])
    assert result.exit_code == 0, result.output
    assert shop.app.config["SUBJECTS"] == ["Lunch"]


# -- the inbox -----------------------------------------------------------------------------------

# What the reader of the tutorial does in a browser
RESET = """
import re, sys
import django, httpx
from django.conf import settings

django.setup()
settings.ALLOWED_HOSTS = ["testserver"]
from django.test import Client

smtp, web = sys.argv[1:]
port = int(smtp.split(":")[1])
if django.VERSION >= (6, 1):
    settings.MAILERS["default"]["OPTIONS"]["port"] = port
else:
    settings.EMAIL_PORT = port
client = Client()
asked = client.post("/accounts/password_reset/", {"email": "alice@example.com"})
assert asked.status_code == 302, asked.content
mail = httpx.get(f"{web}/api/v1/message/latest").json()
links = httpx.get(f"{web}/api/v1/message/{mail['ID']}/links").json()["Links"]
path = re.sub("^https?://[^/]+", "", links[0]["URL"])
page = client.get(path, follow=True)
assert b"new password" in page.content.lower(), page.content
print(mail["To"][0]["Address"], page.redirect_chain[-1][0].endswith("/set-password/"))
"""


def test_inbox_django_resets_a_password(
    reader: Reader, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    django = pytest.importorskip("django")
    (page,) = (path for path in PAGES if path.stem == "inbox")
    shells = [block.code for block in blocks(page) if block.language == "sh"]
    program = start("-m", "ehlo", "--port", "0", "--web", "127.0.0.1:0", env={"EHLO_NO_WEB": "0"})
    web = re.findall("http://[0-9.:]+", program.err.until("showing mail on"))[0]
    smtp = Peer(*program.listening())
    project, newer, older, user = shells[1:5]
    for code in (project, newer if django.VERSION >= (6, 1) else older, user):
        if code is user:
            reader.save("inbox", "shop/urls.py")
        for line in lines_of(code):
            if not line.startswith((".", "python manage.py runserver")):
                done = reader.shell(line, smtp)
                assert done.returncode == 0, done.stdout + done.stderr
    (reader.directory / "reset.py").write_text(RESET)
    env = {"DJANGO_SETTINGS_MODULE": "shop.settings"}
    assert reader.command("reset.py", str(smtp), web, env=env) == "alice@example.com True\n"


def test_inbox_sorts_by_a_function(reader: Reader) -> None:
    rules = reader.load("inbox", "rules.py")
    assert rules.by_sender(Delivery(b"", "shop@example.com")) == "shop"


def test_inbox_in_an_application(reader: Reader) -> None:
    caught = reader.load("inbox", "caught.py")

    async def life() -> str:
        transport = httpx.ASGITransport(caught.app)
        client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")
        async with caught.app.router.lifespan_context(caught.app), client:
            assert await asyncio.to_thread(send, caught.server) == {}
            return (await client.get("/mail/")).text

    assert "Lunch" in asyncio.run(life())


def test_inbox_in_python(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    bind = listener.bind
    monkeypatch.setattr(listener, "bind", lambda _address: bind("127.0.0.1:0"))

    def served(server: Server) -> None:
        assert send(server) == {}
        catcher = sys.modules["ehlo.inbox.catcher"]
        assert isinstance(server.options.handler, catcher.Catcher)
        found = httpx.get(f"{server.options.handler.url}/api/v1/messages").json()
        assert [mail["Subject"] for mail in found["messages"]] == ["Lunch"]

    reader.run("inbox", "catching.py", served)


def test_inbox_api_waits_in_a_test(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    catcher = Catcher(web="127.0.0.1:0")
    with Server(catcher, addr="127.0.0.1:0").in_thread() as server:
        monkeypatch.setenv("INBOX", catcher.url)
        monkeypatch.setenv("SMTP", str(server.addresses[0]))
        reader.save("inbox-api", "test_welcome.py")
        assert "1 passed" in reader.pytest()


def test_inbox_api_names_each_difference() -> None:
    golden = (ROOT / "tests/inbox/test_golden.py").read_text(encoding="utf-8")
    page = " ".join((ROOT / "docs/inbox-api.md").read_text(encoding="utf-8").split())
    calls = [
        node
        for node in ast.walk(ast.parse(golden))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Difference"
    ]
    assert calls
    for node in calls:
        assert ast.literal_eval(node.args[0]) in page


# -- database ------------------------------------------------------------------------------------


def rows(file: str, question: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(file)) as database:
        return database.execute(question).fetchall()


def test_database_saves_mail(reader: Reader) -> None:
    reader.serve("database", "save.py", accepts_lunch)
    reader.save("database", "subjects.py")
    assert reader.command("subjects.py") == shown("database", "subjects.py")
    ((sender, recipients, subject, text),) = rows(
        "mail.db", "SELECT sender, recipients, subject, text FROM mail"
    )
    assert (sender, recipients, subject) == ("alice@example.com", "bob@example.com", "Lunch")
    assert text == "At noon?\n"


def test_database_uses_a_pool(reader: Reader) -> None:
    reader.save("database", "pooled.py")
    assert reader.command("pooled.py") == ""  # creates the table
    reader.serve("database", "pooled.py", accepts_lunch)
    assert rows("mail.db", "SELECT subject FROM mail") == [("Lunch",)]


def test_database_saves_a_duplicate_once(reader: Reader) -> None:
    mail = a_mail()
    mail["Message-ID"] = "<1@example.com>"

    def served(server: Server) -> None:
        for _ in range(2):
            assert send(server, mail) == {}
            assert send(server) == {}

    reader.serve("database", "once.py", served)
    keys = [key for (key,) in rows("once.db", "SELECT key FROM mail")]
    assert len(keys) == 3
    assert "<1@example.com>" in keys


# -- queue -----------------------------------------------------------------------------------------


def delivered(file: str, count: int = 0) -> None:
    """Return once all but `count` deliveries are done."""
    look_until(lambda: len(deliveries(Path(file))) == count)


def test_queue_processes_mail_later(reader: Reader, capfd: pytest.CaptureFixture[str]) -> None:
    def served(server: Server) -> None:
        accepts_lunch(server)
        delivered("mail-0.db")

    reader.run("queue", "later.py", served)
    assert capfd.readouterr().out == "filed: Lunch\n"


def test_queue_decides_before_the_250(reader: Reader) -> None:
    module = reader.load("queue", "tickets.py")
    reader.served = None
    with Server(Queue("mail.db", module.handler), addr="127.0.0.1:0").in_thread() as server:
        mail = a_mail("7@help.example.com, x@help.example.com, bob@example.com")
        for _ in range(2):
            assert send(server, mail) == {"bob@example.com": 550}
        delivered("mail-0.db", 2)
    assert [state for _, state in deliveries(Path("mail-0.db"))] == ["failed"] * 2
    ((ticket, texts),) = module.TICKETS.items()
    assert (ticket, list(texts.values())) == ("7", ["At noon?\n"])


def test_queue_hands_over_to_celery(reader: Reader, capfd: pytest.CaptureFixture[str]) -> None:
    module = reader.load("queue", "with_celery.py")
    module.app.conf.broker_url = "memory://"  # the test has no Redis
    with module.server.in_thread() as server:
        assert send(server) == {}
        delivered("mail-0.db")
    with module.app.connection() as connection:
        arguments, _, _ = connection.SimpleQueue("celery").get(timeout=DEADLINE).payload
    module.process(*arguments)
    assert capfd.readouterr().out == "processing 'Lunch' of alice@example.com\n"


def test_queue_hands_over_to_taskiq(reader: Reader, capfd: pytest.CaptureFixture[str]) -> None:
    with reader.load("queue", "with_taskiq.py").server.in_thread() as server:
        assert send(server) == {}
        delivered("mail-0.db")
    assert capfd.readouterr().out == "processing 'Lunch' of alice@example.com\n"


def test_queue_hands_over_to_procrastinate(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    # It needs libpq, which comes with PostgreSQL
    testing = pytest.importorskip("procrastinate.testing", exc_type=ImportError)
    connector = testing.InMemoryConnector()
    monkeypatch.setattr("procrastinate.PsycopgConnector", lambda: connector)
    handler = reader.load("queue", "with_procrastinate.py").handler
    with Server(handler, addr="127.0.0.1:0").in_thread() as server:
        for _ in range(2):  # the second has the same lock
            assert send(server) == {}
        delivered("mail-0.db")
    (job,) = connector.jobs.values()
    assert job["args"] == {"sender": "alice@example.com", "subject": "Lunch", "text": "At noon?\n"}


# -- routing, forwarding, submission ---------------------------------------------------------------


def test_routing_parses_replies(reader: Reader) -> None:
    def served(server: Server) -> None:
        mail = a_mail("reply+7@example.com", text="Thank you.\n\n> It rains in.")
        assert send(server, mail) == {}
        assert send(server, a_mail("reply+8@example.com")) == {"reply+8@example.com": 550}
        assert send(server) == {"bob@example.com": 550}
        both = a_mail("reply+7@example.com, Reply+7@example.com", text="Once.")
        assert send(server, both) == {}
        both["Auto-Submitted"] = "auto-replied"
        assert send(server, both) == {}

    reader.serve("routing", "replies.py", served)
    assert sys.modules["replies"].TICKETS == {"7": ["It rains in.", "Thank you.", "Once."]}


def test_routing_calls_a_function_for_each_address(
    reader: Reader, capfd: pytest.CaptureFixture[str]
) -> None:
    def served(server: Server) -> None:
        assert send(server, a_mail("Sales@example.com, support@example.com")) == {}
        assert send(server) == {"bob@example.com": 550}

    reader.serve("routing", "desks.py", served)
    assert sorted(capfd.readouterr().out.splitlines()) == ["sales: Lunch", "support: Lunch"]


def next_server(reader: Reader, page: str, name: str, constant: str, **options: object) -> Server:
    """Return the server of a block, which passes mail to a server that `options` describe."""
    module = reader.load(page, name)
    server = Server(**options)  # type: ignore[arg-type]  # for a test
    reader.enter(server.in_thread())
    setattr(module, constant, address(server))
    own: Server = module.server
    return own


def test_forwarding_adds_a_field(reader: Reader) -> None:
    received: list[bytes] = []
    server = next_server(
        reader, "forwarding", "forward.py", "NEXT", handler=lambda m: received.append(m.body)
    )
    with server.in_thread():
        assert send(server) == {}
        assert send(server, TO_ELSEWHERE) == {"carol@example.net": 550}
    assert received[0].startswith(b"X-Filtered: yes\r\nReceived: ")
    assert b"At noon?" in received[0]


def test_forwarding_changes_the_subject(reader: Reader) -> None:
    received: list[str] = []
    base = reader.load("forwarding", "forward.py")
    server = next_server(
        reader, "forwarding", "tag.py", "NEXT", handler=lambda m: received.append(m.content.subject)
    )
    base.NEXT = sys.modules["tag"].NEXT
    with server.in_thread():
        assert send(server, a_mail(subject="Grüße")) == {}
        assert send(server, a_mail(subject="Re: [List] Lunch")) == {}
    assert received == ["[List] Grüße", "Re: [List] Lunch"]


class Next(Handler):
    """The next server, which answers by the name of the recipient, and of the sender."""

    ANSWERS: Final = MappingProxyType(
        {
            "eve": Reply(550, "5.1.1", "no such user"),
            "busy": Reply(450, "4.2.1", "busy"),
            "gone": Reply(421, "4.3.2", "closing"),
            "spam": Reply(554, "5.7.1", "spam"),
        }
    )

    def on_mail(self, session: Session, sender: Address, params: object) -> Reply | None:
        return self.ANSWERS.get(sender.local)

    def on_rcpt(self, session: Session, recipient: Address, params: object) -> Reply | None:
        return self.ANSWERS.get(recipient.local)

    def on_message(self, session: Session, message: Message) -> Reply | None:
        return self.ANSWERS.get(message.content.subject)


@pytest.mark.parametrize(
    ("page", "name", "constant"),
    [("forwarding", "forward.py", "NEXT"), ("submission", "submit.py", "RELAY")],
)
def test_what_forwards_passes_on_each_answer(
    reader: Reader, certificates: Certificates, page: str, name: str, constant: str
) -> None:
    reader.certificate(certificates)
    write_passwords(reader.directory / "users", alice="wonderland")
    server = next_server(reader, page, name, constant, handler=Next())
    with server.in_thread(), smtplib.SMTP(*address(server)) as client:
        if page == "submission":
            client.starttls(context=certificates.client)
            client.login("alice", "wonderland")
        client.ehlo()
        assert not client.has_extn("smtputf8")
        assert client.mail("alice@example.com")[0] == 250
        assert client.rcpt("busy@example.com") == (450, b"4.2.1 busy")
        assert client.rcpt("eve@example.com") == (550, b"5.1.1 no such user")
        assert client.rcpt("bob@example.com")[0] == 250
        assert client.data(b"Subject: spam\r\n\r\n") == (554, b"5.7.1 spam")
        assert client.mail("alice@example.com")[0] == 250
        assert client.rcpt("gone@example.com") == (451, b"4.3.2 closing")
        assert client.rset()[0] == 250
        assert client.mail("alice@example.com")[0] == 250
        assert client.rcpt("bob@example.com")[0] == 250
        assert client.data(b"Subject: Lunch\r\n\r\n")[0] == 250
        closed = ("127.0.0.1", reserved_port())
        setattr(sys.modules[name.removesuffix(".py")], constant, closed)
        assert client.mail("alice@example.com")[0] == 451


def test_submission_needs_a_login_and_passes_mail_on(
    reader: Reader, certificates: Certificates
) -> None:
    reader.certificate(certificates)
    write_passwords(reader.directory / "users", alice="wonderland")
    received: list[bytes] = []
    server = next_server(
        reader, "submission", "submit.py", "RELAY", handler=lambda m: received.append(m.body)
    )
    with server.in_thread():
        with smtplib.SMTP(*address(server)) as client:
            client.ehlo()
            assert client.mail("alice@example.com")[0] == 530
            client.starttls(context=certificates.client)
            client.login("alice", "wonderland")
            assert client.mail("bob@example.com")[0] == 550
            client.rset()
            client.send_message(a_mail("bob@example.org"))
        with smtplib.SMTP_SSL(*address(server, 1), context=certificates.client) as client:
            client.login("alice", "wonderland")
            client.send_message(a_mail("bob@example.org"))
    assert len(received) == 2


# -- mx ------------------------------------------------------------------------------------------


def test_mx_accepts_mail_for_its_users(reader: Reader) -> None:
    def served(server: Server) -> None:
        for good in ("Bob@Example.com", "postmaster@example.com", "Postmaster"):
            assert send(server, a_mail(good)) == {}
        assert send(server, TO_EVE) == {"eve@example.com": 550}
        assert send(server, TO_ELSEWHERE) == {"carol@example.net": 550}
        with smtplib.SMTP(*address(server)) as client:
            client.sendmail("", "bob@example.com", "Subject: A bounce\n\n")

    reader.serve("mx", "inbound.py", served)


def test_mx_delivers_for_postfix(reader: Reader) -> None:
    delivery = reader.load("mx", "delivery.py")
    delivery.MAILBOXES["alice@example.com"] += [b""] * 1000
    with delivery.server.in_thread() as server:
        path = server.addresses[0].host.removeprefix("unix:")
        assert Path(path).stat().st_mode & 0o777 == 0o660
        with smtplib.LMTP(path) as client:
            client.ehlo_or_helo_if_needed()
            client.mail("carol@example.net")
            codes = [client.rcpt(f"{name}@example.com")[0] for name in ("alice", "bob", "eve")]
            assert codes == [250, 250, 550]
            assert client.data(a_mail().as_bytes())[0] == 452
            assert client.getreply()[0] == 250
    assert len(delivery.MAILBOXES["bob@example.com"]) == 1


# -- migrating -----------------------------------------------------------------------------------


def test_migrating_from_smtpd(reader: Reader, capfd: pytest.CaptureFixture[str]) -> None:
    def served(server: Server) -> None:
        assert send(server) == {}
        assert send(server, a_mail(text="You won the lottery")) == {"": 554}

    reader.run("migrating", "smtpd_after.py", served)
    assert "alice@example.com to bob@example.com: " in capfd.readouterr().out
    reader.run("migrating", "smtpd_arguments.py", accepts_lunch)
    assert "alice@example.com to bob@example.com: " in capfd.readouterr().out


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="smtpd was removed with Python 3.12")
def test_migrating_shows_a_server_of_smtpd(
    reader: Reader, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = reader.load("migrating", "smtpd_before.py")
        server = module.Server(("127.0.0.1", 0), None)
    process = server.process_message
    assert process(("", 0), "alice@example.com", ["bob@example.com"], b"Hello") is None
    assert (
        process(("", 0), "alice@example.com", ["bob@example.com"], b"lottery") == "554 No lottery"
    )
    assert capfd.readouterr().out == "alice@example.com to bob@example.com: 5 bytes\n"
    server.close()


@pytest.fixture
def unused_port() -> int:
    return reserved_port()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_migrating_from_aiosmtpd(
    reader: Reader, unused_port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    controller = reader.load("migrating", "aiosmtpd_before.py").serve(unused_port)
    with smtplib.SMTP("127.0.0.1", unused_port) as client:
        refused = client.send_message(a_mail("bob@example.com, carol@example.net"))
    controller.stop()
    assert refused.keys() == {"carol@example.net"}
    before = capfd.readouterr().out

    def served(server: Server) -> None:
        mail = a_mail("bob@example.com, carol@example.net")
        assert send(server, mail).keys() == refused.keys()

    reader.run("migrating", "aiosmtpd_after.py", served)
    assert capfd.readouterr().out == before == "alice@example.com to bob@example.com\n"


def test_migrating_a_test(reader: Reader) -> None:
    (reader.directory / "conftest.py").write_text(
        f"import pytest\n\n\n@pytest.fixture\ndef unused_port():\n    return {reserved_port()}\n"
    )
    reader.save("migrating", "test_before.py", "test_after.py")
    assert "2 passed" in reader.pytest("ehlo.testing.plugin")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_migrating_an_authenticator(
    reader: Reader, certificates: Certificates, no_delay: None
) -> None:
    from aiosmtpd.smtp import LoginPassword

    authenticator = reader.load("migrating", "authenticator_before.py").authenticator
    for password in (b"wonderland", b"guess"):
        result = authenticator(None, None, None, "PLAIN", LoginPassword(b"alice", password))
        assert result.success is (password == b"wonderland")
    reader.certificate(certificates)
    reader.serve("migrating", "authenticator_after.py", logs_in(certificates))


# -- authentication, TLS ---------------------------------------------------------------------------


def logs_in(certificates: Certificates) -> Served:
    """Return what logs alice in and sends a mail, and is rejected with a wrong password."""

    def served(server: Server) -> None:
        for password in ("wonderland", "guess"):
            with smtplib.SMTP(*address(server)) as client:
                client.starttls(context=certificates.client)
                if password == "guess":
                    with pytest.raises(smtplib.SMTPAuthenticationError):
                        client.login("alice", password)
                    continue
                client.login("alice", password)
                client.send_message(LUNCH)

    return served


@pytest.mark.parametrize("name", ["with_file.py", "own_check.py", "hashes.py"])
def test_authentication_by_password(
    reader: Reader, certificates: Certificates, name: str, no_delay: None
) -> None:
    reader.certificate(certificates)
    write_passwords(reader.directory / "users", alice="wonderland")
    reader.serve("authentication", name, logs_in(certificates))
    PasswordFile("users")


def test_authentication_by_hooks(
    reader: Reader, certificates: Certificates, no_delay: None
) -> None:
    reader.certificate(certificates)
    reader.serve("authentication", "logins.py", logs_in(certificates))


def test_authentication_by_cram_md5(reader: Reader) -> None:
    def served(server: Server) -> None:
        with smtplib.SMTP(*address(server)) as client:
            client.ehlo()
            assert client.esmtp_features["auth"].split() == ["CRAM-MD5"]
            client.login("alice", "wonderland")
            client.send_message(LUNCH)

    reader.serve("authentication", "five.py", served)


@pytest.mark.parametrize("name", ["starttls.py", "names.py", "own_context.py"])
def test_tls(reader: Reader, certificates: Certificates, name: str) -> None:
    reader.certificate(certificates)
    reader.certificate(certificates, "example.org")

    def served(server: Server) -> None:
        with smtplib.SMTP(*address(server)) as client:
            client.starttls(context=certificates.client)
            client.send_message(LUNCH)

    reader.serve("tls", name, served)


def test_tls_with_client_certificates(
    reader: Reader, certificates: Certificates, capfd: pytest.CaptureFixture[str]
) -> None:
    reader.certificate(certificates)
    (reader.directory / "clients.pem").write_text(Path(certificates.authority_file).read_text())

    def served(server: Server) -> None:
        host = address(server)
        with smtplib.SMTP_SSL(*host, context=certificates.client_named("printer")) as client:
            client.send_message(LUNCH)
        with pytest.raises((ssl.SSLError, OSError)):  # noqa: SIM117  the connection may end at once
            with smtplib.SMTP_SSL(*host, context=certificates.client) as client:
                client.send_message(LUNCH)

    reader.serve("tls", "client_certificates.py", served)
    assert "'commonName': 'printer'" in capfd.readouterr().out


# -- handlers, deployment ------------------------------------------------------------------------


def test_handlers_inbound(reader: Reader) -> None:
    def served(server: Server) -> None:
        assert send(server) == {}
        assert send(server, TO_ELSEWHERE) == {"carol@example.net": 550}

    assert len(reader.run("handlers", "inbound.py", served)["STORED"]) == 1


def test_handlers_lmtp(reader: Reader) -> None:
    def served(server: Server) -> None:
        with smtplib.LMTP(server.addresses[0].host.removeprefix("unix:")) as client:
            client.ehlo_or_helo_if_needed()
            client.mail("alice@example.com")
            client.rcpt("bob@example.com")
            client.rcpt("full@example.com")
            assert client.data(LUNCH.as_bytes())[0] == 250
            assert client.getreply()[0] == 452

    reader.serve("handlers", "lmtp.py", served)


def test_handlers_own_extension(reader: Reader, capfd: pytest.CaptureFixture[str]) -> None:
    def served(server: Server) -> None:
        with smtplib.SMTP(*address(server)) as client:
            client.ehlo()
            assert client.docmd("XFOO", "hello") == (250, b"2.0.0 hello to you, too")
            client.mail("alice@example.com")
            assert client.rcpt("bob@example.com", ["XFOO=7"])[0] == 250
            assert client.data(LUNCH.as_bytes())[0] == 250

    reader.serve("handlers", "xfoo.py", served)
    assert capfd.readouterr().out == "[7]\n"


def test_handlers_large_messages(reader: Reader) -> None:
    def served(server: Server) -> None:
        assert send(server, a_mail(text="long " * 1_000_000)) == {}

    reader.serve("handlers", "large.py", served)
    (path,) = reader.directory.glob("*.eml")
    assert path.stat().st_size > 5_000_000


def test_deployment_several_addresses(
    reader: Reader, certificates: Certificates, capfd: pytest.CaptureFixture[str]
) -> None:
    reader.certificate(certificates)
    write_passwords(reader.directory / "users", alice="wonderland")

    def served(server: Server) -> None:
        assert send(server) == {}
        port = server.addresses[0].port
        assert capfd.readouterr().out == f"{port}: alice@example.com to bob@example.com\n"
        with smtplib.SMTP_SSL(*address(server, 1), context=certificates.client) as client:
            client.ehlo()
            assert client.mail("alice@example.com")[0] == 530
            client.login("alice", "wonderland")
            client.send_message(LUNCH)
        with smtplib.SMTP(*address(server, 2)) as client:
            client.ehlo()
            assert client.mail("alice@example.com")[0] == 530
        with smtplib.LMTP(server.addresses[3].host.removeprefix("unix:")) as client:
            client.send_message(LUNCH)

    reader.serve("deployment", "several.py", served)


def test_deployment_behind_a_proxy(reader: Reader, capfd: pytest.CaptureFixture[str]) -> None:
    def served(server: Server) -> None:
        with socket.create_connection(address(server), timeout=DEADLINE) as sock:
            sock.sendall(b"PROXY TCP4 192.0.2.7 127.0.0.1 42530 25\r\n")
            client = smtplib.SMTP()
            client.sock = sock
            assert client.getreply()[0] == 220
            client.send_message(LUNCH)

    reader.serve("deployment", "proxied.py", served)
    assert capfd.readouterr().out == "192.0.2.7 by 127.0.0.1\n"


def test_deployment_own_loop(reader: Reader, capfd: pytest.CaptureFixture[str]) -> None:
    reader.run("deployment", "own_loop.py", accepts_lunch)
    assert "alice@example.com to bob@example.com\n" in capfd.readouterr().out


# -- all pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_fits_the_width_of_the_site(page: Path) -> None:
    for block in blocks(page):
        if block.language != "text":
            assert max(map(len, block.code.splitlines())) <= 85, block.code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_python_is_a_file_that_a_test_runs(page: Path) -> None:
    tests = Path(__file__).read_text()
    known: dict[str, int] = {}
    for block in blocks(page):
        if block.language == "python":
            assert block.name, f"{page.name}: no file name in the first line of {block.code!r}"
            known[block.name] = number = known.get(block.name, 0) + 1
            name = block.name if number == 1 else f"{block.name}#{number}"
            used = rf'"{page.stem}",[^)]*?"{re.escape(name)}"|"{re.escape(name)}"[^)]*\]\)'
            assert re.search(used, tests), f"{page.name}: no test runs {name}"


def commands_of_ehlo() -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of ehlo on all pages and in deploy/, with the places where they are."""
    for page in PAGES:
        for block in blocks(page):
            if block.language == "sh":
                lines = commands(block.code)
            else:  # a unit of systemd, an image, Compose, Kubernetes
                started = re.findall(r"^ExecStart=(.+)$", block.code, re.MULTILINE)
                lines = [words for line in started for words in commands(line)]
                arrays = re.findall(r"\[\"(?:serve\b|--)[^]]+\]", block.code)
                lines += [["ehlo", *json.loads(array)] for array in arrays]
            for number, words in enumerate(lines):
                if "ehlo" in words[:1] or words[0].endswith("/bin/ehlo"):
                    yield f"{page.stem} {number} {' '.join(words[:3])}", words[1:]
                elif words[:2] == ["docker", "run"] and "ehlo" in words:
                    yield f"{page.stem} {number} docker", words[words.index("ehlo") + 1 :]


COMMANDS = list(commands_of_ehlo())


@pytest.mark.parametrize("words", [words for _, words in COMMANDS], ids=[at for at, _ in COMMANDS])
def test_commands_of_ehlo_are_valid(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Directory, ReadableFile):
        monkeypatch.setattr(kind, "convert", lambda self, value, param, context: value)
    names = [number for number, word in enumerate(words) if word in cli.commands]
    own = words[: names[0]] if names else words
    cli.make_context("ehlo", own)
    if names:
        cli.commands[words[names[0]]].make_context(words[names[0]], words[names[0] + 1 :])


SENDS = "^printf|^swaks"
SENDING = [
    pytest.param(block.code, id=f"{page.stem} {number}")
    for page in PAGES
    for number, block in enumerate(blocks(page))
    if block.language == "sh" and re.search(SENDS, block.code, re.MULTILINE)
]


@pytest.mark.parametrize("code", SENDING)
def test_commands_that_send_mail_send_it(
    code: str, reader: Reader, certificates: Certificates
) -> None:
    """Run as they stand, except for the server; a line that says so is rejected."""
    lines = lines_of(code)
    for program in ("swaks", "curl"):
        if program in code and shutil.which(program) is None:
            pytest.skip(f"{program} is missing")
    received: list[Message] = []

    def rcpt_handler(remote_addr: Peer, mail_from: str, rcpt_to: str) -> bool:
        return rcpt_to.startswith("bob@")

    server = Server(
        received.append,
        rcpt_handler=rcpt_handler,
        auth_handler=lambda username, password: username == "alice",
        tls_config=certificates.server(),
    )
    with server.in_thread():
        for line in lines:
            login = "--auth-user alice --auth-password wonderland"
            done = reader.shell(line.replace("--auth-user alice", login), server.addresses[0])
            rejected = "# fails" in line or "# must be rejected" in line
            assert (done.returncode != 0) is rejected, done.stdout + done.stderr
    assert len(received) == len(lines) - len(re.findall("# fails|# must be rejected", code))
