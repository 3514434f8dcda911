"""Every public header compiles alone, as C11 and as C++, by gcc and by clang."""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]
sys.dont_write_bytecode = True

import csource  # noqa: E402
import tap  # noqa: E402

HEADERS = sorted((ROOT / "include/fanfare").glob("*.h"))
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wundef", "-Werror", "-fsyntax-only",
          f"-I{ROOT / 'include'}"]
LANGUAGES = {
    "c11": ("c", [["gcc", "-std=c11", "-Wstrict-prototypes"], ["clang", "-std=c11"]]),
    "cpp": ("cpp", [["g++", "-std=c++11"], ["clang++", "-std=c++11"]]),
}


def compile_test(header, language):
    def test():
        suffix, compilers = LANGUAGES[language]
        with tempfile.TemporaryDirectory() as folder:
            # Twice, so that a guard that does not guard is seen as well.
            source = Path(folder, f"alone.{suffix}")
            source.write_text(f"#include <fanfare/{header.name}>\n" * 2
                              + "int main(void);\nint main(void)\n{\n    return 0;\n}\n")
            for compiler in compilers:
                done = subprocess.run([*compiler, *STRICT, str(source)], stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True, check=False)
                assert done.returncode == 0, f"{compiler[0]}:\n{done.stdout}"
    return test


def test_R04_options_carry_their_size():
    seen = 0
    for header in HEADERS:
        source = csource.read(header, header.read_text())
        for match in csource.re.finditer(r"^struct (fan_\w*options)\s*\{\s*([^;]*);", source.bare,
                                         csource.re.M):
            seen += 1
            assert " ".join(match[2].split()) == "size_t size", f"{header.name}: {match[1]}"
    assert seen > 0


def test_R04_the_umbrella_includes_every_header():
    umbrella = HEADERS[0].parent / "fanfare.h"
    text = umbrella.read_text()
    # A program that embeds the server or brings a provider asks for these by name.
    special = {"fanfare.h", "provider.h", "server.h", "conformance.h"}
    for header in HEADERS:
        assert header.name in special or f"<fanfare/{header.name}>" in text, header.name


for each in HEADERS:
    for tongue in LANGUAGES:
        globals()[f"test_R04_{each.stem}_compiles_as_{tongue}"] = compile_test(each, tongue)

if __name__ == "__main__":
    tap.run(globals())
