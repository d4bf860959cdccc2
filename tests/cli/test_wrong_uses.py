# ruff: noqa: E501  messages stand as they are printed
"""Wrong uses of the command line: each message names the option, what is wrong, and what to do."""

from __future__ import annotations

import io
import shlex
import sys
from pathlib import Path

import pytest

from ehlo.cli import main
from support.certificates import Certificates


@pytest.fixture
def place(here: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with modules, certificates and files that are none."""
    for name in ("server.crt", "server.key", "encrypted.key"):
        (here / name).write_bytes((Path(certificates.cert_file).parent / name).read_bytes())
    (here / "k2.pem").write_bytes(Path(certificates.other_key_file).read_bytes())
    (here / "empty.py").write_text("x = 1\n")
    (here / "bad.env").write_text("A=1\nnonsense\n")
    (here / "users").write_text("")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    return here


# What is typed, and what is printed; "Try 'ehlo --help'." follows
WRONG = r"""
$ ehlo --nope
ehlo: --nope: no such option; check its spelling
$ ehlo --prot 1025
ehlo: --prot: no such option; write --port or --print
$ ehlo nope
ehlo: nope: no such command; write check, passwd, queue, replay, sendmail, serve, top or work
$ ehlo serv
ehlo: serv: no such command; write serve
$ ehlo app:handler
ehlo: app:handler: no such command; to serve it, write ehlo serve app:handler
$ ehlo --json=yes
ehlo: --json: takes no value; write --json alone
$ ehlo --max-size
ehlo: --max-size: value missing; write --max-size SIZE
$ ehlo --port
ehlo: --port: value missing; write --port NUMBER
$ ehlo --json serve app:function
ehlo: --json: options go after the command; write ehlo serve --json
$ ehlo serve
ehlo: MODULE:ATTR missing, e.g. ehlo serve app:handler
$ ehlo serve app:function extra
ehlo: extra: unexpected argument; remove it
$ ehlo --host 127.0.0.1 extra
ehlo: extra: no such command; write check, passwd, queue, replay, sendmail, serve, top or work
$ ehlo --relay smtp://secret@relay.example.com
ehlo: --relay: user and password go together, and nothing follows; write smtp://host:25 or smtps://user:password@host:465
$ ehlo --relay relay.example.com:25
ehlo: --relay: not the URL of an SMTP server; write smtp://host:25 or smtps://user:password@host:465
$ ehlo --addr 127.0.0.1
ehlo: --addr 127.0.0.1: port missing, e.g. 127.0.0.1:1025
$ ehlo --addr 127.0.0.1:
ehlo: --addr 127.0.0.1:: port missing, e.g. 127.0.0.1:1025
$ ehlo --addr localhost
ehlo: --addr localhost: port missing, e.g. localhost:1025
$ ehlo --addr 1025
ehlo: --addr 1025: host missing, e.g. 127.0.0.1:1025 (or --port 1025)
$ ehlo --addr 'nonsense at all'
ehlo: --addr nonsense at all: port missing, e.g. 127.0.0.1:1025
$ ehlo --addr ::1
ehlo: --addr ::1: an IPv6 address needs brackets, e.g. [::1]:1025
$ ehlo --addr ::1:1025
ehlo: --addr ::1:1025: an IPv6 address needs brackets, e.g. [::1]:1025
$ ehlo --addr 127.0.0.1:smtp
ehlo: --addr 127.0.0.1:smtp: the port must be a number from 0 to 65535, e.g. 127.0.0.1:1025
$ ehlo --addr 127.0.0.1:70000
ehlo: --addr 127.0.0.1:70000: the port must be a number from 0 to 65535, e.g. 127.0.0.1:1025
$ ehlo --addr unix:
ehlo: --addr unix:: path missing, e.g. unix:/run/ehlo.sock
$ ehlo --addr fd:x
ehlo: --addr fd:x: not a file descriptor; write fd:3
$ ehlo --host 'a b'
ehlo: --host a b: not a host; write a name or an IP address, e.g. 127.0.0.1
$ ehlo --host unix:/x
ehlo: --host unix:/x: not a host; write a name or an IP address, e.g. 127.0.0.1
$ ehlo --host 127.0.0.1:25
ehlo: --host 127.0.0.1:25: not a host; write a name or an IP address, e.g. 127.0.0.1
$ ehlo --port x
ehlo: --port x: not a whole number; write digits only
$ ehlo --port 70000
ehlo: --port 70000: out of range; write a number from 0 to 65535
$ ehlo --port -1
ehlo: --port -1: out of range; write a number from 0 to 65535
$ ehlo --port 1025 --addr :1025
ehlo: --addr cannot be combined with --port; leave one out
$ ehlo --host ::1 --addr :1025
ehlo: --addr cannot be combined with --host; leave one out
$ ehlo --fd x
ehlo: --fd x: not a whole number; write digits only
$ ehlo --fd -1
ehlo: --fd -1: out of range; write a number that is 0 or more
$ ehlo --unix-mode rw
ehlo: --unix-mode is 'rw'; it must be three octal digits, such as 660
$ ehlo --hostname 'a b'
ehlo: --hostname is 'a b'; it must not contain a space
$ ehlo --hostname 'münchen'
ehlo: --hostname is 'münchen'; it must be printable ASCII, at most 255 bytes
$ ehlo serve app:function --lmtp --addr :25
ehlo: --lmtp cannot use port 25, which is SMTP's; set --addr to another port
$ ehlo --auth-mechs PLAIN
ehlo: --auth-mechs PLAIN: neither on nor off; write PLAIN=on or PLAIN=off
$ ehlo --auth-mechs PLAIN=maybe
ehlo: --auth-mechs PLAIN=maybe: neither on nor off; write PLAIN=on or PLAIN=off
$ ehlo --auth-mechs =on
ehlo: --auth-mechs =on: neither on nor off; write NAME=on or NAME=off
$ ehlo --auth-mechs MAGIC=on
ehlo: --auth-mechs: unknown mechanism: MAGIC; there are SCRAM-SHA-256-PLUS, SCRAM-SHA-1-PLUS, EXTERNAL, SCRAM-SHA-256, SCRAM-SHA-1, OAUTHBEARER, XOAUTH2, CRAM-MD5, LOGIN, PLAIN, ANONYMOUS
$ ehlo --auth-mechs SCRAM-SHA-256=on
ehlo: --auth-mechs: SCRAM-SHA-256 needs on_secret; define it
$ ehlo --auth-file nofile
ehlo: --auth-file nofile: no such file or directory; check the path
$ ehlo --auth-file app.py
ehlo: --auth-file app.py: line 2: not of the form user:hash; write it by ehlo passwd
$ ehlo --auth-any --auth-handler app:login
ehlo: --auth-any cannot be combined with --auth-handler; leave one out
$ ehlo --auth-any --auth-file users
ehlo: --auth-any cannot be combined with --auth-file; leave one out
$ ehlo --auth-required --no-auth-any
ehlo: --auth-required, but no client could log in; set --auth-handler or --auth-file, and check --auth-mechs, extensions and TLS
$ ehlo --auth-required --host 0.0.0.0
ehlo: --auth-required, but no client could log in; set --auth-handler or --auth-file, and check --auth-mechs, extensions and TLS
$ ehlo --tls on
ehlo: --tls on: not a choice; write self-signed
$ ehlo --tls-name x.test
ehlo: --tls-name requires --tls self-signed; add it
$ ehlo --tls self-signed --tls-name 'a b'
ehlo: --tls-name a b: not a host name or IP address (Codepoint U+0020 at position 2 of 'a b' not allowed); write one, e.g. localhost
$ ehlo --tls self-signed --tls-cert server.crt
ehlo: --tls cannot be combined with --tls-cert; leave one out
$ ehlo --tls-required
ehlo: --tls-required needs a certificate; set --tls-cert and --tls-key
$ ehlo --tls-listener
ehlo: --tls-listener needs a certificate; set --tls-cert and --tls-key
$ ehlo --tls-cert nofile
ehlo: --tls-cert nofile: no such file or directory; check the path
$ ehlo --tls-cert .
ehlo: --tls-cert .: a directory; give a file
$ ehlo --tls-cert app.py
ehlo: --tls-cert: app.py contains no certificate: give a PEM file
$ ehlo --tls-key server.key
ehlo: --tls-key requires --tls-cert; add --tls-cert FILE
$ ehlo --tls-client-ca server.crt
ehlo: --tls-client-ca requires --tls-cert; add --tls-cert FILE
$ ehlo --tls-client-certs required
ehlo: --tls-client-certs requires --tls-client-ca; add it
$ ehlo --tls-client-certs maybe
ehlo: --tls-client-certs maybe: not a choice; write optional or required
$ ehlo --tls-cert server.crt
ehlo: --tls-cert: server.crt contains no private key: add --tls-key FILE
$ ehlo --tls-cert server.crt --tls-key k2.pem
ehlo: --tls-key: k2.pem does not match server.crt: give the key of that certificate
$ ehlo --tls-cert server.crt --tls-key server.crt
ehlo: --tls-cert: server.crt contains no private key: add --tls-key FILE
$ ehlo --tls-cert server.crt --tls-key encrypted.key
ehlo: --tls-key: encrypted.key is encrypted: set its passphrase in EHLO_TLS_PASSPHRASE
$ ehlo --tls-cert server.crt --tls-cert server.crt --tls-key server.key
ehlo: --tls-key has 1 value, --tls-cert 2; give one key for each certificate, or none
$ ehlo --tls-cert server.crt --tls-key server.key --tls-client-ca app.py
ehlo: --tls-client-ca: app.py contains no certificate: give a PEM file
$ ehlo --tls-cert server.crt --tls-key server.key --tls-client-ca server.crt --tls-client-certs required
ehlo: client certificates are required, but mail is accepted without TLS; set --tls-required or --tls-listener
$ ehlo --proxy-networks x
ehlo: --proxy-networks: not a network: 'x'; write 10.0.0.0/8, ::1, unix:, or none alone
$ ehlo --proxy-timeout 0
ehlo: --proxy-timeout is 0.0; it must be more than 0
$ ehlo --xclient-networks 10.0.0.1/8
ehlo: --xclient-networks: not a network: '10.0.0.1/8'; write 10.0.0.0/8, ::1, unix:, or none alone
$ ehlo --xforward-networks here
ehlo: --xforward-networks: not a network: 'here'; write 10.0.0.0/8, ::1, unix:, or none alone
$ ehlo --exempt-networks none --exempt-networks ::1
ehlo: --exempt-networks: not a network: 'none'; write 10.0.0.0/8, ::1, unix:, or none alone
$ ehlo --exempt-networks ''
ehlo: --exempt-networks: not a network: ''; write 10.0.0.0/8, ::1, unix:, or none alone
$ ehlo --max-size much
ehlo: --max-size much: not a size; write bytes, or a number with k, M or G, e.g. 10M
$ ehlo --max-size -1
ehlo: --max-size -1: not a size; write bytes, or a number with k, M or G, e.g. 10M
$ ehlo --max-size 10X
ehlo: --max-size 10X: not a size; write bytes, or a number with k, M or G, e.g. 10M
$ ehlo --max-recipients 0
ehlo: --max-recipients is 0; it must be more than 0
$ ehlo --max-recipients many
ehlo: --max-recipients many: not a whole number; write digits only
$ ehlo --max-messages -1
ehlo: --max-messages is -1; it must be 0 or more
$ ehlo --max-connections 0
ehlo: --max-connections is 0; it must be more than 0
$ ehlo --max-memory lots
ehlo: --max-memory lots: not a size; write bytes, or a number with k, M or G, e.g. 10M
$ ehlo --timeout nan
ehlo: --timeout is nan; it must be more than 0
$ ehlo --timeout soon
ehlo: --timeout soon: not a number of seconds; write one, e.g. 30 or 0.5
$ ehlo --timeout -5
ehlo: --timeout is -5.0; it must be more than 0
$ ehlo --grace -1
ehlo: --grace is -1.0; it must be 0 or more
$ ehlo --handler-timeout 0
ehlo: --handler-timeout is 0.0; it must be more than 0
$ ehlo --threads 0
ehlo: --threads is 0; it must be more than 0
$ ehlo --max-lines -1
ehlo: --max-lines -1: out of range; write a number that is 0 or more
$ ehlo --max-lines few
ehlo: --max-lines few: not a whole number; write digits only
$ ehlo --bare-newlines bend
ehlo: --bare-newlines bend: not a choice; write normalize, reject or keep
$ ehlo --unknown-params drop
ehlo: --unknown-params drop: not a choice; write reject or ignore
$ ehlo --loop round
ehlo: --loop round: not a choice; write auto, asyncio or uvloop
$ ehlo --extensions DSN
ehlo: --extensions DSN: neither on nor off; write DSN=on or DSN=off or DSN=TEXT
$ ehlo --extensions DELIVERBY=
ehlo: --extensions DELIVERBY=: neither on nor off; write DELIVERBY=on or DELIVERBY=off or DELIVERBY=TEXT
$ ehlo --extensions MAGIC=on
ehlo: --extensions: no such extension: MAGIC; there are PIPELINING, SIZE, 8BITMIME, CHUNKING, BINARYMIME, SMTPUTF8, ENHANCEDSTATUSCODES, STARTTLS, AUTH, DSN, XCLIENT, XFORWARD, REQUIRETLS, DELIVERBY, FUTURERELEASE, MT-PRIORITY, RRVS, LIMITS
$ ehlo --extensions DELIVERBY=soon
ehlo: --extensions: DELIVERBY=soon: not a number of seconds; write one, such as 240
$ ehlo --log-level loud
ehlo: --log-level loud: not a choice; write debug, info, warning or error
$ ehlo --log-format xml
ehlo: --log-format xml: not a choice; write text, logfmt or json
$ ehlo --metrics nonsense
ehlo: --metrics: not an address: 'nonsense'; write host:port, :port, [v6]:port or unix:/path
$ ehlo --save nowhere
ehlo: --save nowhere: no such directory; make it: mkdir nowhere
$ ehlo --save app.py
ehlo: --save app.py: not a directory; give one
$ ehlo --user no-such-user
ehlo: --user: no such user or group: 'no-such-user'; name one of this machine
$ ehlo --user root
ehlo: --user: 'root' has the user or group of root; name another account
$ ehlo --env-file nofile
ehlo: --env-file nofile: no such file or directory; check the path
$ ehlo --env-file bad.env
ehlo: --env-file bad.env: line 2 is not a variable; write NAME=VALUE
$ ehlo --app-dir nowhere --rcpt-handler app:only_bob
ehlo: --app-dir nowhere: no such directory; check the path
$ ehlo --rcpt-handler app
ehlo: --rcpt-handler: function missing; write app:NAME
$ ehlo --rcpt-handler app:nothing
ehlo: --rcpt-handler: module 'app' has no attribute 'nothing'; check 'app:nothing', --app-dir and the current directory
$ ehlo --rcpt-handler nowhere:x
ehlo: --rcpt-handler: no module named 'nowhere'; check 'nowhere:x', --app-dir and the current directory
$ ehlo --rcpt-handler app:number
ehlo: --rcpt-handler must be a function, not 3
$ ehlo serve nowhere
ehlo: nowhere: no module of this name; check the name, --app-dir and the current directory
$ ehlo serve nowhere:x
ehlo: no module named 'nowhere'; check 'nowhere:x', --app-dir and the current directory
$ ehlo serve app.part:x
ehlo: no module named 'app.part'; check 'app.part:x', --app-dir and the current directory
$ ehlo serve .app:x
ehlo: '.app' is a relative name; write the full name
$ ehlo serve .app
ehlo: .app: a relative name; write the full name
$ ehlo serve app:nothing
ehlo: module 'app' has no attribute 'nothing'; check 'app:nothing', --app-dir and the current directory
$ ehlo serve app:place.nothing
ehlo: module 'app' has no attribute 'place.nothing'; check 'app:place.nothing', --app-dir and the current directory
$ ehlo serve empty
ehlo: empty has no server, app or handler; name what to serve: empty:NAME
$ ehlo serve nofile.py
ehlo: nofile.py: no such file: nofile.py; check the path
$ ehlo serve nofile.py:handler
ehlo: nofile.py:handler: no such file: nofile.py; check the path
$ ehlo serve app:number
ehlo: app:number: handler must be a function or an ehlo.Handler, not 3
$ ehlo serve app:place
ehlo: app:place: handler must be a function or an ehlo.Handler, not <class 'app.place'>; pass an instance of it, or derive it from ehlo.Handler
$ ehlo serve app:Needy
ehlo: app:Needy needs arguments (missing a required argument: 'database'); pass an instance of it
$ ehlo serve app:Needy --factory
ehlo: app:Needy needs arguments (missing a required argument: 'database'); pass an instance of it
$ ehlo serve app:Silent
ehlo: Silent has no on_message; define it to accept mail
$ ehlo serve app:instance --rcpt-handler app:only_bob
ehlo: --rcpt-handler and --auth-handler cannot be combined with a Handler; override on_rcpt and on_auth instead
$ ehlo serve app:function --app-dir nowhere
ehlo: --app-dir nowhere: no such directory; check the path
$ ehlo serve app:function --workers 0
ehlo: --workers is 0; it must be more than 0
$ ehlo serve app:function --workers two
ehlo: --workers two: not a whole number; write digits only
$ ehlo serve app:function --workers 2 --reload
ehlo: --reload cannot be combined with --workers; leave one out
$ ehlo serve app:function --max-connections 1 --workers 2
ehlo: --max-connections is 1; it must be at least the number of workers, 2
$ ehlo --workers 2
ehlo: --workers: no such option; check its spelling
$ ehlo sendmail
ehlo: no recipient; name one, or give -t
$ ehlo sendmail --smtp 127.0.0.1 x@y
ehlo: --smtp 127.0.0.1: port missing, e.g. 127.0.0.1:1025
$ ehlo sendmail -bs
ehlo: -bs: no such mode; leave it out, and give one mail
$ ehlo sendmail -t
ehlo: no recipient; write To, Cc or Bcc, or name one
$ ehlo sendmail --nope
ehlo: --nope: no such option; check its spelling
$ ehlo passwd
ehlo: FILE missing, e.g. ehlo passwd users.txt alice
$ ehlo passwd users
ehlo: USER missing, e.g. ehlo passwd users.txt alice
$ ehlo passwd users a:b
ehlo: USER a:b: a user name must not contain a colon or begin with #
$ ehlo passwd users --delete --scheme scrypt a
ehlo: --scheme cannot be combined with --delete; leave one out
$ ehlo passwd users a --scheme md5
ehlo: --scheme md5: not a choice; write scrypt, argon2, scram-sha-256 or scram-sha-1
$ ehlo replay
ehlo: FILE missing, e.g. ehlo replay sessions/20261129T104500-3f9c1a2b000001.smtp
$ ehlo top
ehlo: SOCKET missing, e.g. ehlo top /run/ehlo.sock
$ ehlo top --once --json a b
ehlo: b: unexpected argument; remove it
"""
LINES = WRONG.strip().split("\n")
CASES = list(zip(LINES[::2], LINES[1::2], strict=True))


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("typed", "said"), CASES, ids=[typed for typed, _ in CASES])
def test_a_wrong_use_has_its_message(
    capsys: pytest.CaptureFixture[str], typed: str, said: str
) -> None:
    _, _, *args = shlex.split(typed)
    is_command = args[0] in ("serve", "sendmail", "passwd", "top", "check", "replay")
    help_of = f"ehlo {args[0]}" if is_command else "ehlo"
    code = main(args)
    assert capsys.readouterr() == ("", f"{said}\nTry '{help_of} --help'.\n")
    assert code == (64 if args[0] == "sendmail" else 2)


def test_there_are_at_least_70_wrong_uses() -> None:
    assert len(CASES) >= 70
    assert len(dict(CASES)) == len(CASES)


@pytest.mark.usefixtures("place")
def test_no_control_character_of_a_wrong_use_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--appname", "\x1b[31m"]) == 2
    assert main(["--\x1b[31m\u202e\n"]) == 2
    assert main(["\x1b[31m"]) == 2
    assert main(["--addr", "\x1b[31m" + 1000 * "x"]) == 2
    err = capsys.readouterr().err
    assert not set(err) & set("\x1b\u202e")
    assert len(err.splitlines()) == 8
    assert max(map(len, err.splitlines())) < 400


@pytest.mark.usefixtures("place")
def test_a_wrong_variable_is_named_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        "EHLO_MAX_SIZE": ("much", "not a size; write bytes, or a number with k, M or G, e.g. 10M"),
        "EHLO_TLS_REQUIRED": ("maybe", "neither yes nor no; write 1 or 0"),
        "EHLO_LOOP": ("round", "not a choice; write auto, asyncio or uvloop"),
        "EHLO_AUTH_MECHS": ("PLAIN", "neither on nor off; write PLAIN=on or PLAIN=off"),
    }
    for name, (value, said) in wrong.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert main([]) == 2
        assert capsys.readouterr().err == f"ehlo: {name} {value}: {said}\nTry 'ehlo --help'.\n"


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("variables", "words", "said"),
    [
        (
            "EHLO_RELAY=smtp://relay.test:25",
            "serve app:function",
            "EHLO_RELAY needs --web; write --web 127.0.0.1:8025",
        ),
        (
            "EHLO_WEB=127.0.0.1:0 EHLO_WORKERS=2",
            "serve app:function",
            "EHLO_WEB cannot be combined with EHLO_WORKERS: the inbox is one process; leave one out",
        ),
        (
            "EHLO_PORT=26",
            "serve app:function --addr 127.0.0.1:0",
            "--addr cannot be combined with EHLO_PORT; leave one out",
        ),
        (
            "EHLO_QUEUE=mysql://u:secret@h/d",
            "serve app:function",
            "EHLO_QUEUE 'mysql://u@h/d': not supported; write mail.db, or postgresql://...",
        ),
        (
            "EHLO_QUEUE=postgresql:/u:secret@h/d",
            "serve app:function",
            "EHLO_QUEUE postgresql:...: not a URL; write postgresql://user@host:5432/database",
        ),
        (
            "EHLO_QUEUE=postgres:u:secret@h",
            "work app:function",
            "EHLO_QUEUE postgresql:...: not a URL; write postgresql://user@host:5432/database",
        ),
        (
            "EHLO_QUEUE=postgresql//u:secret@h/d",
            "serve app:function",
            "EHLO_QUEUE postgresql:...: not a URL; write postgresql://user@host:5432/database",
        ),
        (
            "EHLO_QUEUE_LEASE=3",
            "serve app:function",
            "EHLO_QUEUE_LEASE needs --queue; write --queue mail.db",
        ),
        (
            "EHLO_PRINT=0",
            "--no-web",
            "EHLO_PRINT=0 needs --web or --store; leave it out",
        ),
        (
            "EHLO_MAX_CONNECTIONS=1",
            "serve app:function --workers 2",
            "EHLO_MAX_CONNECTIONS is 1; it must be at least the number of workers, 2",
        ),
        ("EHLO_SMTP=there", "sendmail a@x.test", "EHLO_SMTP there: port missing, e.g. there:1025"),
        (
            "EHLO_SENDMAIL_SMTP=there",
            "sendmail a@x.test",
            "EHLO_SENDMAIL_SMTP there: port missing, e.g. there:1025",
        ),
    ],
)
def test_an_error_names_the_variable_instead_of_the_flag_that_was_not_given(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: str,
    words: str,
    said: str,
) -> None:
    for each in variables.split():
        monkeypatch.setenv(*each.split("=", 1))
    assert main(words.split()) in (2, 64)
    assert capsys.readouterr().err.splitlines()[0] == f"ehlo: {said}"
