"""Projects that send mail with a framework, each with tests as they would stand there.

Every project is a directory of its own, and a program of its own runs its tests: once as they are,
and once in two processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.examples import quick

TIMEOUT = 240

DJANGO = {
    "settings.py": """
        SECRET_KEY = "none"
        ROOT_URLCONF = "urls"
        USE_TZ = True
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        INSTALLED_APPS = [
            "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"
        ]
        MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
        TEMPLATES = [
            {"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": ["templates"]}
        ]
        DEFAULT_FROM_EMAIL = "shop@example.com"
        # The server of production
        EMAIL_HOST, EMAIL_PORT, EMAIL_USE_TLS = "smtp.example.com", 587, True
        """,
    "urls.py": """
        from django.contrib.auth import views
        from django.urls import path

        urlpatterns = [
            path("reset", views.PasswordResetView.as_view(
                email_template_name="mail.txt", subject_template_name="subject.txt",
                success_url="/done",
            )),
            path("reset/<uidb64>/<token>/", views.PasswordResetConfirmView.as_view(
                template_name="form.html", post_reset_login=False, success_url="/done",
            ), name="password_reset_confirm"),
        ]
        """,
    "templates/subject.txt": "Reset your password",
    "templates/form.html": "A new password, please: {{ form }}",
    "templates/mail.txt": """
        Hello {{ user.username }}, choose a new password:
        {{ protocol }}://{{ domain }}{% url "password_reset_confirm" uidb64=uid token=token %}
        """,
}

PYTEST_DJANGO = DJANGO | {
    "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npythonpath = .",
    "conftest.py": """
        import pytest

        SMTP = "django.core.mail.backends.smtp.EmailBackend"  # pytest-django sets another one

        @pytest.fixture
        def inbox(ehlo_smtp, settings):
            for name, value in ehlo_smtp.settings("django").items():
                setattr(settings, name, value)
            return ehlo_smtp

        @pytest.fixture
        def memory(ehlo_memory, settings):
            settings.EMAIL_BACKEND = SMTP
            ehlo_memory.offer(starttls=True)  # which EMAIL_USE_TLS insists on
            return ehlo_memory
        """,
    "test_shop.py": """
        import smtplib

        import pytest
        from django.core import mail


        @pytest.mark.django_db
        @pytest.mark.parametrize("kind", ["inbox", "memory"])
        def test_reset(kind, request, client, django_user_model):
            inbox = request.getfixturevalue(kind)
            django_user_model.objects.create_user("ada", "ada@x.test", "old")
            assert client.post("/reset", {"email": "ada@x.test"}).status_code == 302
            link = inbox.wait_for(to="ada@x.test", subject="reset your").link("/reset/")
            page = client.get(link.removeprefix("http://testserver"), follow=True)
            assert page.status_code == 200


        def test_production_settings_in_memory(memory, settings):
            assert settings.EMAIL_USE_TLS
            mail.send_mail("Hi", "Hello", None, ["ada@x.test"])
            assert memory[0].tls is not None
            assert memory[0].mail_from == "shop@example.com"


        def test_bcc(memory):
            mail.EmailMessage("Hi", "Hello", to=["a@x.test"], bcc=["hidden@x.test"]).send()
            assert memory[0].rcpt_tos == ["a@x.test", "hidden@x.test"]
            assert memory[0].message["bcc"] is None


        def test_attachment_and_alternative(inbox):
            message = mail.EmailMultiAlternatives("Hi", "Hello", to=["a@x.test"])
            message.attach_alternative("<p>Hello you</p>", "text/html")
            message.attach("a.txt", "content", "text/plain")
            message.send()
            assert "<p>Hello" in inbox[0].html
            assert [each.filename for each in inbox[0].attachments] == ["a.txt"]


        def test_rejected(inbox):
            inbox.fail("rcpt", "550 5.1.1 No such user", to="gone@x.test")
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                mail.send_mail("Hi", "Hello", None, ["gone@x.test"])
            assert mail.send_mail("Hi", "Hello", None, ["gone@x.test"], fail_silently=True) == 1


        def test_login(inbox, settings):
            inbox.offer(auth={"ada": "secret"}, require_auth=True)
            with pytest.raises(smtplib.SMTPException):
                mail.send_mail("Hi", "Hello", None, ["a@x.test"])
            for name, value in inbox.settings("django").items():
                setattr(settings, name, value)
            mail.send_mail("Hi", "Hello", None, ["a@x.test"])
            assert inbox[0].user == "ada"
        """,
}

DJANGO_RUNNER = DJANGO | {
    "shop/__init__.py": "",
    "shop/tests.py": """
        from django.core import mail
        from django.contrib.auth.models import User
        from django.test import SimpleTestCase, TestCase, override_settings

        from ehlo.testing import Inbox


        class Reset(TestCase):
            def setUp(self):
                self.inbox = self.enterContext(Inbox())
                self.enterContext(override_settings(**self.inbox.settings("django")))

            def test_reset(self):
                User.objects.create_user("ada", "ada@x.test", "old")
                self.client.post("/reset", {"email": "ada@x.test"})
                link = self.inbox.wait_for(to="ada@x.test").link("/reset/")
                page = self.client.get(link.removeprefix("http://testserver"), follow=True)
                self.assertContains(page, "A new password")


        class Memory(SimpleTestCase):
            def setUp(self):
                self.inbox = self.enterContext(Inbox(memory=True, starttls=True))
                backend = "django.core.mail.backends.smtp.EmailBackend"
                self.enterContext(override_settings(EMAIL_BACKEND=backend))

            def test_one(self):
                mail.send_mail("Hi", "Hello", None, ["a@x.test"])
                self.assertEqual(self.inbox[0].rcpt_tos, ["a@x.test"])

            def test_the_next_test_has_an_inbox_of_its_own(self):
                self.assertEqual(len(self.inbox), 0)
        """,
}

FLASK_MAIL = {
    "shop.py": """
        from flask import Flask, request
        from flask_mail import Mail, Message

        mail = Mail()

        def create_app(**config):
            app = Flask(__name__)
            app.config.update(
                MAIL_SERVER="smtp.example.com", MAIL_PORT=587, MAIL_USE_TLS=True,
                MAIL_DEFAULT_SENDER=("Shop", "shop@example.com"),
            )
            app.config.update(config)
            mail.init_app(app)

            @app.post("/signup")
            def signup():
                to = [request.form["email"]]
                message = Message("Your code", recipients=to, body="Your code is 123456.")
                message.attach("terms.txt", "text/plain", "Pay in time.")
                mail.send(message)
                return "sent"

            return app
        """,
    "test_shop.py": """
        import pytest

        from shop import create_app, mail


        @pytest.fixture
        def client(ehlo_smtp):
            return create_app(TESTING=True, **ehlo_smtp.settings("flask")).test_client()


        def test_signup(ehlo_smtp, client):
            assert client.post("/signup", data={"email": "ada@x.test"}).text == "sent"
            received = ehlo_smtp.wait_for(to="ada@x.test", subject="your code")
            assert received.code(6) == "123456"
            assert [each.filename for each in received.attachments] == ["terms.txt"]


        def test_production_settings_in_memory(ehlo_memory):
            ehlo_memory.offer(starttls=True)
            client = create_app(TESTING=True, MAIL_SUPPRESS_SEND=False).test_client()
            client.post("/signup", data={"email": "ada@x.test"})
            assert ehlo_memory[0].mail_from == "shop@example.com"
            assert ehlo_memory[0].tls is not None


        def test_login(ehlo_smtp):
            ehlo_smtp.offer(auth={"shop": "secret"}, require_auth=True)
            client = create_app(TESTING=True, **ehlo_smtp.settings("flask")).test_client()
            client.post("/signup", data={"email": "ada@x.test"})
            assert ehlo_smtp[0].user == "shop"


        def test_a_greylisted_signup_is_an_error(ehlo_smtp, client):
            ehlo_smtp.fail("rcpt", "450 4.2.1 Greylisted")
            with pytest.raises(Exception, match="Greylisted"):
                client.post("/signup", data={"email": "ada@x.test"})
            assert client.post("/signup", data={"email": "ada@x.test"}).status_code == 200
            assert len(ehlo_smtp) == 1
        """,
}

FASTAPI_MAIL = {
    "pytest.ini": "[pytest]\nanyio_mode = auto\npythonpath = .",
    "shop.py": """
        from fastapi_mail import ConnectionConfig, FastMail, MessageSchema, MessageType

        PRODUCTION = dict(
            MAIL_SERVER="smtp.example.com", MAIL_PORT=587, MAIL_STARTTLS=True, MAIL_SSL_TLS=False,
            MAIL_USERNAME="shop", MAIL_PASSWORD="secret", USE_CREDENTIALS=True,
        )

        async def welcome(to, **config):
            settings = ConnectionConfig(MAIL_FROM="shop@example.com", **{**PRODUCTION, **config})
            message = MessageSchema(
                subject="Welcome", recipients=[to], body="<p>Hello</p>", subtype=MessageType.html
            )
            await FastMail(settings).send_message(message)
        """,
    "test_shop.py": """
        import pytest
        from fastapi_mail.errors import ConnectionErrors

        from shop import welcome


        @pytest.fixture
        def anyio_backend():
            return "asyncio"


        async def test_welcome(ehlo_smtp):
            await welcome("ada@example.com", **ehlo_smtp.settings("fastapi"))
            received = await ehlo_smtp.wait_for_async(to="ada@example.com")
            assert received.subject == "Welcome"
            assert "<p>Hello</p>" in received.html


        async def test_production_settings_in_memory(ehlo_memory):
            ehlo_memory.offer(starttls=True, auth={"shop": "secret"}, require_auth=True)
            await welcome("ada@example.com")
            assert ehlo_memory[0].user == "shop"
            assert ehlo_memory[0].tls is not None


        @pytest.mark.parametrize("tls", ["starttls", "implicit_tls"])
        async def test_tls_and_a_login(ehlo_smtp, tls):
            ehlo_smtp.offer(**{tls: True}, auth={"shop": "secret"}, require_auth=True)
            await welcome("ada@example.com", **ehlo_smtp.settings("fastapi"))
            assert ehlo_smtp[0].user == "shop"
            assert ehlo_smtp[0].tls.version == "TLSv1.3"


        async def test_a_wrong_password(ehlo_memory):
            ehlo_memory.offer(starttls=True, auth={"shop": "another"}, require_auth=True)
            with pytest.raises(ConnectionErrors):
                await welcome("ada@example.com")
            assert ehlo_memory.rejected[0].reply.startswith("535")
        """,
}

CELERY = {
    "shop.py": """
        import os
        import smtplib
        from email.message import EmailMessage

        from celery import Celery

        app = Celery("shop", broker="memory://", backend="cache+memory://")

        @app.task(
            autoretry_for=(smtplib.SMTPException,), max_retries=3, default_retry_delay=0
        )
        def welcome(to):
            message = EmailMessage()
            message["From"], message["To"], message["Subject"] = "shop@example.com", to, "Welcome"
            message.set_content("Hello")
            host = os.environ.get("SMTP_HOST", "smtp.example.com")
            with smtplib.SMTP(host, int(os.environ.get("SMTP_PORT", "25"))) as client:
                client.send_message(message)
        """,
    "test_shop.py": """
        import pytest

        from shop import app, welcome


        @pytest.fixture(autouse=True)
        def eager():
            app.conf.update(task_always_eager=True, task_eager_propagates=False)


        def test_welcome(ehlo_memory):
            welcome.delay("ada@x.test")
            assert ehlo_memory.wait_for(to="ada@x.test").subject == "Welcome"


        def test_a_task_is_tried_again(ehlo_memory):
            ehlo_memory.script("451 4.3.0 Try later", "452 4.2.2 Full", "250")
            welcome.delay("ada@x.test")
            assert len(ehlo_memory) == 1
            assert [each.reply[:3] for each in ehlo_memory.rejected] == ["451", "452"]


        def test_a_task_gives_up(ehlo_smtp, monkeypatch):
            for name, value in ehlo_smtp.settings("env").items():
                monkeypatch.setenv(name, value)
            fault = ehlo_smtp.fail("rcpt", "450 4.2.1 Greylisted", times=None)
            welcome.delay("ada@x.test")
            assert fault.used == 4
            assert len(ehlo_smtp) == 0
        """,
}

AIOSMTPLIB = {
    "pytest.ini": "[pytest]\nanyio_mode = auto\npythonpath = .",
    "test_shop.py": """
        import asyncio
        from email.message import EmailMessage

        import aiosmtplib
        import pytest


        @pytest.fixture
        def anyio_backend():
            return "asyncio"


        @pytest.fixture
        def message():
            message = EmailMessage()
            message["From"], message["To"], message["Subject"] = "a@x.test", "b@x.test", "Hi"
            message.set_content("Hello")
            return message


        async def test_port(ehlo_smtp, message):
            await aiosmtplib.send(message, hostname=ehlo_smtp.host, port=ehlo_smtp.port)
            assert (await ehlo_smtp.wait_for_async(subject="hi")).text == "Hello\\n"


        async def test_memory(ehlo_memory, message):
            ehlo_memory.offer(starttls=True)
            await aiosmtplib.send(message, hostname="smtp.example.com", port=587, start_tls=True)
            assert ehlo_memory[0].tls is not None


        async def test_tls(ehlo_smtp, message):
            ehlo_smtp.offer(implicit_tls=True, auth={"a": "b"}, require_auth=True)
            await aiosmtplib.send(
                message, hostname="localhost", port=ehlo_smtp.port, use_tls=True,
                username="a", password="b", tls_context=ehlo_smtp.client_context,
            )
            assert ehlo_smtp[0].user == "a"


        async def test_many_at_once(ehlo_smtp, message):
            sends = [
                aiosmtplib.send(message, hostname=ehlo_smtp.host, port=ehlo_smtp.port)
                for _ in range(10)
            ]
            await asyncio.gather(*sends)
            await ehlo_smtp.wait_for_async(count=10)


        async def test_a_lost_connection(ehlo_memory, message):
            ehlo_memory.drop("end")
            with pytest.raises(aiosmtplib.SMTPServerDisconnected):
                await aiosmtplib.send(message, hostname="smtp.example.com", port=25)
        """,
}

SMTPLIB = {
    "test_shop.py": """
        import smtplib
        import ssl

        import pytest

        MAIL = "From: a@x.test\\nTo: b@x.test\\nSubject: Hi\\n\\nHello\\n"


        def send(client):
            with client:
                return client.sendmail("a@x.test", ["b@x.test"], MAIL)


        def test_port(ehlo_smtp):
            send(smtplib.SMTP(ehlo_smtp.host, ehlo_smtp.port))
            assert ehlo_smtp.wait_for(to="b@x.test").subject == "Hi"


        def test_memory(ehlo_memory):
            send(smtplib.SMTP("smtp.example.com"))
            assert ehlo_memory[0].subject == "Hi"


        def test_starttls(ehlo_smtp):
            ehlo_smtp.offer(starttls=True)
            client = smtplib.SMTP("localhost", ehlo_smtp.port)
            client.starttls(context=ehlo_smtp.client_context)
            send(client)
            assert ehlo_smtp[0].tls.version == "TLSv1.3"


        def test_ssl(ehlo_smtp):
            ehlo_smtp.offer(implicit_tls=True)
            send(smtplib.SMTP_SSL("localhost", ehlo_smtp.port, context=ehlo_smtp.client_context))
            assert ehlo_smtp[0].tls.version == "TLSv1.3"


        def test_ssl_in_memory(ehlo_memory):
            send(smtplib.SMTP_SSL("smtp.example.com"))
            assert ehlo_memory[0].tls is not None


        def test_ssl_with_an_unknown_certificate(ehlo_smtp):
            ehlo_smtp.offer(implicit_tls=True)
            with pytest.raises(ssl.SSLCertVerificationError):
                smtplib.SMTP_SSL(
                    "localhost", ehlo_smtp.port, context=ssl.create_default_context()
                )


        def test_some_recipients(ehlo_memory):
            ehlo_memory.fail("rcpt", "550 5.1.1 No such user", to="gone@x.test")
            with smtplib.SMTP("smtp.example.com") as client:
                refused = client.sendmail("a@x.test", ["gone@x.test", "b@x.test"], MAIL)
            assert refused == {"gone@x.test": (550, b"5.1.1 No such user")}
            assert ehlo_memory[0].rcpt_tos == ["b@x.test"]
        """,
}

PROCESS = {
    "program.py": """
        import os
        import smtplib
        import ssl

        host, port = os.environ["SMTP_HOST"], int(os.environ["SMTP_PORT"])
        kind = smtplib.SMTP_SSL if os.environ["SMTP_URL"].startswith("smtps:") else smtplib.SMTP
        with kind(host, port) as client:
            if client.ehlo() and client.has_extn("starttls"):
                client.starttls(context=ssl.create_default_context())
            if "SMTP_USERNAME" in os.environ:
                client.login(os.environ["SMTP_USERNAME"], os.environ["SMTP_PASSWORD"])
            client.sendmail("a@x.test", ["b@x.test"], "Subject: From another process\\n\\nHello\\n")
        """,
    "test_program.py": """
        import os
        import subprocess
        import sys

        import pytest


        def start(inbox):
            environment = {**os.environ, **inbox.settings("env")}
            return subprocess.Popen([sys.executable, "program.py"], env=environment)


        def test_program(ehlo_smtp):
            with start(ehlo_smtp) as program:
                assert ehlo_smtp.wait_for(timeout=60).subject == "From another process"
            assert program.returncode == 0


        @pytest.mark.parametrize("tls", ["starttls", "implicit_tls"])
        def test_tls_that_the_program_trusts_and_a_login(ehlo_smtp, tls):
            ehlo_smtp.offer(**{tls: True}, auth={"user": "secret"}, require_auth=True)
            with start(ehlo_smtp) as program:
                received = ehlo_smtp.wait_for(timeout=60)
            assert (received.user, received.tls.version) == ("user", "TLSv1.3")
            assert program.returncode == 0


        def test_the_program_fails_if_its_mail_does(ehlo_smtp):
            ehlo_smtp.fail("end", "554 5.7.1 Spam")
            with start(ehlo_smtp) as program:
                pass
            assert program.returncode != 0
            assert len(ehlo_smtp) == 0
        """,
}

UNITTEST = {
    "test_shop.py": """
        import smtplib
        import unittest

        from ehlo.testing import Inbox


        class Welcome(unittest.TestCase):
            def setUp(self):
                self.inbox = self.enterContext(Inbox())

            def test_welcome(self):
                with smtplib.SMTP(self.inbox.host, self.inbox.port) as client:
                    client.sendmail("a@x.test", ["b@x.test"], "Subject: Welcome\\n\\nHello\\n")
                self.assertEqual(self.inbox.wait_for(to="b@x.test").subject, "Welcome")
        """,
}

# Tests of a project in its own words, which this run of pytest runs, too
EXAMPLES = {
    "test_examples.py": Path(__file__).with_name("test_examples_of_users.py").read_text("utf-8")
}

# Django 6.1 prefers MAILERS to what all versions have
WARNINGS = ("-W", "error", "-W", "ignore:The EMAIL_", "-W", "ignore:The 'fail_silently'")
PYTEST = ("pytest", "-q", "-p", "no:cacheprovider", *WARNINGS, "-p", "ehlo.testing.plugin")
TWO = ("-p", "xdist", "-n", "2")


def run(directory: Path, files: dict[str, str], command: tuple[str, ...]) -> str:
    """Write a project and run a command in it; return what it printed."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
    left_out = ("PYTEST", "COV", "SMTP", "DJANGO")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(left_out)}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=directory,
        env={**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


# Files, plugins, and how many tests there are
PROJECTS: dict[str, tuple[dict[str, str], tuple[str, ...], int]] = {
    "pytest-django": (PYTEST_DJANGO, ("-p", "pytest_django.plugin"), 7),
    "flask-mail": (FLASK_MAIL, (), 4),
    "fastapi-mail": (FASTAPI_MAIL, ("-p", "anyio"), 5),
    "celery": (CELERY, (), 3),
    "aiosmtplib": (AIOSMTPLIB, ("-p", "anyio"), 5),
    "smtplib": (SMTPLIB, (), 7),
    "process": (PROCESS, (), 4),
    "unittest": (UNITTEST, (), 1),
    "examples": (EXAMPLES, ("-p", "anyio"), 11),
}
# What a second process needs does not depend on the framework
IN_TWO = quick(("smtplib",), most=tuple(PROJECTS))


def passes(directory: Path, project: str, *options: str) -> bool:
    files, plugins, passed = PROJECTS[project]
    return f"{passed} passed" in run(directory, files, (*PYTEST, *plugins, *options))


@pytest.mark.parametrize("project", PROJECTS)
def test_a_project(tmp_path: Path, project: str) -> None:
    assert passes(tmp_path, project)


@pytest.mark.parametrize("project", IN_TWO)
def test_a_project_in_two_processes(tmp_path: Path, project: str) -> None:
    assert passes(tmp_path, project, *TWO)


@pytest.mark.parametrize("options", [(), ("--parallel", "2")])
def test_a_project_with_the_test_runner_of_django(tmp_path: Path, options: tuple[str, ...]) -> None:
    output = run(tmp_path, DJANGO_RUNNER, ("django", "test", "--settings", "settings", *options))
    assert "Ran 3 tests" in output
    assert "\nOK\n" in output


def test_a_project_without_pytest(tmp_path: Path) -> None:
    assert "\nOK\n" in run(tmp_path, UNITTEST, ("unittest", "-q"))
