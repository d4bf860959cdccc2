"""Floods of logins: who guesses passwords delays neither mail nor the logins of others.

The short form asserts who gets in and what is counted; the full form also the times.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ehlo import PasswordFile
from robustness.process import Launch, Launched, Tell
from robustness.scale import IN_FULL, full
from support.client import Client
from support.logins import encoded, plain, scram
from support.passwords import write

ACCEPTED = "235 2.7.0 Authentication successful"
ATTACKERS = ("127.0.0.2", "127.0.0.3")
GUESSERS = full(20, short=3)  # for each address
PATIENCE = 0.5  # seconds for which one waits for its reply, before it resets the connection
STRICT = ("--exempt-networks", "none", "--max-connection-rate", "0")


@contextlib.contextmanager
def attacked(server: Launched, guess: bytes, unlimited: bool) -> Iterator[None]:
    """Guess from two addresses, again and again, without waiting for the reply to a failure.

    Unless it is `unlimited`, each of them has used up its failures when this is entered.
    """
    stop = threading.Event()
    rejected = dict.fromkeys(ATTACKERS, unlimited)

    def attack(source: str) -> None:
        while not stop.is_set():
            with (
                contextlib.suppress(OSError, EOFError),
                Client(server.address, source=source) as client,
            ):
                client.hello()
                client.send(guess)
                client.sock.settimeout(PATIENCE)
                try:
                    rejected[source] |= client.reply().startswith("421")
                finally:
                    client.reset()

    threads = [threading.Thread(target=attack, args=(each,)) for each in ATTACKERS * GUESSERS]
    for thread in threads:
        thread.start()
    try:
        while not all(rejected.values()):
            stop.wait(0.01)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def log_in_under(server: Launched, tell: Tell, log_in: Callable[[Client], str]) -> None:
    """Log in and send mail from another address; in the full form, measure both."""
    logins, mails = [], []
    for _ in range(full(40, short=3)):
        with Client(server.address) as client:
            client.hello()
            begun = time.monotonic()
            assert log_in(client) == ACCEPTED
            logins.append(time.monotonic() - begun)
            begun = time.monotonic()
            assert client.mail().startswith("250 ")
            mails.append(time.monotonic() - begun)
    for name, times in (("login", logins), ("mail", mails)):
        tell(f"{name}: median {statistics.median(times):.3f} s, at most {max(times):.3f} s")
    if IN_FULL:
        assert statistics.median(mails) < 0.1
        assert max(mails) < 1.0


@pytest.mark.parametrize("unlimited", [False, True])
def test_wrong_passwords_from_two_addresses_keep_no_user_from_logging_in(
    launch: Launch, tell: Tell, tmp_path: Path, unlimited: bool
) -> None:
    """With a limit they are soon turned away; without one, addresses take turns."""
    users = write(tmp_path / "users", alice="wonder")
    if IN_FULL:
        PasswordFile(users).set("alice", "wonder")
    most = "0" if unlimited else "10"
    server = launch(
        *("Log", "--auth-file", str(users), "--auth-mechs", "PLAIN=on"),
        *("--max-auth-failures", most, *STRICT),
    )
    guess = plain("alice", "guess").encode() + b"\r\n"
    with attacked(server, guess, unlimited):
        log_in_under(server, tell, lambda client: client.say(plain("alice", "wonder")))


NAMES = {"a user": "alice", "2 KB": "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 255}


@pytest.mark.parametrize("name", NAMES)
def test_scram_first_messages_from_two_addresses_keep_no_user_from_logging_in(
    launch: Launch, tell: Tell, name: str
) -> None:
    server = launch("Secretive", "--max-auth-failures", "0", *STRICT)
    first = encoded(f"n,a={NAMES[name]},n={NAMES[name]},r=abc")
    guess = f"AUTH SCRAM-SHA-256 {first}\r\n".encode()
    with attacked(server, guess, unlimited=True):
        log_in_under(server, tell, lambda client: scram(client, "alice", "wonder"))
