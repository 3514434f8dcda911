"""Plants a bug: writes a copy of a source file in which one text is another.

    plant.py PLANT SOURCE OUTPUT

A plant is a file: what it is, `laws:` that may tell of it, then the text to be found between `<<<`
and `===`, and what takes its place up to `>>>`. The text must be in the source exactly once, so
that a plant whose soil has changed fails the build.
"""

import re
import sys
from pathlib import Path

SHAPE = re.compile(r"(?:#[^\n]*\n)+laws: ([^\n]+)\n<<<\n(.*?)===\n(.*?)>>>\n", re.S)


def read(path):
    match = SHAPE.fullmatch(path.read_text())
    if not match:
        sys.exit(f"{path}: a plant has a comment, `laws:`, <<<, ===, >>>")
    return match.groups()


def main(plant, source, output):
    _laws, old, new = read(Path(plant))
    text = Path(source).read_text()
    count = text.count(old)
    if count != 1:
        sys.exit(f"{plant}: {count} times in {source}, not once; plant it anew:\n{old}")
    Path(output).write_text(f'#line 1 "{source}"\n' + text.replace(old, new))


if __name__ == "__main__":
    main(*sys.argv[1:])
