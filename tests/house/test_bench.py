"""The benchmark of the bus runs with tiny counts and without peers, so that it cannot rot."""

import importlib.machinery
import importlib.util
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
    memory = next(row for row in rows if row["case"].startswith("memory"))
    assert memory["ours"] <= 1024, memory


def test_intervals_hold_nineteen_medians_in_twenty():
    interval = load(ROOT / "bench/bus.py").interval
    assert interval([3, 1, 2]) == [1, 3]
    assert interval(range(11)) == [1, 9]
    assert interval(range(21)) == [5, 15]


if __name__ == "__main__":
    tap.run(globals())
