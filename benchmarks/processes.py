"""Ends daemons, which are no children of this process: `postfix start` leaves such."""

import contextlib
import os
import select
import signal
from pathlib import Path


def kill_group(leader: int) -> None:
    """Kill a process group, and wait until no process of it is left.

    For daemons of which nothing is wanted any more. Linux only.
    """
    while members := _living(leader):  # again, since one may have started another meanwhile
        with contextlib.ExitStack() as stack:
            opened = []
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    opened.append(os.pidfd_open(pid))
                    stack.callback(os.close, opened[-1])
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader, signal.SIGKILL)
            for descriptor in opened:
                end = select.poll()  # `select.select` rejects high descriptors
                end.register(descriptor, select.POLLIN)
                end.poll()


def _living(leader: int) -> list[int]:
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group, *_ = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(group) == leader and state != "Z":
            members.append(int(path.parent.name))
    return members
