"""Paths that root may use: what another user has put there is not followed, nor waited for."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ehlo import paths

NOBODY = 65_534

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to other users")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory of another user."""
    made = tmp_path / "theirs"
    made.mkdir()
    if os.getuid() == 0:
        os.chown(made, NOBODY, NOBODY)
    return made


@pytest.fixture
def sticky(tmp_path: Path) -> Path:
    """A directory such as /tmp."""
    made = tmp_path / "sticky"
    made.mkdir()
    made.chmod(0o1777)
    return made


def plant(link: Path, target: Path | str) -> Path:
    """Make a link of another user."""
    link.symlink_to(target)
    os.lchown(link, NOBODY, NOBODY)
    return link


def content(path: Path | str) -> str:
    with os.fdopen(paths.open_to_read(str(path))) as file:
        return file.read()


def append(path: Path | str, text: str = "line\n", owner: tuple[int, int] | None = None) -> None:
    with os.fdopen(paths.open_to_append(str(path), owner), "a") as file:
        file.write(text)


def refused(use: Callable[[Path], object], path: Path, reason: str) -> None:
    with pytest.raises(OSError, match=reason) as caught:
        use(path)
    assert caught.value.filename == str(path)


def check(path: Path | str) -> None:
    paths.check_file(str(path))


USES = pytest.mark.parametrize("use", [content, append])


# -- links ---------------------------------------------------------------------------------------


@as_root
@USES
@pytest.mark.parametrize("there", [True, False], ids=["", "dangling"])
def test_a_link_of_another_user_is_not_followed(
    tmp_path: Path, use: Callable[[Path], object], there: bool
) -> None:
    target = tmp_path / "precious"
    if there:
        target.write_text("precious")
    refused(use, plant(tmp_path / "link", target), "does not follow the link link, which another")
    assert target.exists() is there
    assert not there or target.read_text() == "precious"


@as_root
@USES
def test_a_link_to_a_directory_that_another_user_has_made_is_not_followed(
    tmp_path: Path, theirs: Path, use: Callable[[Path], object]
) -> None:
    (tmp_path / "file").write_text("precious")
    plant(theirs / "link", tmp_path)
    refused(use, theirs / "link" / "file", "does not follow the link link")
    refused(use, theirs / "link" / "new", "does not follow the link link")
    assert (tmp_path / "file").read_text() == "precious"
    assert not (tmp_path / "new").exists()


@as_root
@USES
@pytest.mark.parametrize("mode", [0o755, 0o775, 0o777])
def test_a_link_of_root_where_another_user_can_write_is_not_followed(
    tmp_path: Path, theirs: Path, use: Callable[[Path], object], mode: int
) -> None:
    """It may have come from elsewhere."""
    (tmp_path / "file").write_text("precious")
    if mode != 0o755:
        os.chown(theirs, 0, 0)
        theirs.chmod(mode)
    (theirs / "link").symlink_to(tmp_path / "file")
    refused(use, theirs / "link", "does not follow the link link")


@as_root
def test_links_that_only_root_can_have_made_are_followed(
    tmp_path: Path, theirs: Path, sticky: Path
) -> None:
    (theirs / "file").write_text("text")
    (tmp_path / "absolute").symlink_to(theirs)
    (tmp_path / "relative").symlink_to("absolute/../absolute/./file")
    (sticky / "link").symlink_to(tmp_path / "relative")  # as the volumes of Kubernetes have
    (tmp_path / "dangling").symlink_to(theirs / "new")
    assert content(tmp_path / "absolute" / "file") == "text"
    assert content(tmp_path / "relative") == "text"
    assert content(sticky / "link") == "text"
    append(tmp_path / "dangling", "made")
    assert (theirs / "new").read_text() == "made"


@as_root
def test_a_link_of_another_user_in_a_sticky_directory_is_not_followed(
    tmp_path: Path, sticky: Path
) -> None:
    (tmp_path / "file").write_text("precious")
    refused(content, plant(sticky / "link", tmp_path / "file"), "does not follow the link link")


@as_root
def test_the_target_of_a_link_is_looked_at_like_any_path(tmp_path: Path, theirs: Path) -> None:
    (tmp_path / "file").write_text("precious")
    plant(theirs / "planted", tmp_path)
    (tmp_path / "link").symlink_to(theirs / "planted" / "file")
    refused(content, tmp_path / "link", "does not follow the link planted")


@as_root
def test_links_without_an_end_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    refused(content, tmp_path / "a", "Too many levels of symbolic links")


def test_what_is_missing_is_named_as_it_was_given(tmp_path: Path) -> None:
    refused(content, tmp_path / "missing", "No such file")
    refused(append, tmp_path / "missing" / "file", "No such file")
    refused(append, tmp_path, "Is a directory")


def test_relative_paths_begin_at_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    append("file", "x")
    append("./../a//file", "y")
    assert content("../a/file") == "xy"


def test_other_users_follow_any_link(
    tmp_path: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their links lead to nothing that they could not have opened."""
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    (tmp_path / "dangling").symlink_to(theirs / "file")
    (theirs / "link").symlink_to(tmp_path)
    append(theirs / "link" / "dangling", "text")
    assert content(theirs / "link" / "dangling") == "text"


# -- files ---------------------------------------------------------------------------------------


@USES
def test_a_fifo_is_not_waited_for(
    theirs: Path, use: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(theirs / "fifo")
    refused(use, theirs / "fifo", "not a regular file|No such device")
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    refused(use, theirs / "fifo", "not a regular file|No such device")


@as_root
def test_a_fifo_that_is_read_is_no_log_of_root_where_another_user_can_write(
    theirs: Path, tmp_path: Path
) -> None:
    for directory in (theirs, tmp_path):
        os.mkfifo(directory / "fifo")
    reader = os.open(theirs / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    refused(append, theirs / "fifo", "not a regular file")
    os.close(reader)
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    append(tmp_path / "fifo", "line")
    assert os.read(reader, 10) == b"line"
    os.close(reader)


def test_a_device_and_a_directory_are_not_read(tmp_path: Path) -> None:
    refused(content, Path("/dev/zero"), "not a regular file")
    refused(content, tmp_path, "not a regular file|Is a directory")


def test_what_the_process_has_open_can_be_appended_to_as_dev_stdout_is() -> None:
    reader, writer = os.pipe()
    file = paths.open_to_append(f"/proc/self/fd/{writer}")
    assert os.get_blocking(file)
    os.write(file, b"line")
    assert os.read(reader, 10) == b"line"
    for each in (reader, writer, file):
        os.close(each)


@as_root
def test_root_appends_to_no_file_that_another_user_can_have_linked(
    tmp_path: Path, theirs: Path
) -> None:
    precious, strange = tmp_path / "precious", theirs / "strange"
    precious.write_text("precious")
    (theirs / "log").hardlink_to(precious)
    strange.touch()
    os.chown(strange, NOBODY - 1, NOBODY - 1)
    for path in (theirs / "log", strange):
        refused(append, path, "does not write to a file that another user could have linked")
    assert precious.read_text() == "precious"
    for path, owner in ((theirs / "own", NOBODY), (theirs / "root", 0)):
        path.touch()
        os.chown(path, owner, owner)
        append(path, "line")
        assert path.read_text() == "line"
    append(strange, "line", (NOBODY - 1, NOBODY - 1))


@as_root
def test_a_new_file_belongs_to_the_owner_and_another_one_stays_as_it_is(theirs: Path) -> None:
    append(theirs / "new", "one", (NOBODY, NOBODY))
    status = (theirs / "new").stat()
    assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY)
    (theirs / "old").touch()
    append(theirs / "old", "one", (NOBODY, NOBODY))
    assert (theirs / "old").stat().st_uid == 0


def test_a_file_for_another_library_is_looked_at_like_one_to_append_to(
    tmp_path: Path, theirs: Path
) -> None:
    file = tmp_path / "file"
    refused(check, file, "No such file")
    refused(check, tmp_path, "not a regular file")
    os.mkfifo(tmp_path / "fifo")
    refused(check, tmp_path / "fifo", "not a regular file")
    file.touch()
    (tmp_path / "link").symlink_to(file)
    check(tmp_path / "link")
    if os.getuid() == 0:
        refused(check, plant(theirs / "link", file), "does not follow the link link")
        (theirs / "log").hardlink_to(file)
        refused(check, theirs / "log", "does not write to a file that another user could have")


def test_a_file_that_is_looked_at_keeps_its_locks(tmp_path: Path) -> None:
    """A process that closes a file ends all of its locks on it, as those of SQLite (POSIX)."""
    (tmp_path / "file").touch()
    with (tmp_path / "file").open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        check(tmp_path / "file")
        take = "import fcntl; fcntl.lockf(open('file', 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        other = subprocess.run(
            [sys.executable, "-c", take], cwd=tmp_path, capture_output=True, check=False
        )
        assert b"BlockingIOError" in other.stderr


def test_a_new_file_has_the_wanted_mode(tmp_path: Path) -> None:
    for made, file in (
        (paths.create(str(tmp_path / "a"), 0o600), tmp_path / "a"),
        (paths.open_to_append(str(tmp_path / "b"), mode=0o600), tmp_path / "b"),
    ):
        os.close(made)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_is_in_a_directory_is_listed_and_removed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert sorted(paths.names_in(str(tmp_path))) == ["file", "link"]
    paths.remove(str(tmp_path / "link"))
    assert paths.names_in(str(tmp_path)) == ["file"]


@as_root
def test_nothing_is_removed_through_a_link_of_another_user(tmp_path: Path, theirs: Path) -> None:
    (tmp_path / "precious").touch()
    link = plant(theirs / "link", tmp_path)
    with pytest.raises(OSError, match="does not follow the link link"):
        paths.names_in(str(link))
    with pytest.raises(OSError, match="does not follow the link link"):
        paths.remove(str(link / "precious"))
    assert (tmp_path / "precious").exists()


def test_a_held_file_stays_the_same_when_its_path_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("first")
    with paths.held(str(path)) as name:
        path.unlink()
        path.write_text("second")
        assert Path(name).read_text() == "first"
    assert not Path(name).exists()


def test_without_proc_a_held_file_has_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_DESCRIPTORS", "/no/such/directory")
    (tmp_path / "file").touch()
    with paths.held(str(tmp_path / "file")) as name:
        assert name == str(tmp_path / "file")


@as_root
def test_the_place_of_a_socket_is_not_what_it_links_to(tmp_path: Path, theirs: Path) -> None:
    plant(theirs / "socket", tmp_path)
    with paths.entry_of(str(theirs / "socket"), follow=False) as entry:
        status = os.stat(entry.name, dir_fd=entry.directory, follow_symlinks=False)
        assert stat.S_ISLNK(status.st_mode)
        assert not entry.guarded
    further = paths.entry_of(str(theirs / "socket" / "x"), follow=False)
    with pytest.raises(OSError, match="does not follow") as caught, further:
        pytest.fail("it was opened")
    assert caught.value.errno == errno.ELOOP


def test_no_file_stays_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208  only the names are needed
    for path in (tmp_path, tmp_path / "missing", Path("/dev/zero"), tmp_path / "a" / "b"):
        with pytest.raises(OSError, match=str(path)):
            paths.open_to_read(str(path))
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
