"""Memory and descriptors of the machine, as its files state them."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from ehlo.server.system import machine

MIB = 1_048_576


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        (
            {
                "proc/self/cgroup": "0::/outer/inner\n",
                "sys/fs/cgroup/outer/inner/memory.max": "max\n",
                "sys/fs/cgroup/outer/memory.max": f"{64 * MIB}\n",
            },
            64 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "0::/outer/inner\n",
                "sys/fs/cgroup/outer/inner/memory.max": f"{32 * MIB}\n",
                "sys/fs/cgroup/outer/memory.max": f"{64 * MIB}\n",
            },
            32 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "9:cpu:/\n4:memory:/a/b\n0::/\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{16 * MIB}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            16 * MIB,
        ),
        (
            # a container that sees its own group as the root, and a path of the host
            {
                "proc/self/cgroup": "4:memory:/docker/1234\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{8 * MIB}\n",
            },
            8 * MIB,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{4 * MIB}"}, 4 * MIB),
    ],
)
def test_memory_is_that_of_the_tightest_group_above(
    tmp_path: Path, files: dict[str, str], limit: int
) -> None:
    assert machine.memory(written(tmp_path, files)) == limit


def test_without_groups_memory_is_that_of_the_machine(tmp_path: Path) -> None:
    total = machine.memory(tmp_path)
    assert total > 64 * MIB
    assert machine.memory(written(tmp_path, {"proc/self/cgroup": "0::/x\n"})) == total


def test_the_soft_limit_of_descriptors_becomes_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
        assert machine.descriptors() == before[1] - 1
        machine.raise_descriptors()
        assert machine.descriptors() == before[1]
        machine.raise_descriptors()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_free_space_is_that_of_a_directory(tmp_path: Path) -> None:
    assert machine.free_disk(str(tmp_path)) > 0
    assert machine.free_disk(str(tmp_path / "missing")) == 0
