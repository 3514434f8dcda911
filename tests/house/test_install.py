"""The installed tree: a program finds it by pkg-config, compiles, links and runs, in C and C++."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ["FANFARE_BUILD"])
sys.path.insert(0, str(ROOT / "tests"))
sys.dont_write_bytecode = True

import tap  # noqa: E402

PROGRAM = r"""
#include <fanfare/fanfare.h>

#include <stdio.h>

int main(void)
{
    struct fan_cursor cursor;
    struct fan_error error = FAN_ERROR_INIT;
    char text[FAN_CURSOR_TEXT_SIZE];
    if (fan_cursor_parse("42@00000000000000ff", &cursor, &error) != FAN_OK)
        return 1;
    fan_cursor_format(&cursor, text);
    if (!fan_pattern_match("public.*", "public.users"))
        return 1;
    printf("%s %s\n", text, fan_status_text(FAN_NOT_FOUND));
    return 0;
}
"""


def run(*command, env=None):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False, env=env)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}"
    return done.stdout


class Installed:
    """The tree under a folder of its own, and what pkg-config says about it."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        run("meson", "install", "-C", str(BUILD), "--no-rebuild", "--destdir", str(self.root))
        self.packages = list(self.root.rglob("fanfare.pc"))
        assert len(self.packages) == 1, self.packages
        self.env = {**os.environ, "PKG_CONFIG_PATH": str(self.packages[0].parent),
                    "PKG_CONFIG_SYSROOT_DIR": str(self.root),
                    "LD_LIBRARY_PATH": str(self.packages[0].parent.parent)}
        return self

    def __exit__(self, *exception):
        self.folder.cleanup()

    def flags(self, *packages):
        return run("pkg-config", "--cflags", "--libs", *packages, env=self.env).split()


def compile_and_run(compiler, suffix):
    with Installed() as installed:
        source = installed.root / f"program{suffix}"
        source.write_text(PROGRAM)
        program = installed.root / "program"
        run(*compiler, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o", str(program),
            str(source), *installed.flags("fanfare"))
        text = run(str(program), env=installed.env)
        assert text == "42@00000000000000ff not found\n", text


def test_R04_an_installed_program_runs_in_c():
    compile_and_run(["gcc", "-std=c11"], ".c")


def test_R04_an_installed_program_runs_in_cpp():
    compile_and_run(["g++", "-std=c++11"], ".cpp")


def test_P15_an_installed_program_runs_the_suite_on_its_own_provider():
    with Installed() as installed:
        program = installed.root / "own_provider"
        run("gcc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o", str(program),
            str(ROOT / "tests/house/own_provider.c"),
            *installed.flags("fanfare-conformance", "fanfare"))
        lines = run(str(program), env=installed.env).splitlines()
        assert sum(line.startswith("ok ") for line in lines) > 50, lines
        assert not [line for line in lines if line.startswith("not ok")], lines


def test_R04_the_install_is_complete_and_holds_no_more():
    with Installed() as installed:
        names = {path.relative_to(installed.root).as_posix()
                 for path in installed.root.rglob("*") if not path.is_dir()}
        headers = {f"usr/local/include/fanfare/{path.name}"
                   for path in (ROOT / "include/fanfare").glob("*.h")}
        assert headers <= names, headers - names
        files = {Path(name).name for name in names}
        assert {"libfanfare.so", "libfanfare.so.0"} <= files, files
        for name in names:
            assert not any(word in name for word in ("test", "bench", "csource")), name
            assert "fan-" not in name, f"{name}: an inner library is installed"


if __name__ == "__main__":
    tap.run(globals())
