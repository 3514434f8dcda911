"""docs/guarantees.md: each promise, and the tests that prove it.

A promise is a list item. It opens with the numbers of its contracts in bold and ends with the names
of its tests in backticks:

    - **L4, B07** A reader that lost events is told so first. `test_L04_…`, `test_B07_…`

A behaviour of the conformance suite is named as it stands there: `P05_…`. Each number must stand
in the name of at least one of the item's tests (a leading zero makes no difference), and each test
must exist. tools/test wants each of them passed as well.
"""

import re
from pathlib import Path

PATH = Path("docs/guarantees.md")
ITEM = re.compile(r"^- (.*(?:\n(?!- |\n|#).*)*)", re.M)
TEST = re.compile(r"`(test_\w+|[A-Z]\d+_\w+)`")
BEHAVIOUR = re.compile(r'"([A-Z]\d+_\w+)"')
NUMBER = re.compile(r"([A-Z])0*(\d+)")


def promises(text):
    """Yields (line, words, numbers, tests) of each item."""
    for match in ITEM.finditer(text):
        words = " ".join(match[1].split())
        bold = re.match(r"\*\*([^*]+)\*\*", words)
        numbers = [letter + digits for letter, digits in NUMBER.findall(bold[1])] if bold else []
        yield text.count("\n", 0, match.start()) + 1, words, numbers, TEST.findall(words)


def numbers_in(test):
    return {letter + digits for letter, digits in re.findall(r"(?:^|_)([A-Z])0*(\d+)(?=_)", test)}


def violations(text, known):
    """What is wrong with the list, as (line, words); `known` are the names of all tests."""
    found = []
    count = 0
    for line, words, numbers, tests in promises(text):
        count += 1
        if not numbers:
            found.append((line, f"no contract number in bold: {words[:60]}"))
        if not tests:
            found.append((line, f"names no test: {words[:60]}"))
        found += [(line, f"no such test: {test}") for test in tests if test not in known]
        proved = set().union(*map(numbers_in, tests))
        found += [(line, f"no test carries its number {number}") for number in numbers
                  if tests and number not in proved]
    if count == 0:
        found.append((1, "promises nothing"))
    return found


def known_tests(root):
    """Names that a test program of the tree defines and registers."""
    known = set()
    for path in root.glob("src/store/suite/*.c"):
        known |= set(BEHAVIOUR.findall(path.read_text(encoding="utf-8")))
    for path in root.glob("tests/**/*.c"):
        names = re.findall(r"\btest_\w+", path.read_text(encoding="utf-8"))
        known |= {name for name in names if names.count(name) > 1}
    for path in root.glob("tests/**/*.py"):
        known |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M))
    return known


def named(root):
    """The tests that the promises of a tree name."""
    path = root / PATH
    if not path.exists():
        return []
    return sorted({test for *_, tests in promises(path.read_text(encoding="utf-8"))
                   for test in tests})
