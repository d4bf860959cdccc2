"""The counts of a server match what clients did."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from ehlo import Handler, Message, Reject, Reply, Session
from ehlo.server.observing.stats import Histogram, Stats, merge, most, total
from support.certificates import Certificates
from support.logins import plain
from support.serving import Box, Running, Serve


def seen(running: Running) -> dict[str, Any]:
    """Return a snapshot, by way of JSON."""
    run = running.server.running
    assert run is not None
    found: dict[str, Any] = json.loads(json.dumps(running.run(run.snapshot)))
    return found


def counted(running: Running) -> dict[str, Any]:
    """Return the counts, once all sessions have ended."""
    running.wait_until_no_sessions()
    stats: dict[str, Any] = seen(running)["stats"]
    return stats


class Choosy(Handler):
    async def on_rcpt(self, session: Session, recipient: object, params: object) -> None:
        if str(recipient).startswith("no"):
            raise Reject(550, "5.1.1", "No such user here")

    async def on_message(self, session: Session, message: Message) -> None:
        if b"spam" in message.body:
            raise Reject(554, "5.7.1", "No, thank you")


def test_counts_reconcile_with_what_clients_did(serve: Serve) -> None:
    running = serve(Choosy())
    sent = (
        b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<no@c.example>\r\nRCPT TO:<d@c.example>\r\n"
        b"DATA\r\nhello\r\n.\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<d@c.example>\r\n"
        b"DATA\r\nspam\r\n.\r\nNONSENSE\r\nQUIT\r\n"
    )
    with running.client() as client:
        client.send(sent)
        received = client.rest()
    stats = counted(running)
    assert stats["connections"] == 1
    commands = {"EHLO": 1, "MAIL": 2, "RCPT": 3, "DATA": 2, "unknown": 1, "QUIT": 1}
    assert stats["commands"] == commands
    codes = [line[:3] for line in received.decode().splitlines() if line[3] == " "]
    assert stats["replies"] == {code: codes.count(code) for code in set(codes)}
    assert stats["refusals"] == {
        "RCPT 550 other": 1,
        "END-OF-DATA 554 other": 1,
        "unknown 500 unknown_command": 1,
    }
    assert stats["messages"] == {"accepted": 1, "refused": 1}
    assert stats["bytes"] == {"received": len(sent), "sent": len(received)}
    assert stats["message_bytes"]["sum"] == len(b"hello\r\n")
    assert sum(stats["message_bytes"]["counts"]) == 1
    assert sum(stats["session_seconds"]["counts"]) == 1
    assert sum(stats["hook_seconds"]["on_rcpt"]["counts"]) == 3
    assert sum(stats["hook_seconds"]["on_message"]["counts"]) == 2


def test_bytes_of_open_sessions_count(serve: Serve) -> None:
    running = serve(Box())
    with running.ready() as client:
        client.say("NOOP")
        found = seen(running)
        (session,) = found["sessions"]
        assert found["stats"]["bytes"]["received"] == session["received"] == 27
        assert found["now"]["sessions"] == 1
        assert session["state"] == "READY"
        assert session["peer"] == "{}:{}".format(*client.sock.getsockname())


def test_handshakes_are_counted_by_version(serve: Serve, certificates: Certificates) -> None:
    running = serve(Box(), tls_config=certificates.server())
    with running.ready() as client:
        client.say("STARTTLS")
        client.wrap(certificates.client)
        client.say("EHLO c")
        assert seen(running)["now"]["under_tls"] == 1
        client.say("QUIT")
    with running.ready() as client:
        client.say("STARTTLS")
        client.send(b"no hello of TLS at all\r\n")
        client.rest()
    stats = counted(running)
    assert stats["tls"] == {"TLSv1.3": 1}
    assert stats["tls_failures"] == 1


@pytest.mark.usefixtures("no_delay")
def test_logins_are_counted_by_mechanism_and_outcome(serve: Serve) -> None:
    def check(_addr: object, _mechanism: str, name: bytes, word: bytes, _shared: bytes) -> bool:
        if name == b"trouble":
            raise RuntimeError
        return word == b"right"

    running = serve(Box(), auth_handler=check, auth_mechs={"PLAIN": True})
    for name, word in (("a", "right"), ("a", "wrong"), ("b", "wrong"), ("trouble", "")):
        with running.ready() as client:
            client.say(plain(name, word))
    stats = counted(running)
    assert stats["logins"] == {"PLAIN accepted": 1, "PLAIN refused": 2}
    assert stats["refusals"]["AUTH 535 bad_credentials"] == 2
    assert stats["refusals"]["AUTH 454 auth_trouble"] == 1


def test_a_rejected_connection_is_counted_but_not_as_a_session(serve: Serve) -> None:
    running = serve(Box(), max_connections=1)
    with running.ready():
        for _ in range(2):
            with running.client() as other:
                assert other.reply().startswith("421")
        stats = seen(running)["stats"]
    assert stats["connections"] == 1
    assert stats["turned_away"] == {"too many": 2}


def test_bytes_on_disk_are_shown_and_counted(serve: Serve) -> None:
    running = serve(Box(), spool_threshold=1000)
    with running.ready() as client:
        client.mail(b"x" * 70 * 1000 + b"\r\n")
        # The last to hold the message closes its file, which may be after the reply
        running.wait_until(lambda: seen(running)["now"]["on_disk"] == 0)
    assert counted(running)["spooled"] == 70_002


def test_in_lmtp_a_message_that_one_recipient_accepts_is_accepted(serve: Serve) -> None:
    class Half(Handler):
        async def on_message(self, session: Session, message: Message) -> None:
            message.refuse(message.recipients[0], Reply(550, "5.1.1", "Full"))

    running = serve(Half(), lmtp=True)
    with running.client() as client:
        client.reply()
        client.say("LHLO c")
        client.mail(recipients=["a@b.example", "c@d.example"])
        client.reply()
    assert counted(running)["messages"] == {"accepted": 1, "refused": 0}


def test_a_histogram_counts_up_to_its_bounds() -> None:
    histogram = Histogram((1, 2, 4))
    histogram.values += [0.5, 1, 1.5, 4, 9]
    assert histogram.count == 5
    assert histogram.plain() == {"counts": [2, 1, 1, 1], "sum": 16}
    histogram.values.append(3)
    assert histogram.plain() == {"counts": [2, 1, 2, 1], "sum": 19}
    assert histogram.count == 6


def test_snapshots_are_summed(serve: Serve) -> None:
    first, second = serve(Box()), serve(Box())
    with first.ready() as client:
        client.mail()
    for _ in range(2):
        with second.ready() as client:
            client.mail()
    counted(first)
    counted(second)
    snapshots = [seen(first), seen(second)]
    stats = total([snapshot["stats"] for snapshot in snapshots])
    assert stats["messages"]["accepted"] == 3
    assert stats["replies"]["220"] == 3
    assert stats["commands"] == {"EHLO": 3, "MAIL": 3, "RCPT": 3, "DATA": 3}
    assert sum(stats["hook_seconds"]["on_message"]["counts"]) == 3
    assert len(merge(snapshots)["pids"]) == 2


def test_sessions_of_several_processes_have_the_id_of_their_process(serve: Serve) -> None:
    running = serve(Box())
    with running.ready():
        one = seen(running)
    whole = merge([one, {**one, "pids": [1]}])
    assert [session["pid"] for session in whole["sessions"]] == [os.getpid(), 1]
    assert whole["now"]["sessions"] == 2
    assert merge([])["now"] == dict.fromkeys(one["now"], 0)


def test_most_keeps_the_larger_number_of_each() -> None:
    first = {"bytes": 5, "by": {"a": 1, "b": 2}, "counts": [1, 2]}
    second = {"bytes": 3, "by": {"b": 3, "c": 1}, "counts": [1, 3]}
    assert most([first, second]) == {
        "bytes": 5,
        "by": {"a": 1, "b": 3, "c": 1},
        "counts": [1, 3],
    }


def test_commands_of_one_client_do_not_pile_up_until_they_are_counted(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    relieve = Stats.relieve

    def watched(stats: Stats) -> None:
        nonlocal most
        relieve(stats)
        most = max(most, len(stats.said))

    monkeypatch.setattr(Stats, "relieve", watched)
    running = serve(Box(), max_idle_commands=0)
    with running.client() as client, client.sending(b"NOOP\r\n" * 50_000 + b"QUIT\r\n"):
        client.rest()
    assert 0 < most <= 20_000
    assert counted(running)["replies"] == {"220": 1, "250": 50_000, "221": 1}
