"""Runs `make bench`: the cost of a message in ehlo, aiosmtpd and Postfix's smtp-sink.

The servers of a scenario take turns, round after round, on one core, with the load on another, so
that a disturbance of the machine affects all of them. Workers, and the single process that they are
compared with, share all cores with the load. The scenarios are in scenarios.py.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from fleet import Certificate, Running, has_maildev, make_certificate, running, stop
from kit import EMPTY, seconds_per_test
from load import LoadError, idle, send, settle
from machine import machine
from measure import anonymous_memory, cores, cpu_seconds, import_seconds, pinned
from queueing import measure_puts, measure_queues
from report import Figures, terminal, write
from results import Result, WorkersResult
from scenarios import (
    EHLO_TWO,
    EVERY,
    MAILDEV,
    SCENARIOS,
    SMTP_SINK,
    Caught,
    Idle,
    Import,
    Kit,
    Messages,
    Puts,
    Queued,
    Scenario,
    Workers,
    shrunk,
)

ROUNDS = 9  # many short ones: disturbances of a machine last only seconds
QUEUE_ROUNDS = 5  # each until both queues are empty
IDLE_ROUNDS = 3  # each with new processes, which seldom return memory to the system
LONGEST = 600  # seconds; then a run that hangs is stopped, with all its servers
DOCS = Path(__file__).parent.parent / "docs"
NOTES = Path(__file__).parent / "notes.md"

Figure = TypeVar("Figure")


@dataclass(frozen=True, slots=True)
class Bench:
    """The settings that all scenarios of one run share."""

    core: int  # of the servers
    cores: tuple[int, ...]  # of the machine that this process may use
    certificate: Certificate
    rounds: int

    def tls(self, scenario: Scenario) -> Certificate | None:
        return self.certificate if scenario.tls else None


def messages_round(server: Running, scenario: Messages) -> float:
    """Measure one round; return CPU seconds per message."""
    settle(server.endpoint)
    before = cpu_seconds(server.pid)
    send(server.endpoint, scenario)
    settle(server.endpoint)
    return (cpu_seconds(server.pid) - before) / scenario.count


def warm_up(scenario: Messages) -> Messages:
    """Run a round that is not counted, so that everything is loaded."""
    return replace(scenario, count=max(scenario.sessions, scenario.count // 10))


def check_delivered(name: str, server: Running, scenario: Messages, expected: int) -> None:
    """Check the report of a server. Two have none, but smtp-source checked their replies."""
    if name in (SMTP_SINK, MAILDEV):
        return
    received = stop(server)
    if received.messages != expected or received.size < expected * scenario.size:
        raise LoadError(f"{name}, {scenario.name}: sent {expected} messages, got {received}")


def in_turn(names: Sequence[str], turn: int) -> Sequence[str]:
    """Return the servers forwards, then backwards, so that none always follows the same one."""
    return names[::-1] if turn % 2 else names


def rounds_in_turn(
    bench: Bench,
    scenario: Messages,
    names: Sequence[str],
    cores: Sequence[int],
    one_round: Callable[[Running], Figure],
) -> dict[str, list[Figure]]:
    """Measure all rounds of a scenario with the same processes; return the figures by server."""
    warm = warm_up(scenario)
    figures: dict[str, list[Figure]] = {name: [] for name in names}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(running(name, cores, bench.tls(scenario))) for name in names
        }
        for server in servers.values():
            send(server.endpoint, warm)
        for turn in range(bench.rounds):
            for name in in_turn(names, turn):
                figures[name].append(one_round(servers[name]))
        for name, server in servers.items():
            check_delivered(name, server, scenario, warm.count + scenario.count * bench.rounds)
    return figures


def measure_messages(bench: Bench, scenario: Messages, names: Sequence[str]) -> Result:
    """Measure CPU time, with the servers on one core and the load on another."""

    def one_round(server: Running) -> float:
        return messages_round(server, scenario)

    return Result(scenario, rounds_in_turn(bench, scenario, names, [bench.core], one_round))


@dataclass(frozen=True, slots=True)
class WorkersRound:
    """The cost of one round of a server with one or several processes."""

    wall: float  # seconds
    cpu: float  # of all its processes
    busiest: float  # the busiest process's share of the time of those that serve


def workers_round(server: Running, scenario: Workers) -> WorkersRound:
    """Measure one round, with the clock of each process.

    Only the worker that serves the short session is idle afterwards. Another may still have to
    close some connections, which costs little compared with a round.
    """
    settle(server.endpoint)
    before = {pid: cpu_seconds(pid) for pid in server.pids}
    started = time.perf_counter()
    send(server.endpoint, scenario)
    wall = time.perf_counter() - started
    settle(server.endpoint)
    used = {pid: cpu_seconds(pid) - before[pid] for pid in server.pids}
    serving = [used[pid] for pid in server.serving]
    return WorkersRound(wall, sum(used.values()), max(serving) / sum(serving))


def measure_workers(bench: Bench, scenario: Workers, names: Sequence[str]) -> WorkersResult:
    """Measure CPU time and wall time; servers and load may use every core."""

    def one_round(server: Running) -> WorkersRound:
        return workers_round(server, scenario)

    with pinned(*bench.cores):
        measured = rounds_in_turn(bench, scenario, names, bench.cores, one_round)
    return WorkersResult(
        scenario,
        cpu={name: [each.cpu / scenario.count for each in measured[name]] for name in names},
        rate={name: [scenario.count / each.wall for each in measured[name]] for name in names},
        busiest=[each.busiest for each in measured.get(EHLO_TWO, [])],
    )


def idle_round(server: Running, scenario: Idle) -> float:
    """Measure the bytes per connection after its greeting, once some have been closed."""
    with idle(server.endpoint, 10):
        pass
    settle(server.endpoint)
    before = anonymous_memory(server.pid)
    with idle(server.endpoint, scenario.count):
        return (anonymous_memory(server.pid) - before) / scenario.count


def measure_idle(bench: Bench, scenario: Idle, names: Sequence[str]) -> Result:
    """Measure all rounds of a scenario, each with new processes."""
    figures: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(min(bench.rounds, IDLE_ROUNDS)):
        for name in names:
            with running(name, [bench.core], bench.tls(scenario)) as server:
                figures[name].append(idle_round(server, scenario))
    return Result(scenario, figures)


def measure_import(bench: Bench, scenario: Import, names: Sequence[str]) -> Result:
    """Measure the import. It has no server, so its figures are stored under that of ehlo."""
    with pinned(bench.core):
        seconds = import_seconds("ehlo", scenario.count)
    return Result(scenario, dict.fromkeys(names, seconds))


def measure_kit(bench: Bench, scenario: Kit, names: Sequence[str]) -> Result:
    """Measure all rounds of tests; a round begins with a test that does nothing."""
    figures: dict[str, list[float]] = {name: [] for name in names}
    with pinned(bench.core):
        for turn in range(bench.rounds):
            empty = seconds_per_test(EMPTY, scenario.count)
            for name in in_turn(names, turn):
                figures[name].append(seconds_per_test(name, scenario.count) - empty)
    return Result(scenario, figures)


def measure(
    bench: Bench, scenario: Scenario, chosen: Sequence[str]
) -> list[Result] | list[WorkersResult]:
    """Measure one scenario with those of the chosen servers that support it."""
    names = [name for name in scenario.servers if name in chosen]
    print(f"{scenario.title} ...", file=sys.stderr, flush=True)
    match scenario:
        case Workers():
            return [measure_workers(bench, scenario, names)]
        case Queued():
            with pinned(*bench.cores):
                return measure_queues(scenario, min(bench.rounds, QUEUE_ROUNDS))
        case Puts():
            with pinned(*bench.cores):
                return [measure_puts(scenario, min(bench.rounds, QUEUE_ROUNDS))]
        case Caught():
            if MAILDEV in names and not has_maildev():
                names.remove(MAILDEV)
            return [measure_messages(bench, scenario, names)]
        case Messages():
            return [measure_messages(bench, scenario, names)]
        case Idle():
            return [measure_idle(bench, scenario, names)]
        case Import():
            return [measure_import(bench, scenario, names)]
        case Kit():
            return [measure_kit(bench, scenario, names)]


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="SCENARIO",
        choices=[scenario.name for scenario in SCENARIOS],
        help=f"some of: {', '.join(scenario.name for scenario in SCENARIOS)}; writes nothing",
    )
    parser.add_argument(
        "--servers",
        nargs="+",
        metavar="SERVER",
        choices=EVERY,
        default=EVERY,
        help=f"some of: {', '.join(EVERY)}; writes nothing",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"number of rounds [{ROUNDS}]")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="use tiny counts, to check that it works; writes nothing",
    )
    parser.add_argument("--no-write", action="store_true", help="do not write to docs/")
    return parser.parse_args()


def chosen_scenarios(chosen: argparse.Namespace) -> list[Scenario]:
    """Return the requested scenarios that at least one of the chosen servers supports."""
    wanted = [
        scenario
        for scenario in SCENARIOS
        if (not chosen.only or scenario.name in chosen.only)
        and set(scenario.servers) & set(chosen.servers)
    ]
    return [shrunk(scenario) for scenario in wanted] if chosen.quick else wanted


def measure_all(chosen: argparse.Namespace) -> list[Result | WorkersResult]:
    """Measure every chosen scenario, with the load on one core and the servers on another."""
    server_core, load_core = cores()
    every_core = tuple(os.sched_getaffinity(0))
    rounds = 1 if chosen.quick else chosen.rounds
    with tempfile.TemporaryDirectory() as directory, pinned(load_core):
        certificate = make_certificate(Path(directory))
        bench = Bench(server_core, every_core, certificate, rounds)
        return [
            result
            for scenario in chosen_scenarios(chosen)
            for result in measure(bench, scenario, chosen.servers)
        ]


def is_whole(chosen: argparse.Namespace) -> bool:
    """Return whether everything was measured, at full length, so that the figures are kept."""
    return not (chosen.quick or chosen.only or set(chosen.servers) != set(EVERY))


def end_on_signals() -> None:
    """Turn terminating signals into exceptions, so that no server is left running."""

    def unwind(number: int, frame: object) -> None:
        del frame
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, unwind)
    signal.alarm(LONGEST)


def main() -> None:
    chosen = arguments()
    end_on_signals()
    try:
        measured = measure_all(chosen)
    except LoadError as error:
        sys.exit(f"benchmark: {error}")
    figures = Figures(
        [each for each in measured if isinstance(each, Result)],
        [each for each in measured if isinstance(each, WorkersResult)],
        machine(),
    )
    print(terminal(figures))
    if is_whole(chosen) and not chosen.no_write:
        write(DOCS, figures, NOTES)


if __name__ == "__main__":
    main()
