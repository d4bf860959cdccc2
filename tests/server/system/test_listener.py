"""Listening Unix sockets: their modes and owners, in a directory that another user can change."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ehlo import paths
from ehlo.server.system import listener

NOBODY = 65_534

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to other users")


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file for root alone."""
    made = tmp_path / "precious"
    made.write_text("precious")
    made.chmod(0o600)
    return made


def replacing(monkeypatch: pytest.MonkeyPatch, replace: Callable[[Path], None]) -> None:
    """Let another user be quick: `replace` is called with the path that has been bound."""
    bind = socket.socket.bind

    def bind_and_lose(sock: socket.socket, path: str) -> None:
        bind(sock, path)
        Path(path).rename(f"{path}.old")
        replace(Path(path))

    monkeypatch.setattr(socket.socket, "bind", bind_and_lose)


def link(target: Path) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.symlink_to(target)
        if os.getuid() == 0:
            os.lchown(path, NOBODY, NOBODY)

    return replace


def hard_link(target: Path) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.hardlink_to(target)

    return replace


def a_socket_of_another_user(_target: Path) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        os.mknod(path, stat.S_IFSOCK | 0o600)
        os.chown(path, NOBODY, NOBODY)

    return replace


KINDS = pytest.mark.parametrize(
    "kind", [link, hard_link, pytest.param(a_socket_of_another_user, marks=as_root)]
)


@KINDS
@pytest.mark.parametrize("private", [False, True])
def test_mode_and_owner_are_those_of_the_socket_alone(
    tmp_path: Path,
    precious: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Callable[[Path], Callable[[Path], None]],
    private: bool,
) -> None:
    before = precious.stat()
    replacing(monkeypatch, kind(precious))
    path = tmp_path / "socket"
    owner = (NOBODY, NOBODY) if os.getuid() == 0 else None
    with pytest.raises(OSError, match="the socket was replaced while it was made"):
        _ = (
            listener.bind_private(str(path), owner)
            if private
            else listener.bind(f"unix:{path}", 0o666)
        )
    after = precious.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )


def test_a_socket_that_is_replaced_when_it_was_looked_at_keeps_the_mode(
    tmp_path: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is open by then, and the mode is set by its descriptor."""
    path = tmp_path / "socket"
    name_of = paths.name_of

    def name_and_lose(file: int) -> str | None:
        path.rename(tmp_path / "old")
        path.symlink_to(precious)
        return name_of(file)

    monkeypatch.setattr(paths, "name_of", name_and_lose)
    (sock,) = listener.bind(f"unix:{path}", 0o640)
    sock.close()
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o640
    assert stat.S_IMODE(precious.stat().st_mode) == 0o600


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
def test_the_mode_is_what_was_asked_for_whatever_the_umask(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        (sock,) = listener.bind(f"unix:{tmp_path / 'socket'}", mode)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    sock.close()
    assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == mode


def test_without_a_mode_the_umask_applies(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        (sock,) = listener.bind(f"unix:{tmp_path / 'socket'}")
    finally:
        os.umask(before)
    sock.close()
    assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o750


@as_root
def test_a_private_socket_may_be_another_users(tmp_path: Path) -> None:
    sock = listener.bind_private(str(tmp_path / "socket"), (NOBODY, NOBODY))
    sock.close()
    status = (tmp_path / "socket").stat()
    assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY)
    assert stat.S_IMODE(status.st_mode) == 0o600


def test_a_link_to_a_socket_is_not_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "stale"))
    (tmp_path / "link").symlink_to(tmp_path / "stale")
    with pytest.raises(OSError, match="Address already in use"):
        listener.bind(f"unix:{tmp_path / 'link'}")
    assert (tmp_path / "stale").exists()


def test_only_a_socket_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ehlo.server")
    names = ["file", "link", "socket", "missing"]
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
    listener.remove([str(tmp_path / name) for name in names])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "link"]
    assert caplog.messages == [
        f"cannot remove {tmp_path / name}: it is no longer a socket" for name in names[:2]
    ]
