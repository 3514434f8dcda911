"""docs/config.md holds the tables that follow from the table of keys."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.dont_write_bytecode = True

import tap  # noqa: E402

PAGE = (ROOT / "docs/config.md").read_text(encoding="utf-8")
PROGRAM = os.environ.get("FANFARE_CONFIG_PAGE", "")


def test_H15_the_page_is_the_table_of_keys():
    done = subprocess.run([sys.executable, "-B", str(ROOT / "tools/reference"), "--check", PROGRAM],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_page_that_lacks_a_key_is_found():
    tables = subprocess.run([PROGRAM], capture_output=True, text=True, check=True).stdout
    lines = [line for line in tables.splitlines() if line.startswith("| `")]
    assert len(lines) > 30
    assert all(PAGE.count(f"\n{line}\n") == 1 for line in lines)


if __name__ == "__main__":
    tap.run(globals())
