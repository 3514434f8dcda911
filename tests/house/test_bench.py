"""The benchmark of the bus runs with tiny counts and without peers, so that it cannot rot."""

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))
sys.dont_write_bytecode = True

import tap  # noqa: E402

OURS = sys.argv.pop(1)


def load(path):
    loader = importlib.machinery.SourceFileLoader(path.stem, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.stem, loader))
    loader.exec_module(module)
    return module


def test_the_bus_is_measured_without_peers():
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "bus.json")
        done = subprocess.run(
            [sys.executable, "-B", ROOT / "bench/bus.py", "--no-peers", "--rounds", "2",
             "--seconds", "0.01", "--ours", OURS, "--json", result],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
        rows = json.loads(result.read_text())
    assert load(ROOT / "tools/bench").wrong(rows) is None
    cases = [row["case"] for row in rows]
    assert "publish, 100,000 topics in turn" in cases, cases
    assert "publish, p99.9, one stalled" in cases, cases
    for row in rows:
        low, high = row["interval"]["ours"]
        assert 0 < low <= row["ours"] <= high, row
        assert (row["ratio"] is None) == ("reason" in row), row
        if row["ratio"] is not None:
            low, high = row["interval"]["ratio"]
            assert low <= row["ratio"] <= high, row
    goals = [row for row in rows if row["goal"] is not None]
    missing = [row for row in goals if row["ratio"] is None]
    assert any(row["peer"] == "Disruptor yielding" for row in missing), rows
    assert done.stdout.strip().endswith(f"{len(missing)} not measured"), done.stdout
    memory = next(row for row in rows if row["case"].startswith("memory"))
    assert memory["ours"] <= 1024, memory


def test_a_goal_within_the_interval_is_a_tie():
    tool = load(ROOT / "tools/bench")

    def row(ratio, goal, *ends):
        return {"ratio": ratio, "goal": goal, **({"interval": {"ratio": ends}} if ends else {})}

    rows = [row(2.0, 1.0), row(1.0, 1.0), row(1.2, 1.0, 1.0, 1.3), row(0.9, 1.0),
            row(0.9, 1.0, 0.8, 0.95), row(1.1, 1.0, 0.9, 1.2), row(0.9, 1.0, 0.8, 1.0),
            row(None, 1.0), row(0.5, None)]
    assert tool.goals(rows) == "goals: 3 met, 2 missed, 2 tied, 1 not measured"


def test_a_peer_that_fails_in_a_mode_is_asked_in_the_others():
    bus = load(ROOT / "bench/bus.py")
    peer = """import sys
for line in sys.stdin:
    wrong = line.startswith("lossless")
    print("error no" if wrong else "seconds=1 delivered=5 published=5", flush=True)
"""
    bench = bus.Bench(bus.parse(["--rounds", "2"]))
    bench.add_program("peer", lambda: [sys.executable, "-c", peer])
    lines = ["lossless 1 1 1 0", "lossy 1 1 1 0"]
    with contextlib.redirect_stdout(io.StringIO()):
        bench.measure(["peer"], *lines)
    bench.programs["peer"].end()
    assert bench.values(("peer", lines[0]), "delivered/s") == []
    assert bench.values(("peer", lines[1]), "delivered/s") == [5, 5]
    assert bench.reason("peer", lines[0]) == "error no"


def test_the_ratio_is_the_median_of_the_rounds_ratios():
    bus = load(ROOT / "bench/bus.py")
    bench = bus.Bench(bus.parse([]))
    bench.samples = {("ours", "lossy"): [{"x": value} for value in (1, 10, 2)],
                     ("peer", "lossy"): [{"x": value} for value in (1, 5, 4)]}
    for less in (False, True):
        bench.add(bus.Row("case", "unit", (("ours", "lossy"), "x"), (("peer", "lossy"), "x"),
                          "peer", None, less))
        row = bench.rows[-1]
        assert (row["ours"], row["peer_value"], row["ratio"]) == (2, 4, 1), row
        assert row["interval"]["ratio"] == [0.5, 2], row


def test_intervals_hold_nineteen_medians_in_twenty():
    interval = load(ROOT / "bench/bus.py").interval
    assert interval([3, 1, 2]) == [1, 3]
    assert interval(range(11)) == [1, 9]
    assert interval(range(21)) == [5, 15]


if __name__ == "__main__":
    tap.run(globals())
