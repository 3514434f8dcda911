"""What the documents point at is there: links, files in backticks, and doors of the Makefile. The C
in README.md compiles."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.dont_write_bytecode = True

import tap  # noqa: E402

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)")
FILE = re.compile(r"`((?:src|include|tests|tools|docs|examples|bench)/[\w./-]*\w)`")

FENCE = re.compile(r"^```c\n(.*?)^```$", re.M | re.S)
# What the text leaves out: what is included, the error, a handler, and the look at each status.
AROUND = """#include <fanfare/fanfare.h>
#include <stdio.h>
enum fan_verdict on_user(void *context, const struct fan_event *event,
                         const struct fan_handling *handling);
void taste(void);
void taste(void)
{{
    struct fan_error error = FAN_ERROR_INIT;
{}
}}
"""


def missing(pattern, base):
    return [f"{document.relative_to(ROOT)}: {target}" for document in DOCUMENTS
            for target in pattern.findall(document.read_text(encoding="utf-8"))
            if not (base(document) / target).exists()]


def test_every_link_leads_somewhere():
    wrong = missing(LINK, lambda document: document.parent)
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_named_file_is_there():
    wrong = missing(FILE, lambda document: ROOT)
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_named_door_is_in_the_makefile():
    doors = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for named in re.findall(r"(?:`|^ {4,})make (?:-\S+ )*([a-z]+)", text, re.M):
            assert named in doors, f"{document.name}: make {named}"


def test_the_c_of_the_readme_compiles():
    fences = FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(fences) >= 2, fences
    for fence in fences:
        done = subprocess.run(["gcc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
                               "-Wno-unused-result", f"-I{ROOT / 'include'}", "-fsyntax-only",
                               "-xc", "-"], input=AROUND.format(fence), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert done.returncode == 0, f"{fence}\n{done.stdout}"


def test_H20_every_example_is_run_and_what_it_prints_is_checked():
    meson = (ROOT / "examples/meson.build").read_text(encoding="utf-8")
    examples = [path.stem for path in sorted((ROOT / "examples").glob("*.c"))]
    assert {"publish", "patterns", "hooks", "handler", "outcomes", "retries"} <= set(examples)
    for name in examples:
        assert f"'{name}'" in meson, f"{name}.c is not run"
        assert (ROOT / f"examples/{name}.out").stat().st_size > 0, f"{name}.out is empty"


def test_the_patterns_see_what_they_look_for():
    text = "[a](docs/x.md#y) [b](https://x) `src/bus/lane.c` `make test`\n    make run\n"
    assert LINK.findall(text) == ["docs/x.md"]
    assert FILE.findall(text) == ["src/bus/lane.c"]


if __name__ == "__main__":
    tap.run(globals())
