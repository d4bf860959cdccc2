"""`make bench`: what a message costs ehlo, aiosmtpd and Postfix's smtp-sink, side by side.

The servers of a scenario take turns, round after round, on one core, with the load on another, so
that what disturbs the machine disturbs all of them. Workers, and what they are compared with, share
all cores with the load. See scenarios.py for what is measured.
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

from fleet import Certificate, Running, make_certificate, running, stop
from load import LoadError, idle, send, settle
from machine import machine
from measure import anonymous_memory, cores, cpu_seconds, import_seconds, pinned
from report import Figures, terminal, write
from results import Result, WorkersResult
from scenarios import (
    EHLO_TWO,
    EVERY,
    SCENARIOS,
    SMTP_SINK,
    Idle,
    Import,
    Messages,
    Scenario,
    Workers,
    shrunk,
)

ROUNDS = 9  # many short ones: what disturbs a machine comes and goes within seconds
IDLE_ROUNDS = 3  # each with fresh processes: memory once taken is seldom given back
LONGEST = 420  # seconds: a run that hangs is ended, and all its servers with it
DOCS = Path(__file__).parent.parent / "docs"
NOTES = Path(__file__).parent / "notes.md"

Figure = TypeVar("Figure")


@dataclass(frozen=True, slots=True)
class Bench:
    """What all scenarios of one run share."""

    core: int  # of the servers
    cores: tuple[int, ...]  # of the machine, as far as we may use them
    certificate: Certificate
    rounds: int

    def tls(self, scenario: Scenario) -> Certificate | None:
        return self.certificate if scenario.tls else None


def messages_round(server: Running, scenario: Messages) -> float:
    """CPU seconds per message of one round."""
    settle(server.endpoint)
    before = cpu_seconds(server.pid)
    send(server.endpoint, scenario)
    settle(server.endpoint)
    return (cpu_seconds(server.pid) - before) / scenario.count


def warm_up(scenario: Messages) -> Messages:
    """A round before the first one, to load what is loaded when first used."""
    return replace(scenario, count=max(scenario.sessions, scenario.count // 10))


def check_delivered(name: str, server: Running, scenario: Messages, expected: int) -> None:
    """Have the server say what it took: smtp-sink cannot, and smtp-source saw its replies."""
    if name == SMTP_SINK:
        return
    taken = stop(server)
    if taken.messages != expected or taken.octets < expected * scenario.size:
        raise LoadError(f"{name}, {scenario.name}: sent {expected} messages, it took {taken}")


def in_turn(names: Sequence[str], turn: int) -> Sequence[str]:
    """Forwards, then backwards: nobody always follows the same neighbour."""
    return names[::-1] if turn % 2 else names


def rounds_in_turn(
    bench: Bench,
    scenario: Messages,
    names: Sequence[str],
    cores: Sequence[int],
    one_round: Callable[[Running], Figure],
) -> dict[str, list[Figure]]:
    """All rounds of a scenario, by server; the same processes serve all of its rounds."""
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
    """CPU time, with the servers on their core and the load on its own."""

    def one_round(server: Running) -> float:
        return messages_round(server, scenario)

    return Result(scenario, rounds_in_turn(bench, scenario, names, [bench.core], one_round))


@dataclass(frozen=True, slots=True)
class WorkersRound:
    """What a server of one or several processes has taken for a round."""

    wall: float  # seconds
    cpu: float  # of all its processes
    busiest: float  # of the time of those that serve, the share of the one with the most


def workers_round(server: Running, scenario: Workers) -> WorkersRound:
    """One round, each process by its own clock.

    Settled is the worker that takes the short session; another may have the end of some connections
    left to do, which is little beside a round.
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
    """CPU time and wall time, with every core for the servers and for the load."""

    def one_round(server: Running) -> WorkersRound:
        return workers_round(server, scenario)

    with pinned(*bench.cores):
        taken = rounds_in_turn(bench, scenario, names, bench.cores, one_round)
    return WorkersResult(
        scenario,
        cpu={name: [each.cpu / scenario.count for each in taken[name]] for name in names},
        rate={name: [scenario.count / each.wall for each in taken[name]] for name in names},
        busiest=[each.busiest for each in taken.get(EHLO_TWO, [])],
    )


def idle_round(server: Running, scenario: Idle) -> float:
    """Octets per connection that was greeted, after a few have come and gone."""
    with idle(server.endpoint, 10):
        pass
    settle(server.endpoint)
    before = anonymous_memory(server.pid)
    with idle(server.endpoint, scenario.count):
        return (anonymous_memory(server.pid) - before) / scenario.count


def measure_idle(bench: Bench, scenario: Idle, names: Sequence[str]) -> Result:
    """All rounds of a scenario, each with processes of its own."""
    figures: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(min(bench.rounds, IDLE_ROUNDS)):
        for name in names:
            with running(name, [bench.core], bench.tls(scenario)) as server:
                figures[name].append(idle_round(server, scenario))
    return Result(scenario, figures)


def measure_import(bench: Bench, scenario: Import, names: Sequence[str]) -> Result:
    """The import has no server: its figure stands under the name of ours."""
    with pinned(bench.core):
        seconds = import_seconds("ehlo", scenario.count)
    return Result(scenario, dict.fromkeys(names, seconds))


def measure(bench: Bench, scenario: Scenario, chosen: Sequence[str]) -> Result | WorkersResult:
    """One scenario, with those of the chosen servers that can take part in it."""
    names = [name for name in scenario.servers if name in chosen]
    print(f"{scenario.title} ...", file=sys.stderr, flush=True)
    match scenario:
        case Workers():
            return measure_workers(bench, scenario, names)
        case Messages():
            return measure_messages(bench, scenario, names)
        case Idle():
            return measure_idle(bench, scenario, names)
        case Import():
            return measure_import(bench, scenario, names)


def arguments() -> argparse.Namespace:
    """The command line."""
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
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS} unless told")
    parser.add_argument(
        "--quick", action="store_true", help="tiny counts, to see that it works; writes nothing"
    )
    parser.add_argument("--no-write", action="store_true", help="leave docs/ as it is")
    return parser.parse_args()


def chosen_scenarios(chosen: argparse.Namespace) -> list[Scenario]:
    """What to measure: what was asked for and a chosen server can take part in."""
    wanted = [
        scenario
        for scenario in SCENARIOS
        if (not chosen.only or scenario.name in chosen.only)
        and set(scenario.servers) & set(chosen.servers)
    ]
    return [shrunk(scenario) for scenario in wanted] if chosen.quick else wanted


def measure_all(chosen: argparse.Namespace) -> list[Result | WorkersResult]:
    """Every chosen scenario, with the load on one core and the servers on the other."""
    server_core, load_core = cores()
    every_core = tuple(os.sched_getaffinity(0))
    rounds = 1 if chosen.quick else chosen.rounds
    with tempfile.TemporaryDirectory() as directory, pinned(load_core):
        certificate = make_certificate(Path(directory))
        bench = Bench(server_core, every_core, certificate, rounds)
        return [measure(bench, scenario, chosen.servers) for scenario in chosen_scenarios(chosen)]


def is_whole(chosen: argparse.Namespace) -> bool:
    """Whether the figures are worth keeping: everything was measured, at full length."""
    return not (chosen.quick or chosen.only or set(chosen.servers) != set(EVERY))


def end_on_signals() -> None:
    """Make the signals that would end us at once unwind instead, so that no server is left."""

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
