"""The simulator finds bugs that were planted for it, each within 1,000 seeds.

    test_plants.py SIMULATE FOLDER
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))
sys.dont_write_bytecode = True

import plant  # noqa: E402
import tap  # noqa: E402

SIMULATE, FOLDER = (Path(argument) for argument in sys.argv[1:3])
del sys.argv[1:3]
SEEDS = 1000
# Those of the storage, which the simulator's own provider plants.
STORAGE = {
    "late-commit": "L7 L4",
    "no-fence": "P09",
    "duplicate-after-unknown": "L9",
    "torn-unit": "L9 L10 P05",
    "early-lease": "P09 H05",
    "greedy-retention": "P11",
}


def find(program, laws, *arguments):
    done = subprocess.run([program, "--seed", "1", "--seeds", str(SEEDS), *arguments],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", check=False)
    found = re.search(r"^# seed (\d+) breaks (\w+): (.*)$", done.stdout, re.M)
    assert found, f"not found in {SEEDS} seeds, exit {done.returncode}: {done.stdout[-500:]}"
    assert found[2] in laws.split(), f"{found[0]}, expected one of {laws}"
    print(f"# seed {found[1]}: {found[2]}: {found[3]}")


def plants():
    for path in sorted((ROOT / "tests/sim/plants").glob("*.plant")):
        laws, _old, _new = plant.read(path)
        yield path.stem, lambda path=path, laws=laws: find(FOLDER / f"simulate-{path.stem}", laws)
    for name, laws in STORAGE.items():
        yield (name.replace("-", "_") + "_in_the_storage",
               lambda name=name, laws=laws: find(SIMULATE, laws, "--plant", name))


def test_L14_every_planted_bug_has_a_test():
    grown = {path.name for path in FOLDER.glob("simulate-*") if path.is_file()}
    planted = {f"simulate-{path.stem}" for path in (ROOT / "tests/sim/plants").iterdir()}
    assert planted == grown, planted ^ grown
    assert len(planted) >= 15, planted


if __name__ == "__main__":
    tap.run({"test_L14_every_planted_bug_has_a_test": test_L14_every_planted_bug_has_a_test,
             **{f"test_the_simulator_finds_{name}": test for name, test in plants()}})
