#!/usr/bin/env python3
"""The bus against its peers, in one run: the same events, the same buffers, round by round in turn.

    bench/bus.py [--json FILE] [--rounds N] [--seconds S] [--ours PROGRAM] [--no-peers] [--only W]

Ours (bus_ours.c) and the peers (peers/) are programs that stay and answer one line for each round
(peers/round.h says how). The peers are built from Debian's packages, which `tools/setup bench`
installs. Where one is not there, or fails in a mode, the rows say so in its place. Each cell runs
once to warm up (a JVM for 2 s), and then N (11) times for S (0.3) seconds, in turn with all that it
is compared with. `ours` and `peer` are medians, and `ratio` is the median of the rounds' own
ratios, so it need not be that of the two. `interval` gives the 95 % intervals of all three by order
statistics.

Lossy rounds are offered in bursts of 32 at known times, by one publisher. A program makes one call
for each event, and so does ours; "by bursts" is one call of fan_bus_publish_many for each burst,
which the peers lack. The goals are for a bus opened for one publisher, either way; rows beside it
have a bus for many. "Processor time" is that of the publisher's thread; that "of the process"
counts its readers too, and what it spins between bursts.
"""

import argparse
import importlib.machinery
import importlib.util
import json
import math
import os
import select
import shutil
import statistics
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench/peers"
BUILT = ROOT / "build/bench/peers"
DISRUPTOR = "/usr/share/java/disruptor.jar"
CRATES = "/usr/share/cargo/registry"
ANSWER_S_MAX = 20
WARM_UP_S = {"Disruptor yielding": 2, "Disruptor blocking": 2}

OURS = {
    "block-one": "block, one publisher",
    "block-many": "block, many publishers",
    "newest-one": "drop_newest, one publisher",
    "newest-many": "drop_newest, many publishers",
    "oldest-one": "drop_oldest, one publisher",
    "oldest-many": "drop_oldest, many publishers",
}

Row = namedtuple("Row", "case unit ours peer name goal less", defaults=(None, False))


class Missing(Exception):
    """A peer that cannot be built here, with the reason."""


# ---------------------------------------------------------------- building the peers


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
                          check=False, **options)
    if done.returncode:
        lines = done.stdout.strip().splitlines()
        errors = [line for line in lines if "error" in line or "not found" in line]
        raise Missing((errors or lines or ["it does not build"])[0])


def need(*paths):
    for path in paths:
        if not (shutil.which(path) or Path(path).exists()):
            raise Missing(f"no {path}")


def build_c(name, source=None, package=None, libraries=(), compiler="cc"):
    need(compiler)
    flags = list(libraries)
    if package:
        done = subprocess.run(["pkg-config", "--cflags", package], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, check=False)
        if done.returncode:
            raise Missing(f"no {package}")
        flags = done.stdout.split() + flags
    run(compiler, "-O2", "-pthread", "-D_GNU_SOURCE", PEERS / (source or f"{name}.c"), "-o",
        BUILT / name, *flags)
    return [BUILT / name]


def build_iceoryx():
    need("cc", "c++")
    headers = sorted(Path("/usr/include/iceoryx").glob("v*"))
    if not headers:
        raise Missing("no iceoryx")
    objects = []
    for source, compiler in (("iceoryx.c", "cc"), ("roudi.cpp", "c++")):
        objects.append(BUILT / f"{source}.o")
        run(compiler, "-O2", "-pthread", "-D_GNU_SOURCE", f"-I{headers[-1]}", "-c", PEERS / source,
            "-o", objects[-1])
    run("c++", *objects, "-o", BUILT / "iceoryx", "-pthread", "-liceoryx_binding_c",
        "-liceoryx_posh_roudi", "-liceoryx_posh", "-liceoryx_hoofs", "-liceoryx_platform")
    return [BUILT / "iceoryx"]


def build_go():
    need("go")
    run("go", "build", "-o", BUILT / "go", PEERS / "go.go",
        env={**os.environ, "GOFLAGS": "", "GO111MODULE": "off", "GOCACHE": str(BUILT / "go-cache")})
    return [BUILT / "go"]


def build_disruptor(waiting):
    need("javac", "java", DISRUPTOR)
    run("javac", "-cp", DISRUPTOR, "-d", BUILT / "java", PEERS / "Peer.java")
    return ["java", "-cp", f"{DISRUPTOR}:{BUILT / 'java'}", "Peer", waiting]


def build_rust(which):
    need("/usr/bin/cargo", "/usr/bin/rustc", CRATES)
    folder = BUILT / "rust"
    shutil.copytree(PEERS / "rust", folder, dirs_exist_ok=True)
    (folder / ".cargo").mkdir(exist_ok=True)
    (folder / ".cargo/config.toml").write_text(
        '[source.crates-io]\nreplace-with = "debian"\n'
        f'[source.debian]\ndirectory = "{CRATES}"\n')
    run("/usr/bin/cargo", "build", "--release", "--offline", "--quiet", cwd=folder,
        env={**os.environ, "RUSTC": "/usr/bin/rustc", "CARGO_TARGET_DIR": str(folder / "target")})
    return [folder / "target/release/peer", which]


PEER_BUILDS = {
    "Disruptor yielding": lambda: build_disruptor("yielding"),
    "Disruptor blocking": lambda: build_disruptor("blocking"),
    "ck_ring": lambda: build_c("ck"),
    "rte_ring": lambda: build_c("rte", package="libdpdk", libraries=["-lrte_ring"]),
    "Go channels": build_go,
    "tokio broadcast": lambda: build_rust("tokio"),
    "crossbeam": lambda: build_rust("crossbeam"),
    "ZeroMQ inproc": lambda: build_c("zeromq", libraries=["-lzmq"]),
    "nng inproc": lambda: build_c("nng", libraries=["-lnng"]),
    "iceoryx": build_iceoryx,
    "counted pointers": lambda: build_c("pointers"),
}


# ---------------------------------------------------------------- programs that answer


class Program:
    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, line):
        """The answer to one round as numbers; ValueError when there is none."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], ANSWER_S_MAX)[0]:
            self.process.kill()
            raise ValueError("no answer in time")
        answer = self.process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise ValueError(answer or "it ended")
        values = {key: float(value) for key, value in
                  (word.split("=", 1) for word in answer.split())}
        if "seconds" in values:
            values["delivered/s"] = values["delivered"] / values["seconds"]
            values["published/s"] = values["published"] / values["seconds"]
        return values

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Bench:
    def __init__(self, arguments):
        self.arguments = arguments
        self.commands = {}
        self.programs = {}
        self.reasons = {}  # name, or (name, mode) -> why it is not measured
        self.samples = {}  # (name, line) -> the answers of its rounds
        self.rows = []

    def add_program(self, name, build):
        try:
            self.commands[name] = build()
        except (Missing, OSError) as reason:
            self.skip(name, str(reason))

    def skip(self, key, reason):
        print(f"skipped: {key if isinstance(key, str) else ', '.join(key)}: {reason}", flush=True)
        self.reasons[key] = reason

    def measure(self, names, *lines, also=()):
        """Runs the lines on all of these that are there, in turn; the first time does not count.
        also: further (name, line)."""
        pairs = [(name, line) for name in names for line in lines]
        for i in range(self.arguments.rounds + 1):
            for name, line in [*pairs, *also]:
                values = self.ask(name, line if i > 0 else warm_up_line(name, line))
                if values and i > 0:
                    self.samples.setdefault((name, line), []).append(values)

    def ask(self, name, line):
        """None of a peer that is not there, or that failed in this mode: others are still asked."""
        mode = line.split()[0]
        if name not in self.commands or (name, mode) in self.reasons:
            return None
        try:
            if name not in self.programs:
                self.programs[name] = Program(name, self.commands[name])
            return self.programs[name].ask(line)
        except (ValueError, OSError) as reason:
            if name in OURS:
                raise
            self.skip((name, mode), str(reason))
            if name in self.programs:
                self.programs.pop(name).end()
            return None

    def reason(self, name, line):
        if name not in self.commands:
            return self.reasons.get(name, "no peers were asked for")
        return self.reasons.get((name, line.split()[0]), "it was not asked")

    def values(self, key, what):
        return [values[what] for values in self.samples.get(key, [])]

    def add(self, row):
        """ours and peer: ((program, line), value's name), or a number for the peer."""
        ours = self.values(*row.ours)
        constant = isinstance(row.peer, (int, float))
        peer = [float(row.peer)] * len(ours) if constant else self.values(*row.peer)
        values = {"case": row.case, "unit": row.unit, "ours": rounded(statistics.median(ours)),
                  "peer": row.name, "peer_value": None, "ratio": None,
                  "goal": row.goal and rounded(row.goal), "runs": len(ours),
                  "interval": {"ours": interval(ours)}}
        self.rows.append(values)
        if len(ours) != len(peer):
            values["reason"] = self.reason(*row.peer[0])
            return
        ratios = [a / b if b > 0 else 0
                  for a, b in (zip(peer, ours) if row.less else zip(ours, peer))]
        values["peer_value"] = rounded(statistics.median(peer))
        values["ratio"] = rounded(statistics.median(ratios))
        values["interval"] |= {"peer": interval(peer), "ratio": interval(ratios)}

    def upper(self, key, what):
        return interval(self.values(key, what))[1]


def warm_up_line(name, line):
    """The line of the round that does not count."""
    words = line.split()
    words[3] = str(max(float(words[3]), WARM_UP_S.get(name, 0)))
    return " ".join(words)


def rounded(value):
    return float(f"{value:.4g}")


def interval(values):
    """A 95 % interval of the median: the ranks that at least that share of samples lies between."""
    values = sorted(values)
    count = len(values)
    rank, below = 0, 0.0
    while rank < count // 2:
        below += math.comb(count, rank) / 2**count
        if below > 0.025:
            break
        rank += 1
    low = max(rank - 1, 0)
    return [rounded(values[low]), rounded(values[count - 1 - low])]


# ---------------------------------------------------------------- what is measured


LOSSLESS_GOALS = {  # (ours, peer) -> shape -> ratio
    ("block-one", "Disruptor yielding"): {"1 1": 1.5, "1 4": 2.0, "1 10": 1.4},
    ("block-many", "Disruptor yielding"): {"1 1": 1.0, "1 4": 1.5, "1 10": 1.15, "4 4": 1.5},
    ("block-one", "ck_ring"): {"1 1": 0.85, "1 4": 1.2, "1 10": 1.3},
}
LOSSLESS_PEERS = ["Disruptor yielding", "ck_ring", "Disruptor blocking", "rte_ring", "Go channels",
                  "crossbeam"]


def lossless(bench):
    for shape in ("1 1", "1 4", "1 10", "4 4"):
        ours = ["block-many"] if shape == "4 4" else ["block-one", "block-many"]
        line = f"lossless {shape} {bench.arguments.seconds} 0"
        bench.measure([*ours, *LOSSLESS_PEERS], line)
        for name in ours:
            for peer in LOSSLESS_PEERS:
                goal = LOSSLESS_GOALS.get((name, peer), {}).get(shape)
                bench.add(Row(f"{OURS[name]}, {shape.replace(' ', ' to ')}", "deliveries/s",
                              ((name, line), "delivered/s"), ((peer, line), "delivered/s"), peer,
                              goal))


LOSSY_GOALS = {"Go channels": 6, "tokio broadcast": 5}
OLDEST_PEERS = ("tokio broadcast", "iceoryx")  # they overwrite, too
LOSSY_PEERS = ["Go channels", *OLDEST_PEERS, "crossbeam", "ZeroMQ inproc", "nng inproc"]


def lossy(bench):
    for rate in (1, 5):
        line, bursts = [f"{mode} 1 10 {bench.arguments.seconds} {rate}e6"
                        for mode in ("lossy", "bursts")]
        ours = ["newest-one", "newest-many", "oldest-one", "oldest-many"]
        bench.measure([*ours, *LOSSY_PEERS], line, also=[(name, bursts) for name in ours])
        for peer in LOSSY_PEERS:
            policy = "oldest" if peer in OLDEST_PEERS else "newest"
            one, many = f"{policy}-one", f"{policy}-many"

            def add(program, asked, what, unit, value, goal=None, less=False, peer=peer):
                case = f"{OURS[program]}, 1 to 10, offered {rate} M/s: {what}"
                bench.add(Row(case + (", by bursts" if asked == bursts else ""), unit,
                              ((program, asked), value), ((peer, line), value), peer, goal, less))

            goal = LOSSY_GOALS.get(peer)
            add(one, line, "published", "publishes/s", "published/s")
            add(one, line, "delivered", "deliveries/s", "delivered/s", goal and 1)
            add(one, line, "processor time", "ns/publish", "publish_ns", goal, True)
            if rate == 5:
                add(one, line, "processor time of the process", "ns/delivery", "process_ns",
                    less=True)
            for program, asked in ((one, bursts), (many, line), (many, bursts)) if goal else ():
                wanted = goal if program == one else None
                add(program, asked, "delivered", "deliveries/s", "delivered/s", wanted and 1)
                add(program, asked, "processor time", "ns/publish", "publish_ns", wanted, True)


LATENCY_GOALS = {"Go channels": 10, "tokio broadcast": 10, "Disruptor blocking": 10}
LATENCY_PEERS = [*LATENCY_GOALS, "crossbeam", "ZeroMQ inproc", "nng inproc"]


def latency(bench):
    line = f"latency 1 1 {bench.arguments.seconds} 1e5"
    bench.measure(["newest-many", *LATENCY_PEERS], line)
    for peer in LATENCY_PEERS:
        bench.add(Row("publish to receive at 100,000/s, p50", "ns",
                      (("newest-many", line), "p50_ns"), ((peer, line), "p50_ns"), peer,
                      LATENCY_GOALS.get(peer), True))
    # What the tests of the first system gave it for either.
    thousand = "thousand 1 10 0 0"
    bench.measure(["newest-many"], thousand)
    for case, asked, value in (("publish to receive at 100,000/s, p50", line, "p50_ns"),
                               ("1,000 publishes to 10, all read", thousand, "total_ns")):
        bench.add(Row(case, "ns", (("newest-many", asked), value), 100e6,
                      "the first system's bound", 1, True))


def lonely(bench):
    """Ours against itself: the cost of those that do not read, of filters and of topics. One thread
    publishes, and reads outside the time that is taken."""
    seconds = bench.arguments.seconds / 2

    def lines(mode, few, many):
        return [f"{mode} 1 {count} {seconds} 0" for count in (few, many)]

    def pair(program, case, few_many, peer, times):
        few, many = few_many
        bench.measure([program], *few_many)
        bench.add(Row(case, "ns/publish", ((program, many), "publish_ns"),
                      ((program, few), "publish_ns"), peer, 1 / times, True))

    newest = "newest-one"
    stalled = lines("stalled", 1, 1000)
    for program in (newest, "oldest-one"):
        case = f"publish, 1,000 stalled, {OURS[program]}"
        pair(program, case, stalled, "one stalled", 1.5)
        bench.add(Row(case, "ns/publish", ((program, stalled[1]), "publish_ns"), 30, "wanted", 1,
                      True))
    for case, mode in (("1,000 filters of which one matches", "filters"),
                       ("1,000 filters, a type of 200 bytes", "long"),
                       ("1,000 filters, 1,000 types in turn", "types")):
        pair(newest, f"publish, {case}", lines(mode, 1, 1000), "one filter, the same types", 3)
    pair(newest, "publish, 100,000 topics in turn", lines("topics", 1, 100000), "one topic", 5)
    pair(newest, "publish, 100,000 topics, 100 with subscriptions", lines("beside", 1, 100000),
         "one topic, the same subscriptions", 5)
    none, one = lines("tail", 0, 1)
    bench.measure([newest], none, one)
    bench.add(Row("publish, p99.9, one stalled", "ns", ((newest, one), "p999_ns"),
                  bench.upper((newest, none), "p999_ns"), "none stalled, its interval's end", 1,
                  True))
    memory, batches = "memory 1 1000 0 0", "batches 1 1000 0 0"
    bench.measure([newest], memory, batches)
    bench.add(Row("memory of a further subscriber, never full", "bytes",
                  ((newest, memory), "bytes"), 1024, "wanted", 1, True))
    bench.add(Row("memory of one that reads 64 at once, never full", "bytes",
                  ((newest, batches), "bytes"), ((newest, memory), "bytes"),
                  "one that reads one by one", None, True))


def large(bench):
    line = f"large 1 4 {bench.arguments.seconds} 0"
    bench.measure(["block-one", "counted pointers"], line)
    bench.add(Row("16 KiB payloads, block, 1 to 4", "deliveries/s",
                  (("block-one", line), "delivered/s"), (("counted pointers", line), "delivered/s"),
                  "counted pointers", 1))


SECTIONS = {"lossless": lossless, "lossy": lossy, "latency": latency, "lonely": lonely,
            "large": large}


def print_table(rows, verdict):
    print(f"{'case':80} {'ours':>10} {'unit':13} {'peer':>10} {'':34} {'ratio':>6} "
          f"{'95 %':^15} {'goal':>5}")
    for row in rows:
        start = f"{row['case']:80} {row['ours']:10.4g} {row['unit']:13} "
        goal = "" if row["goal"] is None else f"{row['goal']:.2f} {verdict(row)}"
        if row["ratio"] is None:
            print(f"{start}{'-':>10} {row['peer']:34} {goal} ({row['reason']})")
            continue
        low, high = row["interval"]["ratio"]
        print(f"{start}{row['peer_value']:10.4g} {row['peer']:34} {row['ratio']:6.2f} "
              f"{f'{low:.2f} to {high:.2f}':^15} {goal:>5}")


def load(path):
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader(path.stem, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.stem, loader))
    loader.exec_module(module)
    return module


def parse(words):
    parser = argparse.ArgumentParser(description="The bus against its peers.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--ours", type=Path, default=ROOT / "build/release/bench/bus-ours")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--only", choices=SECTIONS, action="append")
    return parser.parse_args(words)


def main(words):
    arguments = parse(words)
    bench = Bench(arguments)
    builds = {} if arguments.no_peers else PEER_BUILDS
    if builds and subprocess.run([ROOT / "tools/setup", "bench"], stdin=subprocess.DEVNULL,
                        check=False).returncode:
        print("Not every peer's package can be installed here.", flush=True)
    if builds:
        BUILT.mkdir(parents=True, exist_ok=True)
    try:
        for name in OURS:
            bench.add_program(name, lambda name=name: [arguments.ours, name])
        for name, build in builds.items():
            bench.add_program(name, build)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start", flush=True)
        for name in arguments.only or SECTIONS:
            SECTIONS[name](bench)
    finally:
        for program in bench.programs.values():
            program.end()
    tool = load(ROOT / "tools/bench")
    print_table(bench.rows, tool.verdict)
    print(tool.goals(bench.rows))
    if arguments.json:
        arguments.json.write_text(
            "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in bench.rows) + "\n]\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
