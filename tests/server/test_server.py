"""`Server` and its options: how they are set before it starts, and that they cannot be after."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ehlo import Server
from support.certificates import Certificates
from support.serving import Box


def test_options_are_changed_by_configure() -> None:
    server = Server(Box(), addr="127.0.0.1:0")
    server.configure(max_size=10, hostname="mx.example")
    assert (server.options.max_size, server.options.hostname) == (10, "mx.example")
    assert server.options.addr == "127.0.0.1:0"


def test_options_are_changed_as_a_value() -> None:
    server = Server(Box(), addr="127.0.0.1:0")
    server.options = dataclasses.replace(server.options, max_size=10)
    assert server.options.max_size == 10


def test_an_unknown_option_is_a_type_error() -> None:
    unknown: dict[str, Any] = {"tls_listner": True}
    with pytest.raises(TypeError, match="tls_listner"):
        Server(Box(), **unknown)
    with pytest.raises(TypeError, match="tls_listner"):
        Server(Box()).configure(**unknown)


def test_an_option_set_as_an_attribute_would_have_no_effect_and_is_an_error() -> None:
    server: Any = Server(Box())
    with pytest.raises(AttributeError, match=r"tls_required is an option; set it by configure"):
        server.tls_required = True
    assert not server.options.tls_required


def test_an_attribute_that_nothing_reads_is_an_error() -> None:
    server: Any = Server(Box())
    with pytest.raises(AttributeError, match=r"no option max_sise; did you mean configure"):
        server.max_sise = 5
    with pytest.raises(AttributeError, match="no attribute qqqq; keep values of your own"):
        server.qqqq = 5


def test_a_subclass_has_attributes_of_its_own() -> None:
    class Shop(Server):
        def __init__(self) -> None:
            super().__init__(Box())
            self.users = {"alice"}  # an option is called user

    assert Shop().users == {"alice"}


def test_options_cannot_change_while_the_server_runs(certificates: Certificates) -> None:
    server = Server(Box(), addr="127.0.0.1:0")
    with server.in_thread():
        with pytest.raises(RuntimeError, match="options cannot change while the server runs"):
            server.configure(max_size=10)
        with pytest.raises(RuntimeError, match="options cannot change while the server runs"):
            server.configure_tls(certificates.cert_file, certificates.key_file)
    server.configure(max_size=10)
    with server.in_thread():
        assert server.options.max_size == 10


def test_the_run_of_a_server_is_known_while_it_runs() -> None:
    server = Server(Box(), addr="127.0.0.1:0")
    assert server.addresses == []
    with server.in_thread():
        assert server.running is not None
        assert server.running.options is server.options
    assert server.running is None
