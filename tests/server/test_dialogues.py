"""Each dialogue against a real server on a real socket: the same lines, the same messages."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ehlo import Address, Credentials, Handler, Message, Reject, Reply, Session
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.server.answer import Answers
from support.certificates import Certificates
from support.dialogue import (
    APPNAME,
    HOSTNAME,
    Received,
    Rules,
    Scenario,
    Step,
    matches,
    resolve,
    scenarios,
)
from support.examples import each_with, quick
from support.serving import Serve

ALL = [scenario for scenario in scenarios() if scenario.rules.values.get("only") != "core"]
BLASTED = [
    scenario
    for scenario in ALL
    if not scenario.as_written
    and not any("{cram" in step.text or "{final" in step.text for step in scenario.steps)
]


WAYS = ["usual", "general"]  # of a packet
BY_DEFAULT = (*(name for name in MECHANISMS if "SCRAM" in name), "CRAM-MD5", "LOGIN", "PLAIN")


class Script(Handler):
    """What a dialogue's settings say that the hooks answer."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.messages: list[Received] = []

    async def _answer(self, hook: str, argument: str = "") -> Reply | str | None:
        answer = self._rules.answer(hook, argument)
        if answer == "crash":
            raise RuntimeError("as the dialogue wants it")
        if answer == "hang":
            await asyncio.Event().wait()
        return answer

    async def _reply(self, hook: str, argument: str = "") -> Reply | None:
        answer = await self._answer(hook, argument)
        assert not isinstance(answer, str)
        return answer

    async def on_connect(self, session: Session) -> Reply | None:
        return await self._reply("connect")

    async def on_tls(self, session: Session) -> Reply | None:
        return await self._reply("tls")

    async def on_hello(self, session: Session, name: str) -> Reply | None:
        return await self._reply("hello", name)

    async def on_mail(
        self, session: Session, sender: Address, params: Mapping[str, Any]
    ) -> Reply | None:
        return await self._reply("mail", str(sender))

    async def on_rcpt(
        self, session: Session, recipient: Address, params: Mapping[str, Any]
    ) -> Reply | None:
        return await self._reply("rcpt", str(recipient))

    async def on_data(self, session: Session) -> Reply | None:
        return await self._reply("data")

    async def on_vrfy(self, session: Session, text: str) -> Reply | None:
        return await self._reply("vrfy", text)

    async def on_reset(self, session: Session) -> Reply | None:
        return await self._reply("reset")

    async def on_message(self, session: Session, message: Message) -> Reply | str | None:
        answer = await self._answer("message")
        if not isinstance(answer, Reply) or not answer.refuses:
            recipients = [str(recipient) for recipient in message.recipients]
            self.messages.append(Received(str(message.sender), recipients, message.body))
        for recipient in message.recipients if message.per_recipient else ():
            refusal = self._rules.delivery(str(recipient))
            if refusal is not None:
                message.refuse(recipient, refusal)
        return answer

    async def on_command(self, session: Session, verb: str, argument: str) -> Reply | None:
        return await self._reply("command", f"{verb} {argument}".strip())


class ScriptWithLogin(Script):
    """PLAIN and LOGIN are there when this hook is."""

    async def on_auth(self, session: Session, credentials: Credentials) -> str | Reply | None:
        name = getattr(credentials, "username", "anonymous")
        answer = await self._reply("auth", name)
        if answer is not None:
            return answer
        return name if self._rules.knows(credentials) else None


class ScriptWithSecrets(ScriptWithLogin):
    """And CRAM-MD5 and SCRAM when this one is."""

    async def on_secret(self, session: Session, username: str) -> str | None:
        answer = await self._reply("auth", username)
        if answer is not None:
            raise Reject.of(answer)
        return self._rules.users.get(username)


def options_of(scenario: Scenario, certificates: Certificates) -> dict[str, Any]:
    """The server's options that say what the dialogue's settings say."""
    rules, settings = scenario.rules, scenario.settings
    options: dict[str, Any] = {
        "hostname": HOSTNAME,
        "appname": APPNAME,
        "max_size": settings.max_size,
        "max_recipients": settings.max_recipients,
        "max_recipient_domains": settings.max_recipient_domains,
        "max_messages": settings.max_messages,
        "max_refused_recipients": settings.limits.refused_recipients,
        "max_errors": settings.limits.errors,
        "slow_errors": settings.limits.slow_errors,
        "max_idle_commands": settings.limits.idle_commands,
        "extensions": rules.extensions,
        "max_memory": rules.number("max_memory", 0),
        "bare_newlines": rules.values.get("bare_newlines", "normalise"),
        "unknown_params": rules.values.get("unknown_params", "reject"),
        "strict_eol": settings.strict_eol,
        "lenient_addresses": settings.lenient_addresses,
        "lmtp": settings.lmtp,
        **{
            f"{verb.lower()}_networks": ["127.0.0.0/8"]
            for verb in rules.values.get("trusted", "").split()
        },
        "own_extensions": scenario.own_extensions,
        "tls_required": settings.tls_required,
        "tls_listener": "tls_listener" in rules.flags,
        "auth_required": settings.auth_required,
        "auth_mechs": {
            **{name: False for name in BY_DEFAULT if name not in rules.mechanisms},
            **{name: True for name in rules.mechanisms if name not in BY_DEFAULT},
            **dict.fromkeys(rules.opened, True),
        },
    }
    if rules.flags & {"tls", "tls_required", "tls_listener"}:
        options["tls_config"] = certificates.server()
    if "hang" in rules.answers.values():
        options["handler_timeout"] = 0.05
    if any(step.kind == "event" and step.text == "idle" for step in scenario.steps):
        options["timeout"] = 0.5
    return options


def quiet_script_of(rules: Rules) -> Script:
    """Of the hooks, only those that the dialogue needs: most usual packets ask none."""
    script = script_of(rules)
    needed = {"on_message", "on_command"} | {f"on_{hook}" for hook, _ in rules.answers}
    names = {name for name in vars(Script) if name.startswith("on_")} - needed
    quiet = {name: getattr(Handler, name) for name in names}
    made: Script = type("Quiet", (type(script),), quiet)(rules)
    return made


def script_of(rules: Rules) -> Script:
    if any(name == "CRAM-MD5" or name.startswith("SCRAM-") for name in rules.mechanisms):
        return ScriptWithSecrets(rules)
    return ScriptWithLogin(rules) if rules.mechanisms else Script(rules)


class Player:
    """A client that says its lines, and hears the server's one by one."""

    def __init__(
        self,
        scenario: Scenario,
        serve: Serve,
        certificates: Certificates,
        make_script: Callable[[Rules], Script] = script_of,
    ) -> None:
        self._scenario = scenario
        self._script = make_script(scenario.rules)
        self._running = serve(self._script, **options_of(scenario, certificates))
        self._tls = certificates.client
        at_once = self._tls if "tls_listener" in scenario.rules.flags else None
        self._client = self._running.client(tls=at_once)
        self._challenge = b""

    def play(self, steps: list[Step]) -> None:
        """Say the lines of the client, those in a row as one, and hear those of the server."""
        for kind, row in itertools.groupby(steps, key=lambda step: step.kind):
            if kind == "client":
                said = b"".join(resolve(step, self._challenge) for step in row)
                self._client.send(said)
            else:
                for step in row:
                    self._act(step)

    def _act(self, step: Step) -> None:
        match step.kind:
            case "server":
                self._hear(step)
            case "tls":
                self._client.wrap(self._tls)
            case "eof":
                self._client.end()
            case "closed":
                assert self._client.is_closed()
            case _:
                self._happen(step.text)

    def _hear(self, step: Step) -> None:
        line = self._client.line()
        assert matches(step.text, line), (step.line, line, step.text)
        if line.startswith("334 "):
            self._challenge = base64.b64decode(line[4:])

    def _happen(self, event: str) -> None:
        if event == "drain":
            loop = self._running.runtime.loop
            asyncio.run_coroutine_threadsafe(self._running.server.shutdown(), loop)
            self._running.run(self._running.turn)  # the shutdown has begun before this has

    def finish(self) -> None:
        """The client goes; afterwards the messages are those of the dialogue."""
        self._client.close()
        self._running.wait_until_no_sessions()
        assert self._script.messages == self._scenario.messages


@pytest.fixture(autouse=True)
def _no_waiting(no_delay: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delays have tests of their own."""
    monkeypatch.setattr(Answers, "tarpit", lambda answers, _event: answers.connection.resume())


@pytest.fixture(autouse=True)
def _no_disk(full_disk: None) -> None:
    """What a dialogue says of memory is about memory."""


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("scenario", "way"),
    each_with([(scenario,) for scenario in ALL], WAYS),
    ids=str,
    indirect=["way"],
)
def test_server_answers_each_step_as_written(
    scenario: Scenario, serve: Serve, certificates: Certificates
) -> None:
    player = Player(scenario, serve, certificates)
    player.play(scenario.steps)
    player.finish()


@pytest.mark.parametrize("scenario", quick(ALL[1::2], most=ALL), ids=str)
def test_server_answers_each_step_as_written_with_few_hooks(
    scenario: Scenario, serve: Serve, certificates: Certificates
) -> None:
    player = Player(scenario, serve, certificates, quiet_script_of)
    player.play(scenario.steps)
    player.finish()


@pytest.mark.parametrize("scenario", quick(BLASTED[::2], most=BLASTED), ids=str)
def test_server_answers_the_same_when_all_is_sent_at_once(
    scenario: Scenario, serve: Serve, certificates: Certificates
) -> None:
    player = Player(scenario, serve, certificates)
    for phase in scenario.phases():
        first = {"tls": 0, "event": 0, "client": 1}
        player.play(sorted(phase, key=lambda step: first.get(step.kind, 2)))
    player.finish()
