"""The table at the head of tests/broker/test_seed.c is whole, and its tests are there."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]
sys.dont_write_bytecode = True

import guarantees  # noqa: E402
import tap  # noqa: E402

TABLE = "tests/broker/test_seed.c"
ROW = re.compile(r"^ \* +(F?\d+)  ((?:\w+ ?)+)$", re.M)
WANTED = [str(number) for number in range(1, 53)] + [f"F{number}" for number in range(1, 17)]


def rows():
    text = (ROOT / TABLE).read_text(encoding="utf-8")
    return [(number, names.split()) for number, names in ROW.findall(text[:text.index("*/")])]


def defined():
    """Tests by their definition: one that is not registered does not compile."""
    found = set()
    for pattern, definition in (("src/store/suite/*.c", guarantees.BEHAVIOUR),
                                ("tests/**/*.c", re.compile(r"^static void (test_\w+)\(", re.M)),
                                ("tests/**/*.py", re.compile(r"^def (test_\w+)\(", re.M))):
        for path in ROOT.glob(pattern):
            found |= set(definition.findall(path.read_text(encoding="utf-8")))
    return found


def test_every_behaviour_has_its_row_once_and_in_order():
    assert [number for number, _ in rows()] == WANTED


def test_every_test_of_the_table_is_there():
    known = defined()
    missing = [f"{number}: {name}" for number, names in rows() for name in names
               if name not in known]
    assert not missing, "\n" + "\n".join(missing)


if __name__ == "__main__":
    tap.run(globals())
