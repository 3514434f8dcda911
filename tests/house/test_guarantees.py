"""docs/guarantees.md: every promise names its tests, and every test is there."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]
sys.dont_write_bytecode = True

import guarantees  # noqa: E402
import tap  # noqa: E402

KNOWN = {"test_L04_gap", "test_B07_L4_gap", "test_L5_ends", "test_other", "P05_reads"}


def wrong(text):
    return [words for _, words in guarantees.violations(text, KNOWN)]


def test_L14_every_promise_names_a_test_that_exists():
    found = guarantees.violations((ROOT / guarantees.PATH).read_text(encoding="utf-8"),
                                  guarantees.known_tests(ROOT))
    assert not found, "\n" + "\n".join(f"{guarantees.PATH}:{line}: {words}"
                                       for line, words in found)


def test_L14_a_good_list_is_accepted():
    text = ("# Promises\n\nWords.\n\n- **L4** Told. `test_L04_gap`\n"
            "- **P5** Kept. `P05_reads`\n"
            "- **L4, B07** Told over\n  two lines: `test_B07_L4_gap`, `test_other`\n\nWords.\n")
    assert wrong(text) == []
    assert guarantees.numbers_in("test_B07_L4_gap") == {"B7", "L4"}


def test_L14_a_promise_without_a_test_is_found():
    text = "- **L4** Told.\n- **L5** Ends. `test_L5_ends`\n"
    assert wrong(text) == ["names no test: **L4** Told."]


def test_L14_an_unknown_test_is_found():
    assert wrong("- **L4** Told. `test_L04_gone`\n") == ["no such test: test_L04_gone"]


def test_L14_a_test_of_another_number_is_found():
    assert wrong("- **L5** Ends. `test_L04_gap`\n") == ["no test carries its number L5"]
    assert wrong("- **L4, L5** Both. `test_L04_gap`\n") == ["no test carries its number L5"]


def test_L14_a_promise_without_a_number_is_found():
    assert wrong("- Told. `test_L04_gap`\n") == ["no contract number in bold: Told. `test_L04_gap`"]


def test_L14_an_empty_list_is_found():
    assert wrong("# Promises\n") == ["promises nothing"]


if __name__ == "__main__":
    tap.run(globals())
