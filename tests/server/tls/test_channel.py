"""What OpenSSL is given, and when: a ClientHello as a whole, everything else in slices."""

from __future__ import annotations

import contextlib
import ssl
import struct

import pytest

from ehlo.server.tls.channel import Channel, ClientHello, ClientHelloError
from support.certificates import Certificates


def record(content: bytes, kind: int = 22) -> bytes:
    return bytes([kind, 3, 1]) + struct.pack(">H", len(content)) + content


def hello(size: int, announced: int | None = None, kind: int = 1) -> bytes:
    head = bytes([kind]) + (size if announced is None else announced).to_bytes(3, "big")
    return head + b"x" * size


WHOLE = record(hello(500))


def octets(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize(
    "whole",
    [
        WHOLE,
        record(hello(500)[:2]) + record(hello(500)[2:]),
        b"".join(map(record, octets(hello(500)))),
        record(b"\1", kind=20) + WHOLE,  # RFC 8446 D.4: before a second one
    ],
    ids=["one record", "two", "many", "after ChangeCipherSpec"],
)
def test_a_client_hello_is_passed_on_as_a_whole(whole: bytes) -> None:
    gathered = ClientHello()
    for octet in octets(whole)[:-1]:
        assert gathered.receive(octet) is None
    assert gathered.receive(whole[-1:] + b"more") == (whole, b"more")


@pytest.mark.parametrize(
    "other", [b"EHLO client\r\n", record(b"\2\50", kind=21), record(hello(9, kind=2))]
)
def test_what_is_no_client_hello_is_passed_on_at_once(other: bytes) -> None:
    assert ClientHello().receive(other) == (other, b"")


@pytest.mark.parametrize(
    "long",
    [
        record(hello(0, announced=16_385)),
        record(hello(3, announced=16_000)) + record(b"x") * 4_000,
        record(b"\1", kind=20) * 4_000,
        bytes([22, 3, 1, 255, 255]) + b"x" * 17_000,
    ],
    ids=["announced", "in records", "before it", "one record"],
)
def test_one_that_is_too_long_is_rejected_before_it_has_come(long: bytes) -> None:
    def drip(gathered: ClientHello) -> None:
        for octet in octets(long):
            gathered.receive(octet)

    with pytest.raises(ClientHelloError) as raised:
        drip(ClientHello())
    assert raised.value.reason == "CLIENT_HELLO_TOO_LONG"


class Client:
    """A client's end of TLS, in memory."""

    def __init__(self, certificates: Certificates) -> None:
        context = ssl.create_default_context()
        certificates.authority.configure_trust(context)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def hears(self, data: bytes) -> bytes:
        """Take what the server said, and return what to answer."""
        self._incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    def says(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self._outgoing.read()


def establish(channel: Channel, client: Client) -> None:
    said = client.hears(b"")
    while not channel.established:
        said = client.hears(take(channel, said))


def take(channel: Channel, said: bytes) -> bytes:
    """Take what the client said in a handshake, and return what to answer."""
    answer = b""
    for piece in channel.pieces(said):
        channel.receive(piece)
        channel.handshake()
        answer += channel.outgoing()
    return answer


def test_much_goes_through_in_slices(certificates: Certificates) -> None:
    channel, client = Channel(certificates.server()), Client(certificates)
    establish(channel, client)
    text = bytes(range(256)) * 1000
    pieces = list(channel.pieces(client.says(text)))
    assert max(map(len, pieces)) <= 8_192
    heard = b""
    for piece in pieces:
        channel.receive(piece)
        heard += channel.read()
    assert heard == text
    client.hears(channel.write(text))
    back = b""
    while len(back) < len(text):
        back += client.tls.read(len(text))
    assert back == text


def test_after_a_retry_a_second_client_hello_is_gathered_too(certificates: Certificates) -> None:
    context = certificates.server()
    context.set_ecdh_curve("secp384r1")  # of which a client sends no key at first
    channel, client = Channel(context), Client(certificates)
    second = client.hears(take(channel, client.hears(b"")))
    assert second[0] in (20, 22)
    with pytest.raises(ClientHelloError):
        list(channel.pieces(record(hello(3, announced=100_000))))
    channel, client = Channel(context), Client(certificates)
    establish(channel, client)
    assert channel.established


def test_what_follows_a_client_hello_at_once_is_gathered_if_it_is_retried(
    certificates: Certificates,
) -> None:
    context = certificates.server()
    context.set_ecdh_curve("secp384r1")
    channel, client = Channel(context), Client(certificates)
    said = client.hears(b"") + record(hello(3, announced=100_000))
    with pytest.raises(ClientHelloError):
        take(channel, said)
