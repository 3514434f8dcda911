"""The models of the bus, checked by spin: each holds, and each mistake planted in it is found."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MODELS = ROOT / "tests/bus/model"
sys.path.insert(0, str(ROOT / "tests"))
sys.dont_write_bytecode = True

import tap  # noqa: E402


def run(folder, *command):
    return subprocess.run([str(word) for word in command], cwd=folder, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def verify(name, *defines, optimize):
    """Searches all states; gives the number of errors and what was said."""
    if not shutil.which("spin"):
        raise tap.Skip("no spin")
    with tempfile.TemporaryDirectory() as folder:
        done = run(folder, "spin", "-a", *(f"-D{define}" for define in defines), MODELS / name)
        assert done.returncode == 0, done.stdout
        done = run(folder, "cc", optimize, "-w", "-DSAFETY", "-DCOLLAPSE", "pan.c", "-o", "pan")
        assert done.returncode == 0, done.stdout
        done = run(folder, "./pan", "-m100000")
    errors = re.search(r"errors: (\d+)", done.stdout)
    assert errors, done.stdout
    assert "max search depth too small" not in done.stdout, done.stdout
    return int(errors[1]), done.stdout


def holds(name, *defines):
    errors, said = verify(name, *defines, optimize="-O1")
    assert errors == 0, said
    # Lines that no state reaches would prove nothing.
    unreached = [line for line in re.findall(r"\.pml:(\d+), state \d+, (.*)", said)
                 if line[1] != '"-end-"']
    assert defines or not unreached, f"{name}: {unreached}"


def finds_its_mistakes(name, count):
    mistakes = sorted(set(re.findall(r"\bMISTAKE_[A-Z_]*[A-Z]\b", (MODELS / name).read_text())))
    assert len(mistakes) == count, mistakes
    for mistake in mistakes:
        errors, said = verify(name, mistake, optimize="-O0")  # found soon, compiled for long
        assert errors > 0, f"{name}: {mistake} is not found\n{said}"


def test_B19_the_model_loses_no_wake():
    holds("wake.pml")


def test_B19_the_model_with_fences_loses_no_wake():
    holds("wake.pml", "FENCES")


def test_B19_the_model_with_many_publishers_loses_no_wake():
    if os.environ.get("FANFARE_SOAK", "") in ("", "0"):
        raise tap.Skip("16 seconds and a gigabyte; with FANFARE_SOAK=1")
    holds("wake.pml", "MANY")


def test_mistakes_in_sleeping_and_waking_are_found():
    finds_its_mistakes("wake.pml", 5)


def test_B18_the_model_of_the_gate_loses_no_wake():
    holds("gate.pml")


def test_mistakes_at_the_gate_are_found():
    finds_its_mistakes("gate.pml", 3)


def test_B06_L3_the_model_leaves_and_comes_back_exactly():
    holds("place.pml")


def test_mistakes_in_coming_back_are_found():
    finds_its_mistakes("place.pml", 4)


def test_B06_B07_the_model_of_lapping_reads_whole_messages_and_tells_the_rest():
    holds("lap.pml")


def test_B06_B07_the_model_of_lapping_holds_where_the_tail_moves_once_for_several():
    holds("lap.pml", "RUNS")


def test_mistakes_in_lapping_are_found():
    finds_its_mistakes("lap.pml", 6)


def test_B19_the_model_writes_no_slot_that_is_lent():
    holds("lent.pml")


def test_mistakes_in_lending_are_found():
    finds_its_mistakes("lent.pml", 6)


def test_L12_the_model_frees_a_segment_once_and_behind_all_copies():
    holds("segment.pml")


def test_mistakes_with_segments_are_found():
    finds_its_mistakes("segment.pml", 3)


def test_L12_the_model_gives_out_what_nobody_uses():
    holds("arena.pml")


def test_mistakes_in_using_memory_again_are_found():
    finds_its_mistakes("arena.pml", 3)


if __name__ == "__main__":
    tap.run(globals())
