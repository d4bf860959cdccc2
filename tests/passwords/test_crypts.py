"""Hashes as htpasswd writes them: which are read, and what is said of the others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ehlo.inbox.accounts import check_of_file
from ehlo.passwords.hashes import parse

PASSWORD = b"pa55w:rd"
# htpasswd -nb, of Apache 2.4.71, with -B, -2 and -5
BCRYPT = "$2y$05$PbkS.pQvEq2XYQQkztVNaeZ7njbGOVQvuG9Tqx99hDJ5DoBA7Z0/S"
SHA_256 = "$5$CnPG4uGNKJNhqnGo$0GGBmu9ITOxd1ErGCL1axd6ECkdqJwad0rpb7J96887"
SHA_512 = (
    "$6$l0dRUkChtyEXpdOn$k50VBc1UwmpN3rjZDd7qwlhezxxzg6nINAP9ypwYwFnmJAp1FnXHcH7Akd/MQ8HRWmBOq8Ue2k"
    "ZotPsKGWCP//"
)


@pytest.mark.parametrize("text", [BCRYPT, SHA_256, SHA_512])
def test_what_htpasswd_has_written_is_read(text: str) -> None:
    found = parse(text)
    assert found.matches(PASSWORD)
    for wrong in (b"", b"pa55w:rD", PASSWORD + b"x", PASSWORD + b"\0", PASSWORD + b"\0x"):
        assert not found.matches(wrong)
    assert found.text == text
    assert text not in repr(found)
    assert found.memory == 0


def test_what_openssl_and_glibc_have_written_is_read() -> None:
    rounds = "$6$rounds=1234$asaltof16chars..$"
    for password, text in (
        (b"Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
        (
            b"we have a short salt string but not a short password",
            "$5$short$k38kpRP0CfxHLIcmymaSTFLK.iFfF4tKryDuEGKp6SC",
        ),
        (
            b"a short string",
            (
                f"{rounds}Rvw21r4rdL3t7MDylfOt8ug5ULy4YzR.75yoyVvQ4dCui/ypt1nAasxWHxp6"
                "Z6WIfpk81AYcUU2kTmTXhlX5P."
            ),
        ),
        (b"", "$5$rounds=1000$s$cdjvTno7yp4OJ1Yyxn95LrCQTyxHsv3TK6lXb48P4L1"),
        (b"x" * 200, "$5$rounds=1000$saltsalt$orQ14bFbN9bOcFne1v.Rjf4.5k2UTHqqTflJ2r/Gp9B"),
    ):
        assert parse(text).matches(password)
        assert not parse(text).matches(password + b"x")


def test_bytes_beyond_72_do_not_count_for_bcrypt_as_for_htpasswd() -> None:
    import bcrypt

    long = b"x" * 72
    found = parse(bcrypt.hashpw(long, bcrypt.gensalt(4)).decode())
    assert found.matches(long)
    assert found.matches(long + b"more")
    assert not found.matches(long[:-1])


def test_a_very_long_password_costs_no_more() -> None:
    assert not parse(SHA_512).matches(b"x" * 1_000_000)


@pytest.mark.parametrize("text", ["$apr1$9y5Wy8sg$a2BTY38GVDdmQxc2Hq6F.0", "{SHA}WROgHH0fUDspjjE="])
def test_a_weak_hash_is_named_with_a_better_one(text: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"anna:{BCRYPT}\nbob:{text}\n")
    match = r"line 2: .* is too weak a hash; .* `htpasswd -B`"
    with pytest.raises(ValueError, match=match) as caught:
        check_of_file(str(path))
    assert text not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *(
            BCRYPT[:-1],
            BCRYPT + "x",
            BCRYPT.replace("$05$", "$31$"),
            BCRYPT.replace("$05$", "$03$"),
        ),
        *(SHA_256[:-1], SHA_512 + "x", SHA_256.replace("$5$", "$6$"), "$5$$" + "x" * 43, "$6$x"),
        *(SHA_512.replace("$6$", "$6$rounds=999$"), SHA_512.replace("$6$", "$6$rounds=999999999$")),
    ],
)
def test_a_hash_that_is_malformed_or_costs_too_much_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"make a new one with `ehlo passwd`") as caught:
        parse(text)
    assert text not in str(caught.value)


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(ValueError, match=r"pip install 'ehlo\[bcrypt\]'"):
        parse(BCRYPT)


def test_the_file_of_the_inbox_may_have_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"a:{BCRYPT}\nb:{SHA_256}\nc:{SHA_512}\n")
    check = check_of_file(str(path))
    for name in "abc":
        assert check(name, PASSWORD.decode())
        assert not check(name, "wrong")
    assert not check("d", PASSWORD.decode())
