"""What is acknowledged is in the file, whatever ends the process or fills the disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ehlo.store import Delivery, Store, StoreError
from support.storing import fill, ids, in_loop, mail, subjects

# Puts mail as fast as it can, and prints the id of each one that is acknowledged
LOAD = """
import asyncio, os, sys
from ehlo.store import Delivery, Store, StoreError

async def client(store, number):
    for count in range(1_000_000):
        text = f"Subject: {number}-{count}\\r\\n\\r\\n" + "x" * (count % 5_000)
        mail_id = await store.put(Delivery(text.encode(), inbox=str(number)))
        os.write(1, f"{mail_id} {number}-{count}\\n".encode())

async def main():
    async with Store.open(sys.argv[1], keep=0) as store:
        await asyncio.gather(*(client(store, number) for number in range(8)))

asyncio.run(main())
"""
# The same in a process whose files may not grow beyond so many bytes
FULL = """
import asyncio, resource, signal, sys
from ehlo.store import Delivery, DiskFullError, Store
from ehlo.store.room import LEFT

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with Store.open(sys.argv[1], keep=0) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
        kept, failed = [], 0
        for number in range(40):
            try:
                kept.append(await store.put(Delivery(b"Subject: s\\r\\n\\r\\n" + b"x" * 300_000)))
            except DiskFullError:
                failed += 1
        assert kept and failed, (len(kept), failed)
        assert [each.id for each in (await store.list(limit=None)).mails] == kept[::-1]
        # What is left for deletions on a disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000 + LEFT, resource.RLIM_INFINITY))
        await store.delete()
        await store.put(Delivery(b"Subject: after\\r\\n\\r\\n"))
        print(len(kept), failed)

asyncio.run(main())
"""


def test_every_acknowledged_mail_is_in_the_file_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(500)]
    process.kill()
    acknowledged += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    wanted = dict(line.decode().split() for line in acknowledged if line.endswith(b"\n"))
    assert len(wanted) >= 500

    async def stored() -> dict[str, str]:
        async with Store.open(str(path), keep=0) as store:
            page = await store.list(limit=None)
            assert (await store.search("subject:0-0")).found.total >= 1
            return {each.id: json.loads(each.summary)["Subject"] for each in page.mails}

    found = asyncio.run(stored())
    assert wanted.items() <= found.items()
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


@pytest.mark.parametrize("name", ["mail.db", ""])
def test_a_disk_that_is_full_is_an_error_and_the_store_works_on(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / name) if name else ""],
        capture_output=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


@in_loop
async def test_a_mail_of_50_megabytes_is_stored_and_found(tmp_path: Path) -> None:
    head = b"Subject: large\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    head += b"--b\r\n\r\nneedle\r\n--b\r\n"
    file = b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    message = head + file + (b"QUJD" * 19 + b"\r\n") * 640_000 + b"--b--\r\n"
    assert len(message) > 49_000_000
    async with Store.open() as store:
        mail_id = await store.put(Delivery(message))
        small = await store.put(Delivery(mail()))
        assert ids(await store.search("needle larger:40m")) == [mail_id]
        found = await store.get(mail_id)
        assert found is not None
        assert hashlib.sha256(found.data).digest() == hashlib.sha256(message).digest()
        assert await store.delete(ids=[mail_id]) == 1
        assert ids(await store.list()) == [small]


@in_loop
async def test_readers_and_searches_go_on_while_mails_come_and_go() -> None:
    async with Store.open(keep=20) as store:
        done = asyncio.Event()

        async def read() -> int:
            answers = 0
            while not done.is_set():
                page = await store.list(limit=None)
                assert len(page.mails) == page.found.total <= 40
                for query in ("number", "-number", "is:unread", "header:subject=number", "nu"):
                    found = await store.search(query, limit=None)
                    assert len(found.mails) == found.found.total <= 40
                for each in page.mails[:3]:
                    message = await store.get(each.id)
                    assert message is None or message.mail.id == each.id
                await store.mark(read=True, query="number")
                answers += 1
            return answers

        readers = [asyncio.ensure_future(read()) for _ in range(4)]
        for number in range(20):
            await fill(store, 30, f"inbox {number % 2}")
        done.set()
        assert min(await asyncio.gather(*readers)) >= 1
        assert (await store.counts("inbox 0")).total == 20


@in_loop
async def test_a_search_finds_whatever_was_put_before_it() -> None:
    async with Store.open(keep=0) as store:
        for number in range(60):
            await store.put(Delivery(mail(f"word{number}x", "text " * 4_000 + f"end{number}x")))
            for query in (f"word{number}x", f"end{number}x"):
                assert (await store.search(query)).found.total == 1
        assert len(subjects(await store.search("text end5x"))) == 1


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\r\n",
        bytes(range(256)) * 100,
        b"\0" * 100_000,
        b"A:\n" * 50_000,
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n" * 10_000,
        b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(200)
        ),
        b"Content-Type: text/html\n\n" + b"<div>" * 50_000,
        b"Content-Type: text/plain; charset=utf-7\n\n+2AA- +3AA-",
        b"Content-Type: text/plain; charset=utf-16\n\n\xd8\x00\xd8\x00",
        b"Subject: " + b"=?utf-8?q?=00=d8?= " * 3_000 + b"\n\n",
        b"x" * 2_000_000,
    ],
    ids=lambda message: repr(message[:30]),
)
@in_loop
async def test_broken_mail_is_stored_listed_and_searched(message: bytes) -> None:
    async with Store.open() as store:
        mail_id = await store.put(Delivery(message, "\xff", ["\0"]))
        page = await store.list()
        assert [each.id for each in page.mails] == [mail_id]
        json.loads(page.mails[0].summary)
        found = await store.get(mail_id)
        assert found is not None
        assert found.data == message
        await store.search("word")
        assert (await store.search("from:x")).found.total == 0


HOLDER = """
import asyncio, sys
from ehlo.store import Delivery, Store, StoreError

async def main():
    async with Store.open(sys.argv[1]) as store:
        print(await store.put(Delivery(b"Subject: held\\r\\n\\r\\n")), flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def test_a_store_has_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    link = tmp_path / "link.db"
    link.symlink_to(path)
    for ends in (True, False):  # by itself, and by kill -9
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdin is not None
        assert holder.stdout is not None
        held = holder.stdout.readline().decode().strip()
        for name in (path, link):
            with pytest.raises(StoreError, match="open already; stop the other ehlo"):
                Store.open(str(name))
        if ends:
            holder.stdin.close()
        else:
            holder.kill()
        holder.wait(60)
        holder.stdout.close()
        holder.stdin.close()
        store = Store.open(str(path))
        assert held in ids(asyncio.run(store.list()))
        with pytest.raises(StoreError, match="open already"):
            Store.open(str(path))
        store.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link.db", "mail.db"]


def test_a_store_that_cannot_be_opened_is_not_locked(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    path.write_bytes(b"not a database " * 1_000)
    for _ in range(2):
        with pytest.raises(StoreError, match="not a database"):
            Store.open(str(path))
    assert [each.name for each in tmp_path.iterdir()] == ["mail.db"]
