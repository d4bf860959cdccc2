"""Each option: its type, default and description, and what may be set where."""

from __future__ import annotations

import dataclasses
import inspect
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import ehlo
from ehlo import Handler, Listener, Server
from ehlo.server.options.config import (
    AllOptions,
    ListenerOptions,
    Options,
    bytes_of,
    check_values,
    descriptions,
)
from ehlo.server.options.target import with_handler
from support.serving import Box, Collector, Serve

OPTIONS = [field for field in dataclasses.fields(Options) if field.metadata]


@pytest.mark.parametrize("field", OPTIONS, ids=lambda field: field.name)
def test_each_option_has_a_description(field: dataclasses.Field[Any]) -> None:
    text = descriptions()[field.name]
    assert text.endswith(".")
    assert text[0].isupper() or text.startswith("`")
    is_switch = field.default is False
    verbs = ("Accept", "Enable", "Log", "Reject", "Require", "Resolve", "Speak", "Start", "Treat")
    assert text.startswith(verbs) or not is_switch


def test_there_are_no_descriptions_without_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_source(_module: object) -> str:
        raise OSError("could not get source code")

    monkeypatch.setattr(inspect, "getsource", no_source)
    assert descriptions() == {}


def test_options_are_frozen() -> None:
    options = Options(Box())
    with pytest.raises(dataclasses.FrozenInstanceError, match="max_size"):
        options.max_size = 1  # type: ignore[misc]  # which is the point
    assert dataclasses.replace(options, max_size=1).max_size == 1


def test_the_old_spelling_of_a_value_is_accepted() -> None:
    old: Any = "normalise"
    assert Options(Box(), bare_newlines=old).bare_newlines == "normalize"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_size", -1, "max_size is -1; it must be 0 or more"),
        ("max_recipients", 0, "max_recipients is 0; it must be more than 0"),
        ("timeout", float("nan"), "timeout is nan; it must be more than 0"),
        ("grace", -0.5, "grace is -0.5; it must be 0 or more"),
        ("tls_required", None, "tls_required is None; it must be True or False"),
        ("auth_required", 0, "auth_required is 0; it must be True or False"),
        ("strict_eol", "no", "strict_eol is 'no'; it must be True or False"),
        ("threads", "8", "threads is '8'; it must be a whole number"),
        ("max_recipients", None, "max_recipients is None; it must be a whole number"),
        ("max_messages", True, "max_messages is True; it must be a whole number"),
        ("max_size", None, "max_size is None; it must be a number of bytes, or text such as .*"),
        ("max_size", 2.5, "max_size is 2.5; it must be a number of bytes, or text such as .*"),
        ("grace", None, "grace is None; it must be a number"),
        ("timeout", "5", "timeout is '5'; it must be a number"),
        ("user", None, "user is None; it must be text"),
        ("unix_mode", 0o660, "unix_mode is 432; it must be text"),
        ("tls_cert", None, "tls_cert is None; it must be text, or a list of texts"),
        ("tls_key", [None], "tls_key is .None.; it must be text, or a list of texts"),
        ("tls_config", "x", "tls_config is 'x'; it must be an ssl.SSLContext, or a function .*"),
        ("xclient_networks", [5], "xclient_networks is .5.; it must be text, or a list of texts"),
        ("proxy_networks", b"::1", "proxy_networks is b'::1'; it must be text, or a list of texts"),
        ("auth_mechs", ["PLAIN"], "auth_mechs is .'PLAIN'.; it must be a mapping with text keys"),
        ("own_extensions", [5], "own_extensions is .5.; it must be a list of ehlo.Extension"),
        ("listeners", Listener(":25"), "listeners is .*; it must be a list of ehlo.Listener"),
        ("log_read", "print", "log_read is 'print'; it must be a function"),
        (
            "max_size",
            "10 megabytes",
            "max_size is '10 megabytes'; it must be a number of bytes, or text such as .*",
        ),
    ],
)
def test_a_value_of_another_type_or_outside_its_bound_is_a_value_error(
    name: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_values(Options(Box(), **{name: value}))


@pytest.mark.parametrize(
    ("call", "option", "meant"),
    [
        (partial(Server, Box()), "adress", "addr"),
        (Server(Box()).configure, "max_sise", "max_size"),
        (partial(Listener, ":25"), "tls_certs", "tls_cert"),
    ],
)
def test_an_unknown_option_is_a_type_error_with_the_one_that_was_meant(
    call: Callable[..., object], option: str, meant: str
) -> None:
    with pytest.raises(TypeError, match=rf" has no option {option}; did you mean {meant}\?$"):
        call(**{option: "x"})


def test_an_option_that_is_like_no_other_shows_those_that_there_are() -> None:
    with pytest.raises(TypeError, match=r"Listener has no option zzz; it has appname, auth_file, "):
        Listener(":25", zzz=1)  # type: ignore[call-arg]  # which is the mistake


def test_every_default_is_a_value_that_its_option_may_have() -> None:
    check_values(Options(Box()))


def test_a_path_may_be_an_object() -> None:
    options = Options(Box(), spool_dir=Path("spool"), tls_cert=Path("server.crt"))  # type: ignore[arg-type]  # as a user without a type checker has it
    assert (options.spool_dir, options.tls_cert) == ("spool", "server.crt")


def test_values_are_checked_before_anything_is_made_of_them() -> None:
    server = Server(Box(), addr=(), workers="2")  # type: ignore[arg-type]  # as above
    with pytest.raises(ValueError, match="workers is '2'; it must be a whole number"):
        server.listen_and_serve()
    with pytest.raises(ValueError, match="workers is '2'; it must be a whole number"):
        server.in_thread().__enter__()


def test_every_number_has_a_bound() -> None:
    numbers = [field for field in OPTIONS if field.type in ("int", "Size", "float", "float | None")]
    assert len(numbers) > 15
    assert all(field.metadata["bound"] for field in numbers)


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (7, 7),
        ("7", 7),
        ("10 B", 10),
        ("10M", 10_000_000),
        ("10MB", 10_000_000),
        (" 10 mb ", 10_000_000),
        ("64KiB", 65_536),
        ("64kib", 65_536),
        ("1G", 10**9),
        ("2TiB", 2 * 1024**4),
    ],
)
def test_a_size_may_have_a_unit(size: Any, count: int) -> None:
    assert bytes_of(size) == count


@pytest.mark.parametrize("size", ["", "MB", "-1M", "1.5M", "10 iB", "10i", "1e6", "9" * 19])
def test_other_text_is_no_size(size: str) -> None:
    with pytest.raises(ValueError, match="it must be a number of bytes, or text such as '10MB'"):
        bytes_of(size)


SIZES = ["max_size", "max_memory", "max_disk", "spool_threshold"]


def test_every_size_may_be_text(serve: Serve) -> None:
    assert [field.name for field in OPTIONS if str(field.type).startswith("Size")] == SIZES
    sizes: dict[str, Any] = dict.fromkeys(SIZES, "8MiB")
    running = serve(Box(), **sizes)
    with running.client() as client:
        assert "SIZE 8388608" in client.hello()
    runtime = running.runtime
    assert (runtime.max_memory, runtime.disk.limit, runtime.threshold) == (1 << 23,) * 3


def test_the_class_of_a_handler_is_made_an_instance_once(serve: Serve) -> None:
    made: list[Handler] = []

    class Inbound(Collector):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    running = serve(Inbound)
    assert [running.server.options.handler] == made
    with running.ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued"
    configured = Server(Box())
    configured.configure(handler=Inbound, addr=("127.0.0.1", 0))
    with configured.in_thread():
        assert [running.server.options.handler, configured.options.handler] == made


def test_a_class_that_needs_arguments_is_an_error() -> None:
    class Inbound(Handler):
        def __init__(self, directory: object) -> None: ...

    with pytest.raises(
        ValueError, match=r"Inbound needs arguments \(.*'directory'\); pass an inst"
    ):
        Server(Inbound)


def test_a_module_that_serves_while_it_is_imported_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would block there, and the handler would be served once it has ended."""
    (tmp_path / "unguarded.py").write_text(
        "import ehlo\ndef handler(message): ...\nehlo.listen_and_serve('127.0.0.1:0', handler)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    server = Server("unguarded:handler", addr="127.0.0.1:0")
    with pytest.raises(
        RuntimeError, match="module unguarded serves while it is imported; serve un"
    ):
        server.listen_and_serve()


def test_a_factory_that_is_async_is_an_error() -> None:
    async def make() -> Handler:
        return Collector()

    factory: Any = make
    with pytest.raises(ValueError, match="make is async def; a factory must be def"):
        with_handler(Options(factory, factory=True))


@pytest.mark.parametrize("addr", [("127.0.0.1", 0), ["127.0.0.1:0", ("::1", 0)], ()])
def test_addresses_have_several_forms(addr: Any) -> None:
    server = Server(Box(), addr=addr)
    for _ in range(2):
        with server.in_thread():
            hosts = [address.host for address in server.addresses]
        server.options = dataclasses.replace(server.options, max_size=7)
    several = addr if isinstance(addr, list) else [addr] if addr else []
    assert len(hosts) == len(several)


def test_a_port_alone_is_one_of_all_addresses() -> None:
    server = Server(Box(), addr=0)
    with server.in_thread():
        first, *_ = server.addresses
        with socket.create_connection(("127.0.0.1", first.port)) as client:
            assert client.recv(4) == b"220 "


def test_each_keyword_has_the_type_of_its_option() -> None:
    types = get_type_hints(Options)
    for each in (AllOptions, ListenerOptions):
        for name, hint in get_type_hints(each).items():
            assert hint == types[name], name
    assert list(AllOptions.__optional_keys__ ^ types.keys()) == ["_"]


def test_the_signature_of_server_has_each_option_with_its_default() -> None:
    parameters = inspect.signature(Server).parameters
    assert list(parameters) == ["handler", *(field.name for field in OPTIONS)]
    assert all(parameters[field.name].default is field.default for field in OPTIONS)
    assert all(parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY for field in OPTIONS)


@pytest.mark.parametrize("name", ["host", "port"])
def test_host_and_port_are_a_type_error_that_shows_addr(name: str) -> None:
    options: Any = {name: 2525}
    with pytest.raises(TypeError, match=rf"^Server has no option {name}; write addr='127.0.0.1:2"):
        Server(Box(), **options)


def test_a_handler_before_the_address_is_an_error_that_says_the_order() -> None:
    handler: Any = Box()
    with pytest.raises(ValueError, match=r"takes the address first, and then the handler$"):
        ehlo.listen_and_serve(handler, "127.0.0.1:0")
