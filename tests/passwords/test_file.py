"""`PasswordFile`: which passwords match, which lines are valid, how it reloads and writes."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pytest

from ehlo import PasswordFile
from ehlo.passwords import hashes
from ehlo.passwords.lines import prepared
from ehlo.protocol.auth.keys import ScramKeys
from support.passwords import MEMORY, cheap, lines_of, write
from support.program import Start
from support.program import start as start

OLD = 1_000_000_000  # a time long ago in nanoseconds


def scram(password: str, algorithm: str = "SHA-256", iterations: int = 4096) -> str:
    """Return SCRAM keys of `password` as a line has them."""
    salt = b"sixteen bytes..."
    return hashes.ScramHash(ScramKeys.derive(password, salt, algorithm, iterations)).text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "users", alice="wonder", bob="builder")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Move the clock ahead of all files, so that none counts as just changed."""
    ahead = time.time_ns() + 60_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: ahead)


# -- checking a password -------------------------------------------------------------------------


def test_only_the_password_of_the_user_matches(path: Path) -> None:
    passwords = PasswordFile(path)
    assert passwords.check("alice", "wonder")
    assert passwords.check("bob", b"builder")
    for username, password in [
        *(("alice", "builder"), ("alice", ""), ("alice", "wonder\n"), ("Alice", "wonder")),
        *(("carol", "wonder"), ("", ""), ("alice\udcff", "wonder"), ("alice:", "wonder")),
        *(("alice", "wonder\udcff"), ("# a", "b")),
    ]:
        assert not passwords.check(username, password)


@pytest.mark.parametrize("kind", hashes.SCHEMES)
def test_each_scheme_matches_the_password_that_was_set(tmp_path: Path, kind: str) -> None:
    passwords = PasswordFile(tmp_path / "users")
    passwords.set("alice", "wönder", kind)
    assert passwords.check("alice", "wönder")
    assert passwords.check("alice", "wönder".encode())
    assert not passwords.check("alice", "wonder")


def test_a_password_may_be_bytes_that_are_not_utf_8(tmp_path: Path) -> None:
    passwords = PasswordFile(tmp_path / "users")
    passwords.set("alice", b"\xff\xfe", "scram-sha-256")
    assert passwords.check("alice", b"\xff\xfe")
    assert passwords.check("alice", b"\xff\xfe".decode(errors="surrogateescape"))


def test_no_password_matches_in_a_file_without_users(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("\n# no users yet\n")
    passwords = PasswordFile(file)
    assert not passwords.check("alice", "")
    assert not passwords.check("", "")


NAMES = ["j\N{LATIN SMALL LETTER U WITH DIAERESIS}rgen", "ju\N{COMBINING DIAERESIS}rgen"]
"""One user name, composed and decomposed."""


@pytest.mark.parametrize("stored", NAMES)
@pytest.mark.parametrize("given", NAMES)
def test_a_user_name_is_the_same_in_each_unicode_form(
    tmp_path: Path, stored: str, given: str
) -> None:
    passwords = PasswordFile(tmp_path / "users")
    assert passwords.set(stored, "wonder", "scram-sha-256") is False
    assert passwords.check(given, "wonder")
    (keys,) = passwords.scram_keys(given)
    assert passwords.scram_keys_for_all(given) == (keys,)
    assert passwords.set(given, "land", "scram-sha-256") is True
    assert len(lines_of(Path(passwords.path))) == 1
    assert passwords.check(stored, "land")
    assert passwords.remove(stored) is True


def test_two_unicode_forms_of_a_user_name_are_one_user(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("".join(f"{name}:{cheap('x')}\n" for name in NAMES), encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: second hash for the same user"):
        PasswordFile(file).load()


@pytest.mark.parametrize(
    "name",
    [
        "\N{COMBINING GRAPHEME JOINER}",  # SASLprep maps it to nothing
        "\N{HEBREW LETTER ALEF}1a",  # text in two directions
        "u" * 255,
    ],
)
def test_a_user_name_that_saslprep_rejects_is_compared_unchanged(tmp_path: Path, name: str) -> None:
    passwords = PasswordFile(write(tmp_path / "users", **{name: "x"}))
    assert passwords.check(name, "x")
    assert not passwords.check("", "x")


def test_saslprep_is_not_applied_to_a_user_name_that_is_too_long(path: Path) -> None:
    name = "\N{ROMAN NUMERAL NINE}" * 100_000
    assert prepared(name) is name
    assert not PasswordFile(path).check(name, "wonder")


# -- unknown users cost the same work ------------------------------------------------------------


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Record each call of a hash function with its cost parameters."""
    calls: list[tuple[Any, ...]] = []
    scrypt, pbkdf2 = hashlib.scrypt, hashlib.pbkdf2_hmac

    def counted_scrypt(password: bytes, **options: Any) -> bytes:
        calls.append(("scrypt", options["n"], options["r"], options["p"], options["dklen"]))
        return scrypt(password, **options)

    def counted_pbkdf2(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
        calls.append((name, len(salt), iterations))
        return pbkdf2(name, password, salt, iterations)

    monkeypatch.setattr(hashlib, "scrypt", counted_scrypt)
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counted_pbkdf2)
    return calls


def test_an_unknown_user_costs_the_same_work_as_a_wrong_password(
    path: Path, work: list[tuple[Any, ...]]
) -> None:
    passwords = PasswordFile(path)
    passwords.load()
    work.clear()
    assert not passwords.check("alice", "wrong")
    wrong, work[:] = list(work), []
    assert not passwords.check("stranger", "wrong")
    assert work == wrong == [("scrypt", 16, 8, 1, 32)]
    assert passwords.find("stranger").memory == passwords.find("alice").memory == MEMORY


MIXED = {
    **{f"a{n}": cheap("x") for n in range(10)},
    **{f"b{n}": scram("x", iterations=15_000) for n in range(20)},
    **{f"c{n}": scram("x") for n in range(5)},
    **{f"d{n}": scram("x", "SHA-1") for n in range(5)},
}
"""Users with four kinds of hashes, whose costs differ."""
STRANGERS = [f"stranger{n}" for n in range(400)]


def mixed_file(path: Path, **users: str) -> PasswordFile:
    """Write a file with the users of `MIXED` and these."""
    path.write_text("".join(f"{user}:{word}\n" for user, word in (MIXED | users).items()))
    return PasswordFile(path)


def costs(passwords: PasswordFile) -> list[Hashable]:
    """Return what a check costs for each of `STRANGERS`."""
    return [passwords.find(name).hash.cost for name in STRANGERS]


def test_each_kind_of_hash_gets_its_share_of_unknown_users(tmp_path: Path) -> None:
    passwords = mixed_file(tmp_path / "users")
    found = costs(passwords)
    assert found == costs(passwords)  # a name always gets the same hash
    assert not any(passwords.find(name).known for name in STRANGERS)
    shares = {cost: found.count(cost) for cost in set(found)}
    users = [passwords.find(name).hash.cost for name in MIXED]
    assert shares.keys() == set(users)
    for cost, count in shares.items():
        expected = len(STRANGERS) * users.count(cost) / len(users)
        assert expected / 2 < count < expected * 2


def test_adding_a_user_changes_the_hash_of_few_unknown_users(tmp_path: Path) -> None:
    before = costs(mixed_file(tmp_path / "users"))
    after = costs(mixed_file(tmp_path / "users", e=cheap("x")))
    changed = sum(old != new for old, new in zip(before, after, strict=True))
    assert changed <= 3 * len(STRANGERS) / len(MIXED)


def test_unknown_users_get_scram_iteration_counts_that_known_users_have(tmp_path: Path) -> None:
    passwords = mixed_file(tmp_path / "users", b0=MIXED["b0"])
    given = [passwords.scram_keys_for_all(name) for name in STRANGERS]
    assert {tuple(keys.algorithm for keys in each) for each in given} == {("SHA-256", "SHA-1")}
    counts = [each[0].iterations for each in given]
    assert set(counts) == {4096, 15_000}
    assert 0.7 < counts.count(15_000) / len(counts) < 0.9
    assert {each[1].iterations for each in given} == {4096}
    assert len({keys.salt for each in given for keys in each}) == 2 * len(STRANGERS)
    assert given == [passwords.scram_keys_for_all(name) for name in STRANGERS]


def test_a_user_with_keys_for_one_algorithm_gets_made_up_ones_for_the_other(tmp_path: Path) -> None:
    passwords = mixed_file(tmp_path / "users")
    (stored,) = passwords.scram_keys("b0")
    first, second = passwords.scram_keys_for_all("b0")
    assert first == stored
    assert (second.algorithm, second.iterations) == ("SHA-1", 4096)
    assert second.stored_key == second.server_key  # no password has these


def test_no_user_gets_scram_keys_from_a_file_without_any(path: Path) -> None:
    assert PasswordFile(path).scram_keys_for_all("alice") == ()


def test_an_unknown_user_costs_work_in_a_file_without_users_too(
    tmp_path: Path, work: list[tuple[Any, ...]]
) -> None:
    file = tmp_path / "users"
    file.write_text("")
    assert not PasswordFile(file).check("stranger", "x")
    assert work == [("scrypt", 2**15, 8, 3, 32)]


def test_an_unknown_user_has_no_password_not_even_of_the_hash_used(path: Path) -> None:
    passwords = PasswordFile(path)
    assert not any(passwords.check("stranger", password) for password in ("wonder", "builder"))


# -- the secret for salts -------------------------------------------------------------------------


def salts(path: Path, *names: str) -> list[bytes]:
    """Return what anybody can learn about these names by the first message of SCRAM."""
    passwords = PasswordFile(path)  # as after a restart, and in another worker
    return [keys.salt for name in names for keys in passwords.scram_keys_for_all(name)]


EVERYBODY = ("alice", "bob", "carol", "stranger", "ALICE", "\udcff", "x" * 300)


def test_no_change_of_a_file_changes_a_salt(tmp_path: Path) -> None:
    file = tmp_path / "users"
    passwords = PasswordFile(file)
    schemes = ("scram-sha-256", "scram-sha-1")
    passwords.set("alice", "wonder", *schemes)
    before = salts(file, *EVERYBODY)
    assert len(set(before)) == len(before)
    passwords.set("alice", "land", *schemes)  # the first user
    assert salts(file, *EVERYBODY) == before
    passwords.set("bob", "builder", *schemes)
    assert salts(file, *EVERYBODY) == before
    passwords.set("bob", "bricks", *schemes)
    passwords.remove("alice")
    assert salts(file, *EVERYBODY) == before
    assert passwords.check("bob", "bricks")


CHANGES: dict[str, Callable[[PasswordFile], object]] = {
    "the first user": lambda passwords: passwords.set("alice", "land", "scram-sha-256"),
    "without the first user": lambda passwords: passwords.remove("alice"),
    "another user": lambda passwords: passwords.set("carol", "carrot", "scram-sha-256"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_first_change_of_a_file_without_a_secret_keeps_its_salts(
    tmp_path: Path, change: str
) -> None:
    file = tmp_path / "users"
    file.write_text(f"alice:{scram('x')}\nbob:{scram('y')}\n")
    passwords = PasswordFile(file)
    before = salts(file, "carol", "stranger")
    found = [passwords.has_secret]
    CHANGES[change](passwords)
    found.append(passwords.has_secret)
    assert found == [False, True]
    assert salts(file, "carol", "stranger") == before


def test_files_have_secrets_of_their_own(tmp_path: Path) -> None:
    for name in "ab":
        PasswordFile(tmp_path / name).set("alice", "wonder", "scram-sha-256")
    assert set(salts(tmp_path / "a", *EVERYBODY)).isdisjoint(salts(tmp_path / "b", *EVERYBODY))
    empty = tmp_path / "empty"
    empty.write_text("")
    PasswordFile(empty).set("alice", "wonder", "scram-sha-256")
    assert PasswordFile(empty).salt_key not in [
        PasswordFile(tmp_path / "a").salt_key,
        hashlib.sha256(b"ehlo salt ").digest(),  # which everybody knows
    ]


@pytest.mark.parametrize("text", [b"", b"AAAA", b"A" * 44, b"=" * 44])
def test_a_secret_that_was_damaged_is_a_bad_line(path: Path, text: bytes) -> None:
    path.write_bytes(b"# ehlo-secret: " + text + b"\n" + path.read_bytes())
    with pytest.raises(ValueError, match="line 1: malformed secret; restore the line, or delete"):
        PasswordFile(path).load()


def test_of_two_secrets_the_first_one_is_in_use(tmp_path: Path) -> None:
    lines = {}
    for name in "ab":
        PasswordFile(tmp_path / name).set(name, "wonder")
        lines[name] = (tmp_path / name).read_bytes()
    file = tmp_path / "both"
    file.write_bytes(lines["a"] + lines["b"].replace(b"\n", b" \r\n"))
    assert PasswordFile(file).salt_key == PasswordFile(tmp_path / "a").salt_key


# -- SCRAM keys ----------------------------------------------------------------------------------


def test_a_user_gets_the_scram_keys_in_the_file(path: Path) -> None:
    first, second = scram("carrot"), scram("carrot", "SHA-1")
    with path.open("a") as file:
        file.write(f"carol:{first}\ncarol:{second}\n")
    passwords = PasswordFile(path)
    keys = passwords.scram_keys("carol")
    assert [each.algorithm for each in keys] == ["SHA-256", "SHA-1"]
    for each in keys:
        assert each == ScramKeys.derive("carrot", each.salt, each.algorithm)
    assert passwords.scram_keys("alice") == ()
    assert passwords.scram_keys("stranger") == ()
    assert passwords.scram_algorithms == {"SHA-256", "SHA-1"}
    assert passwords.check("carol", "carrot")
    assert not passwords.check("carol", "wonder")


def test_a_file_without_scram_keys_has_no_scram_algorithms(path: Path) -> None:
    assert PasswordFile(path).scram_algorithms == frozenset()


# -- bad lines -----------------------------------------------------------------------------------

# Constants, since pytest makes test names of parameters
SESAME = b"$scrypt$ln=4,r=8,p=1$rOpq3PgNzOS4tSzXCiNmRw$NOzfT5uQKmB3FowYfoH99KG3tXmF8RSFHN6MbVwXd7Y"
SESAME_KEYS = (
    b"{SCRAM-SHA-256}4096,o8Ys3yGseDJ9wHHRz0OWpA==,lGfmOPeC+j4R5td+dAU+k16k7t28wIrv1nux+Y73cGQ=,"
    b"1tj+GlKPppIe6FFMiOUn/iR0X7RLhjCb6dKSOGDOxnk="
)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"sesame", "not of the form user:hash"),
        (b":" + SESAME, "a user name must not be empty"),
        (b" : " + SESAME, "a user name must not be empty"),
        (b"carol :" + SESAME, "a user name must not be empty"),
        (b"car\x1bol:" + SESAME, "a user name must not be empty"),
        ("car\u200bol:".encode() + SESAME, "a user name must not be empty"),
        ("\ufeffcarol:".encode() + SESAME, "a user name must not be empty"),
        (b"c" * 256 + b":" + SESAME, "at most 255 bytes"),
        (b"carol:sesame", "unknown kind of hash"),
        (b"carol:", "unknown kind of hash"),
        (b"carol: " + SESAME, "unknown kind of hash"),
        (b"carol:" + SESAME + b":sesame", "malformed"),
        (b"carol:$scrypt$ln=30,r=8,p=1$sesame$" + b"A" * 43, "cost out of bounds"),
        (b"carol:sesame\xff", "not UTF-8"),
        (b"alice:" + SESAME, "second hash for the same user"),
        (b"alice:" + SESAME_KEYS, "second hash for the same user"),
    ],
)
def test_an_error_names_the_number_of_a_bad_line_and_does_not_quote_it(
    path: Path, line: bytes, reason: str
) -> None:
    path.write_bytes(b"# users\r\n\r\n" + path.read_bytes() + line + b"\n")
    with pytest.raises(ValueError, match=reason) as caught:
        PasswordFile(path).load()
    assert str(caught.value).startswith(f"{path}: line 5: ")
    assert "sesame" not in str(caught.value)
    for word in re.findall(rb"[A-Za-z0-9+/]{12,}", line.split(b"$", 3)[-1]):
        assert word.decode() not in str(caught.value)


def test_a_second_line_needs_another_scram_algorithm(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(f"alice:{scram('x')}\nalice:{scram('x')}\n")
    with pytest.raises(ValueError, match="line 2: second hash for the same user"):
        PasswordFile(file).load()


@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_an_unreadable_file_raises_value_error_with_its_path(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "users"
    if kind == "directory":
        file.mkdir()
    for attempt in (
        PasswordFile(file).load,
        lambda: PasswordFile(file).check("alice", "wonder"),
        lambda: PasswordFile(file).scram_keys("alice"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: "):
            attempt()


def test_the_constructor_does_not_read_the_file(tmp_path: Path) -> None:
    file = tmp_path / "users"
    passwords = PasswordFile(file)
    write(file, alice="wonder")
    assert passwords.check("alice", "wonder")


def test_an_argon2_line_is_a_bad_line_without_argon2_cffi(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PasswordFile(path).set("carol", "carrot", "argon2")
    assert PasswordFile(path).check("carol", "carrot")
    monkeypatch.setitem(sys.modules, "argon2", None)
    with pytest.raises(ValueError, match=r"line 4: argon2 needs argon2-cffi: pip install"):
        PasswordFile(path).load()
    with pytest.raises(ValueError, match="argon2 needs argon2-cffi"):
        PasswordFile(path).set("dan", "x", "argon2")


# -- reloading -----------------------------------------------------------------------------------


def replace(path: Path, text: str) -> None:
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


def overwrite(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.parametrize("change", [replace, overwrite])
def test_a_change_takes_effect_at_once(path: Path, change: Callable[[Path, str], None]) -> None:
    passwords = PasswordFile(path)
    for number in range(10, 30):
        change(path, f"alice:{cheap(f'wonder{number}')}\n")
        os.utime(path, ns=(OLD, OLD))
        assert passwords.check("alice", f"wonder{number}")
        assert not passwords.check("alice", f"wonder{number - 1}")


def test_a_change_takes_effect_even_if_timestamps_are_coarse(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new content has the same length, inode and timestamps."""
    monkeypatch.setattr("ehlo.paths.stamp_of", lambda _status: (0,))
    passwords = PasswordFile(path)
    assert passwords.check("alice", "wonder")
    write(path, alice="land", bob="builder")
    assert passwords.check("alice", "land")


def test_a_file_that_does_not_change_is_read_once(
    path: Path, later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = PasswordFile(path)
    assert passwords.check("alice", "wonder")
    monkeypatch.setattr(Path, "open", None)
    assert passwords.check("alice", "wonder")
    assert not passwords.check("stranger", "wonder")


@pytest.mark.parametrize("change", [replace, overwrite])
def test_a_file_that_was_unchanged_for_long_is_reloaded_when_it_changes(
    path: Path, later: None, change: Callable[[Path, str], None]
) -> None:
    passwords = PasswordFile(path)
    assert passwords.check("alice", "wonder")
    change(path, f"carol:{cheap('carrot')}\n")
    assert passwords.check("carol", "carrot")
    assert not passwords.check("alice", "wonder")


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("trouble", ["gone", "broken", "directory"])
def test_the_previous_content_stays_in_use_and_the_log_reports_it_once(
    path: Path,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
    trouble: str,
    settled: bool,
) -> None:
    if settled:
        request.getfixturevalue("later")
    passwords = PasswordFile(path)
    passwords.load()
    if trouble == "broken":
        replace(path, "dan:sesame\n")
    else:
        path.unlink()
    if trouble == "directory":
        path.mkdir()
    for _ in range(3):
        assert passwords.check("alice", "wonder")
        assert not passwords.check("dan", "sesame")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("ehlo.passwords", logging.ERROR)
    message = record.getMessage()
    assert message.startswith(f'reload failed what=passwords reason="{path}: ')
    assert message.endswith(" in_use=previous")
    assert "sesame" not in message
    if trouble == "directory":
        path.rmdir()
    write(path, alice="land")
    assert passwords.check("alice", "land")
    assert caplog.messages[1:] == [f'reloaded what=passwords file="{path}"']
    path.unlink()
    assert passwords.check("alice", "land")
    assert len(caplog.records) == 3


# -- writing -------------------------------------------------------------------------------------


def test_a_new_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "users"
    before = os.umask(0)
    try:
        assert PasswordFile(file).set("alice", "wonder", "scram-sha-256") is False
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]
    assert PasswordFile(file).check("alice", "wonder")


def test_the_mode_of_a_file_is_kept(path: Path) -> None:
    path.chmod(0o640)
    PasswordFile(path).set("alice", "land", "scram-sha-256")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_owner_of_a_file_is_kept_or_the_file_stays_unchanged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root can set the owner; any other user gets an error."""
    before = path.read_bytes()
    given: list[tuple[int, int]] = []
    fstat = os.fstat
    inode = path.stat().st_ino

    def another_owner(file: int) -> os.stat_result:
        status = fstat(file)
        if status.st_ino != inode:
            return status
        return os.stat_result((*status[:4], 4711, 4712, *status[6:]))

    def deny(_file: int, uid: int, gid: int) -> None:
        given.append((uid, gid))
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fstat", another_owner)
    monkeypatch.setattr(os, "fchown", deny)
    monkeypatch.setattr(os.path, "samestat", lambda one, other: one.st_ino == other.st_ino)
    with pytest.raises(PermissionError):
        PasswordFile(path).set("alice", "land", "scram-sha-256")
    assert given == [(4711, 4712)]
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_other_lines_stay_as_they_are(path: Path) -> None:
    alice, bob = path.read_bytes().splitlines()
    path.write_bytes(b"# ours\r\n\r\n" + alice + b"\r\n  # bob is the last\n" + bob)
    assert PasswordFile(path).set("alice", "land", "scram-sha-256", "scram-sha-1") is True
    secret, *lines = path.read_bytes().split(b"\n")
    assert secret.startswith(b"# ehlo-secret: ")
    assert lines[:2] == [b"# ours\r", b"\r"]
    assert lines[2].startswith(b"alice:{SCRAM-SHA-256}4096,")
    assert lines[3].startswith(b"alice:{SCRAM-SHA-1}4096,")
    assert lines[4:] == [b"  # bob is the last", bob, b""]
    PasswordFile(path).set("carol", "carrot", "scram-sha-256")
    assert path.read_bytes().split(b"\n")[6:][1].startswith(b"carol:")
    assert PasswordFile(path).set("alice", "wonder", "scrypt") is True
    assert len(PasswordFile(path).scram_keys("alice")) == 0
    assert PasswordFile(path).check("alice", "wonder")
    assert not PasswordFile(path).check("alice", "land")


def test_a_user_can_be_removed(path: Path) -> None:
    passwords = PasswordFile(path)
    assert passwords.remove("alice") is True
    assert not passwords.check("alice", "wonder")
    assert passwords.check("bob", "builder")
    before = path.read_bytes()
    assert passwords.remove("alice") is False
    assert path.read_bytes() == before


def test_removing_from_a_missing_file_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PasswordFile(tmp_path / "users").remove("alice")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("username", "password", "schemes", "reason"),
    [
        ("", "x", (), "a user name"),
        ("a:b", "x", (), "a user name"),
        ("#a", "x", (), "a user name"),
        (" a", "x", (), "a user name"),
        ("a\nb", "x", (), "a user name"),
        ("a\udcff", "x", (), "a user name"),
        ("ä" * 128, "x", (), "a user name"),
        ("alice", "", (), "the password is empty"),
        ("alice", "sesame\0", (), "contains NUL"),
        ("alice", "sesame", ("md5",), "unknown scheme 'md5'; use one of scrypt, "),
        ("alice", "sesame", ("scram-sha-256", "scrypt"), "second hash for the same user"),
    ],
)
def test_an_invalid_user_name_password_or_scheme_leaves_the_file_unchanged(
    path: Path, username: str, password: str, schemes: tuple[str, ...], reason: str
) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match=reason) as caught:
        PasswordFile(path).set(username, password, *schemes)
    assert "sesame" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_file_with_a_bad_line_is_not_changed(path: Path) -> None:
    broken = path.read_bytes() + b"dan:sesame\n"
    path.write_bytes(broken)
    passwords = PasswordFile(path)
    attempts: list[Callable[[], bool]] = [
        lambda: passwords.set("alice", "x", "scram-sha-256"),
        lambda: passwords.remove("alice"),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match="line 3: "):
            attempt()
    assert path.read_bytes() == broken


def test_a_symbolic_link_stays_and_its_target_is_changed(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    PasswordFile(link).set("carol", "carrot", "scram-sha-256")
    assert link.is_symlink()
    assert PasswordFile(path).check("carol", "carrot")


def test_a_full_disk_leaves_the_file_unchanged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        PasswordFile(path).set("alice", "land", "scram-sha-256")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# Ends in the middle of a change, as in a power failure
_CRASH = """
import os, pathlib, sys
from ehlo import PasswordFile
owner, name = {"fsync": (os, "fsync"), "replace": (pathlib.Path, "replace")}[sys.argv[2]]
setattr(owner, name, lambda *_: os._exit(9))
PasswordFile(sys.argv[1]).set("alice", "land", "scram-sha-256")
"""


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_crash_leaves_the_file_unchanged_and_unlocked(
    start: Start, path: Path, moment: str
) -> None:
    before = path.read_bytes()
    assert start("-c", _CRASH, path, moment).wait() == 9
    assert path.read_bytes() == before
    assert PasswordFile(path).set("alice", "land", "scram-sha-256") is True
    assert PasswordFile(path).check("alice", "land")


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_lock_of_a_reader_keeps_no_writer_waiting(path: Path, kind: int) -> None:
    with path.open("rb") as reader:
        fcntl.flock(reader, kind)
        assert PasswordFile(path).set("alice", "land", "scram-sha-256") is True
        assert PasswordFile(path).remove("bob") is True


def test_a_writer_waits_for_another_one_and_not_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = path.with_name(".users.lock")
    waited: list[float] = []
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                lock.unlink()

        monkeypatch.setattr(time, "sleep", sleep)
        assert PasswordFile(path).set("alice", "land", "scram-sha-256") is True
        assert len(waited) == 3
    assert list(path.parent.iterdir()) == [path]
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        monkeypatch.setattr("ehlo.passwords.file._MOST_WAIT", 0.0)
        with pytest.raises(OSError, match="another process has locked"):
            PasswordFile(path).remove("alice")
    assert PasswordFile(path).check("alice", "land")


def test_a_lock_that_was_planted_as_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.with_name(".users.lock").symlink_to(tmp_path / "another")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        PasswordFile(path).remove("alice")
    assert not (tmp_path / "another").exists()


_WRITER = """
import sys
from ehlo import PasswordFile
passwords = PasswordFile(sys.argv[1])
print("ready", flush=True)
for number in range(25):
    passwords.set(f"{sys.argv[2]}{number}", f"password{number}", "scram-sha-256")
    if number % 5 == 4:
        assert passwords.remove(f"{sys.argv[2]}{number}")
"""


def test_concurrent_writers_lose_none_of_their_changes(start: Start, tmp_path: Path) -> None:
    """The file does not exist at first; a concurrent reader always reads a whole file."""
    file = tmp_path / "users"
    writers = [start("-c", _WRITER, file, name) for name in "abcd"]
    for writer in writers:
        writer.out.until("ready")
    reader = PasswordFile(file)
    while any(writer.process.poll() is None for writer in writers):
        if file.exists():
            reader.load()
    for writer in writers:
        assert writer.wait() == 0, writer.err.text
    users = {line.partition(":")[0] for line in lines_of(file)}
    assert users == {f"{name}{number}" for name in "abcd" for number in range(25) if number % 5 < 4}
    assert list(tmp_path.iterdir()) == [file]
    assert reader.check("d3", "password3")
