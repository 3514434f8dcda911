"""tools/test counts what ran, and takes nothing for passed that is not."""

import contextlib
import importlib.machinery
import importlib.util
import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]
sys.dont_write_bytecode = True

import tap  # noqa: E402

loader = importlib.machinery.SourceFileLoader("runner", str(ROOT / "tools/test"))
runner = importlib.util.module_from_spec(importlib.util.spec_from_loader("runner", loader))
loader.exec_module(runner)


def count(stdout, result="OK", returncode=0, stderr=""):
    """Passed, failed, skipped, and what was printed."""
    counted = runner.Count()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runner.count_record(counted, "plain", {"name": "fanfare:unit / x", "stdout": stdout,
                                               "stderr": stderr, "result": result,
                                               "returncode": returncode})
    return (counted.passed, counted.failed, counted.skipped), printed.getvalue()


def test_subtests_are_counted():
    assert count("1..3\nok 1 - a\nok 2 - b\nok 3 - c\n")[0] == (3, 0, 0)


def test_a_failed_subtest_is_counted_and_its_words_shown():
    counts, printed = count("1..2\nok 1 - a\n# 1 != 2\nnot ok 2 - b\n# not ok - tests\n", "FAIL", 1)
    assert counts == (1, 1, 0)
    assert "1 != 2" in printed and "ok 1" not in printed


def test_a_skipped_subtest_is_counted_and_told():
    counts, printed = count("1..2\nok 1 - a\nok 2 - b # SKIP no root\n")
    assert counts == (1, 0, 1) and "skipped: plain: x: b" in printed


def test_a_skip_as_cmocka_writes_it_is_no_failure():
    text = "1..2\nok 1 - a\nnot ok 2 # SKIP b\n# ok - tests\n"
    assert count(text, "FAIL")[0] == (1, 0, 1)
    # But a program that ended badly, or early, has failed all the same.
    assert count(text, "FAIL", 1)[0] == (1, 1, 1)
    assert count("1..3\nok 1 - a\nnot ok 2 # SKIP b\n", "FAIL")[0] == (1, 1, 1)


def test_a_crash_behind_passed_subtests_is_a_failure():
    counts, printed = count("1..2\nok 1 - a\n", "ERROR", -6, "AddressSanitizer: leak")
    assert counts == (1, 1, 0) and "leak" in printed


def test_a_hanging_program_is_a_failure():
    assert count("1..2\nok 1 - a\n", "TIMEOUT", -9)[0] == (1, 1, 0)
    assert count("", "TIMEOUT", -9)[0] == (0, 1, 0)


def test_a_failed_subtest_does_not_hide_a_crash():
    assert count("1..2\nnot ok 1 - a\n", "ERROR", -11)[0][1] >= 1


def test_a_program_without_tap_is_one_test():
    assert count("all fine\n")[0] == (1, 0, 0)
    assert count("no\n", "FAIL", 1)[0] == (0, 1, 0)
    assert count("", "SKIP", 77)[0] == (0, 0, 1)


def test_a_plan_without_tests_is_a_failure():
    assert count("1..0\n")[0] == (0, 1, 0)


def test_the_last_line_says_it_all():
    counted = runner.Count()
    counted.passed = 2
    counted.skipped = 1
    assert counted.summary() == "2 passed, 0 failed"


def test_a_tree_that_does_not_build_is_a_failure():
    counted = runner.Count()
    runner.configure, kept = (lambda name, tree: "broken"), runner.configure
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runner.run_tree(counted, "plain", [])
    runner.configure = kept
    assert (counted.passed, counted.failed) == (0, 1) and "broken" in printed.getvalue()


if __name__ == "__main__":
    tap.run(globals())
