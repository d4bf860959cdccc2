"""The plugin, in a pytest of its own: fixtures, settings, reports, and what stays behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SEND = """
import smtplib

def send(host="smtp.example.com", port=25, to="b@example.com", subject="Hello"):
    with smtplib.SMTP(host, port, timeout=60) as client:
        client.sendmail("a@example.com", [to], f"Subject: {subject}\\n\\nHi there\\n")
"""


class Project:
    """A directory with tests, and a pytest that runs them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "mailing.py").write_text(SEND)
        (path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")

    def write(self, source: str, name: str = "test_it.py") -> None:
        (self.path / name).write_text("from mailing import send\n" + textwrap.dedent(source))

    def set(self, *lines: str) -> None:
        (self.path / "pytest.ini").write_text("\n".join(["[pytest]", "pythonpath = .", *lines]))

    def run(self, *arguments: str, code: int = 0, plugins: str = "") -> str:
        """Run with the plugin and `plugins`; `"*"` is all that are installed, as users have it."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
        if plugins == "*":
            command += ["-p", "no:asyncio"]  # it wants a setting; the others are slow to import
            command += ["-p", "no:schemathesis", "-p", "no:django"]
        else:
            environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
            for name in ["ehlo.testing.plugin", *plugins.split()]:
                command += ["-p", name]
        done = subprocess.run(
            [*command, *arguments],
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        output = done.stdout + done.stderr
        assert done.returncode == code, output
        return output


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_the_fixtures_are_there_without_an_import(project: Project) -> None:
    project.write("""
        def test_port(ehlo_smtp):
            send(ehlo_smtp.host, ehlo_smtp.port)
            assert ehlo_smtp.wait_for(to="b@example.com").subject == "Hello"

        def test_memory(ehlo_memory):
            send()
            assert ehlo_memory[0].subject == "Hello"

        def test_factory(ehlo_inbox_factory):
            first = ehlo_inbox_factory()
            second = ehlo_inbox_factory(memory=True, size=1000)
            send()
            send(first.host, first.port)
            assert (len(first), len(second)) == (1, 1)

        def test_both(ehlo_smtp, ehlo_memory):
            send()
            assert (len(ehlo_smtp), len(ehlo_memory)) == (0, 1)
    """)
    assert "4 passed" in project.run("-W", "error", plugins="*")
    assert "ehlo_smtp" in project.run("--fixtures")
    assert "4 passed" in project.run("-n", "2", plugins="xdist.plugin")


def test_tests_share_nothing_but_a_thread(project: Project) -> None:
    project.write("""
        import socket, threading
        import pytest

        seen = []

        @pytest.mark.parametrize("number", range(5))
        def test_one(ehlo_smtp, number):
            assert len(ehlo_smtp) == 0
            send(ehlo_smtp.host, ehlo_smtp.port)
            seen.append(ehlo_smtp)
            assert [each.name for each in threading.enumerate()].count("ehlo-testing") == 1

        def test_ports_are_closed():
            for inbox in seen:
                assert len(inbox) == 1
                with pytest.raises(RuntimeError):
                    inbox.port
    """)
    assert "6 passed" in project.run("-W", "error")


# -- reports ---------------------------------------------------------------------------------------


FAILING = """
    def test_fails(ehlo_memory):
        send(subject="Number 1")
        ehlo_memory.fail("rcpt", "550 5.1.1 No such user")
        try:
            send()
        except Exception:
            pass
        assert ehlo_memory.wait_for(to="other@example.com", timeout=0)

    def test_passes(ehlo_memory):
        send(subject="Number 2")
"""


def test_a_failed_test_shows_its_mails_and_its_sessions(project: Project) -> None:
    project.write(FAILING)
    output = project.run(code=1)
    assert "E       AssertionError: no mail to other@example.com within 0 s" in output
    assert "test_it.py:10: AssertionError" in output  # and no line of ehlo
    assert "mailbox.py" not in output
    assert "mail 1 from a@example.com to b@example.com\n  Subject: Number 1" in output
    assert "S: 550 5.1.1 No such user" in output
    assert "Number 2" not in output
    assert "Number 2" in project.run("-rA", "-o", "ehlo_attach=always", code=1)
    assert "Subject: Number 1" not in project.run("-o", "ehlo_attach=never", code=1)
    assert "Subject: Number 1" in project.run("-n", "1", plugins="xdist.plugin", code=1)


def test_mails_of_a_failed_test_become_files_where_that_is_asked(project: Project) -> None:
    project.write(FAILING)
    project.run(code=1)
    assert list(project.path.rglob("*.eml")) == []
    project.set("ehlo_attach = failed reports/mail")
    project.run(code=1)
    (path,) = project.path.rglob("*.eml")
    assert path.relative_to(project.path) == Path("reports/mail/test_it.py_test_fails/1.eml")
    assert path.read_bytes() == b"Subject: Number 1\r\n\r\nHi there\r\n"


def test_files_of_one_test_do_not_replace_those_of_another(project: Project) -> None:
    project.write("""
        import pytest

        @pytest.mark.parametrize("name", ["a/b", "a b", "a:b", "long " * 50, "long " * 51])
        def test_it(ehlo_memory, name):
            send()
            raise KeyError
    """)
    project.set("ehlo_attach = failed mail")
    project.run(code=1)
    assert len(list(project.path.rglob("*.eml"))) == 5


def test_a_failure_while_another_fixture_is_made_is_shown_too(project: Project) -> None:
    project.write("""
        import pytest

        @pytest.fixture
        def broken(ehlo_memory):
            send()
            raise KeyError

        def test_it(broken):
            pass
    """)
    assert "Subject: Hello" in project.run(code=1)


def test_a_fault_that_was_never_used_is_a_warning(project: Project) -> None:
    project.write("""
        def test_passes(ehlo_memory):
            ehlo_memory.fail("rcpt")

        def test_fails(ehlo_memory):
            ehlo_memory.fail("data")
            raise KeyError
    """)
    output = project.run(code=1)
    assert "1 failed, 1 passed, 1 warning" in output
    assert re.search(r"test_it.py:4: UnusedFaultWarning: fail\('rcpt', .*\) was never used", output)
    assert "1 failed, 1 passed, 1 error" in project.run("-W", "error", code=1)
    option = "ignore::ehlo.testing.UnusedFaultWarning"
    assert "warning" not in project.run("-W", option, "-k", "passes")


# -- settings --------------------------------------------------------------------------------------


def test_a_wait_takes_the_timeout_of_the_settings(project: Project) -> None:
    project.write("""
        def test_it(ehlo_memory, ehlo_inbox_factory):
            assert ehlo_memory.wait_timeout == 0.25
            assert ehlo_inbox_factory().wait_timeout == 0.25
            assert ehlo_inbox_factory(wait_timeout=1).wait_timeout == 1
    """)
    project.set("ehlo_wait_timeout = 0.25")
    project.run()


def test_a_setting_that_is_wrong_is_an_error_in_one_line(project: Project) -> None:
    project.write("def test_it(): pass\n")
    for line, message in {
        "ehlo_wait_timeout = nan": "ehlo_wait_timeout is 'nan'; write a number of seconds",
        "ehlo_wait_timeout = -1": "ehlo_wait_timeout is '-1'; write a number of seconds",
        "ehlo_attach = often": "ehlo_attach is 'often'; write failed, always or never",
        "ehlo_attach = failed a b": "ehlo_attach is 'failed a b'; write failed, always or",
    }.items():
        project.set(line)
        output = project.run(code=4)
        assert f"ERROR: {message}" in output
        assert "Traceback" not in output


# -- other frameworks of tests ---------------------------------------------------------------------


def test_pytest_asyncio(project: Project) -> None:
    pytest.importorskip("pytest_asyncio")
    project.write("""
        import aiosmtplib, pytest
        from email.message import EmailMessage

        @pytest.mark.asyncio
        @pytest.mark.parametrize("fixture", ["ehlo_smtp", "ehlo_memory"])
        async def test_it(request, fixture):
            inbox = request.getfixturevalue(fixture)
            message = EmailMessage()
            message["From"], message["To"] = "a@example.com", "b@example.com"
            await aiosmtplib.send(message, hostname=inbox.host, port=inbox.port)
            assert await inbox.wait_for_async(to="b@example.com")
    """)
    project.set("asyncio_default_fixture_loop_scope = function")
    assert "2 passed" in project.run("-W", "error", plugins="pytest_asyncio.plugin")


def test_anyio(project: Project) -> None:
    project.write("""
        import anyio.to_thread, pytest

        @pytest.mark.anyio
        async def test_it(ehlo_smtp, ehlo_memory, anyio_backend_name):
            await anyio.to_thread.run_sync(send)
            await anyio.to_thread.run_sync(send, ehlo_smtp.host, ehlo_smtp.port)
            assert await ehlo_memory.wait_for_async(to="b@example.com")
            assert await ehlo_smtp.wait_for_async(to="b@example.com")
    """)
    assert "2 passed" in project.run("-W", "error", plugins="anyio.pytest_plugin")


UNITTEST = """
    import unittest
    from ehlo.testing import Inbox

    class Tests(unittest.TestCase):
        def setUp(self):
            self.inbox = self.enterContext(Inbox())
            self.memory = self.enterContext(Inbox(memory=True))

        def test_it(self):
            send()
            with self.inbox.smtp() as client:
                client.sendmail("a@example.com", "b@example.com", "Subject: Hello")
            self.assertEqual(self.inbox.wait_for(to="b@example.com").subject, "Hello")
            self.assertEqual(len(self.memory), 1)

    if __name__ == "__main__":
        unittest.main()
"""


def test_unittest_by_itself_and_below_pytest(project: Project) -> None:
    project.write(UNITTEST)
    assert "1 passed" in project.run("-W", "error")
    command = [sys.executable, "-W", "error", "-X", "dev", "test_it.py"]
    done = subprocess.run(
        command, cwd=project.path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_a_unittest_may_use_the_fixtures(project: Project) -> None:
    project.write("""
        import unittest
        import pytest

        class Tests(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _inbox(self, ehlo_memory):
                self.inbox = ehlo_memory

            def test_it(self):
                send()
                self.assertEqual(len(self.inbox), 1)
    """)
    assert "1 passed" in project.run("-W", "error")


def test_no_pytest_is_needed(project: Project) -> None:
    program = """
        import sys
        sys.modules["pytest"] = None  # an import of it fails
        from ehlo.testing import Inbox
        with Inbox() as inbox:
            send(inbox.host, inbox.port)
            assert len(inbox) == 1
        with Inbox(memory=True) as memory:
            send()
            assert len(memory) == 1
        print("fine")
    """
    project.write(program, "program.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        cwd=project.path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr


# -- the end ---------------------------------------------------------------------------------------


def test_a_thousand_tests_leave_nothing_behind(project: Project) -> None:
    project.write(
        """
        import asyncio, gc, os, threading
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def nothing_left():
            before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else None
            yield
            gc.collect()
            assert [each.name for each in threading.enumerate()] == ["MainThread"]
            if before is not None:
                assert len(os.listdir("/proc/self/fd")) <= before

        @pytest.fixture(scope="session", autouse=True)
        def tasks_left(nothing_left, _ehlo_commons):
            yield

            async def tasks():
                return len(asyncio.all_tasks())

            assert _ehlo_commons.thread.call(tasks) == 1

        @pytest.mark.parametrize("number", range(500))
        def test_port(ehlo_smtp, number):
            send(ehlo_smtp.host, ehlo_smtp.port)
            assert len(ehlo_smtp) == 1

        @pytest.mark.parametrize("number", range(500))
        def test_memory(ehlo_memory, number):
            send()
            assert len(ehlo_memory) == 1
        """
    )
    output = project.run("-W", "error", "-q")
    assert "1000 passed" in output
    assert "warning" not in output


def test_a_test_that_fails_amid_a_session_does_not_hang(project: Project) -> None:
    project.write("""
        import smtplib, threading

        def test_it(ehlo_smtp):
            ehlo_smtp.delay("mail", 3600)
            client = smtplib.SMTP(ehlo_smtp.host, ehlo_smtp.port)
            client.putcmd("EHLO client.example")
            client.getreply()
            client.putcmd("MAIL FROM:<a@example.com>")
            assert False

        def test_next(ehlo_smtp):
            send(ehlo_smtp.host, ehlo_smtp.port)
    """)
    assert "1 failed, 1 passed" in project.run(code=1)


@pytest.mark.skipif(os.name != "posix", reason="signals are sent")
@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_test_that_is_killed_does_not_hang(project: Project, signal: str) -> None:
    project.write(f"""
        import os, signal

        def test_it(ehlo_smtp, ehlo_memory):
            ehlo_smtp.delay("connect", 3600)
            client = __import__("socket").create_connection((ehlo_smtp.host, ehlo_smtp.port))
            os.kill(os.getpid(), signal.{signal})
            ehlo_smtp.wait_for(timeout=60)
    """)
    codes = {"SIGINT": 2, "SIGTERM": -15, "SIGKILL": -9}
    project.run(code=codes[signal])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_process_that_was_forked_does_not_hang(project: Project) -> None:
    project.write("""
        import os

        def test_it(ehlo_smtp):
            send(ehlo_smtp.host, ehlo_smtp.port)
            child = os.fork()
            if not child:
                try:
                    send(ehlo_smtp.host, ehlo_smtp.port)  # the parent's server answers
                    ehlo_smtp.close()
                finally:
                    os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert ehlo_smtp.wait_for(count=2)
    """)
    project.run()


# -- the start -------------------------------------------------------------------------------------


def loaded_by(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return set(done.stdout.decode().split())


def test_the_plugin_loads_nothing_of_ehlo_but_itself() -> None:
    loaded = loaded_by("import pytest; import ehlo.testing.plugin")
    assert {name for name in loaded if name.partition(".")[0] == "ehlo"} == {
        *("ehlo", "ehlo.testing", "ehlo.testing.plugin")
    }
    more = loaded - loaded_by("import pytest")
    assert {name for name in more if not name.startswith("ehlo")} == set()


def test_pytest_loads_nothing_heavy_until_a_fixture_is_used(project: Project) -> None:
    project.write("""
        import sys

        def test_it():
            assert not {"asyncio", "ehlo.protocol", "aiosmtplib"} & set(sys.modules)
    """)
    project.run()
