"""What the built library exports, is called and needs. FANFARE_BUILD is the build folder."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ["FANFARE_BUILD"])
LIBRARY = BUILD / "libfanfare.so"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]
sys.dont_write_bytecode = True

import csource  # noqa: E402
import tap  # noqa: E402


def output(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)
    assert done.returncode == 0, f"{command[0]}:\n{done.stdout}"
    return done.stdout


def dynamic(library, tag):
    return re.findall(rf"\({tag}\).*\[(.*)\]", output("readelf", "-dW", str(library)))


def test_R04_exported_symbols_are_the_listed_ones():
    output(sys.executable, "-B", str(ROOT / "tools/symbols"), "--check", str(LIBRARY))


def test_R04_what_headers_declare_is_what_is_exported():
    declared = set()
    for header in (ROOT / "include/fanfare").glob("*.h"):
        # The conformance suite is a library of its own.
        if header.name != "conformance.h":
            source = csource.read(header, header.read_text(encoding="utf-8"))
            declared |= {function.name for function in source.declarations
                         if "FAN_API" in function.head}
    listed = set((ROOT / "tests/house/symbols.txt").read_text(encoding="utf-8").split())
    assert declared == listed, sorted(declared ^ listed)


def test_R04_soname():
    assert dynamic(LIBRARY, "SONAME") == ["libfanfare.so.0"]


def test_every_global_symbol_has_the_prefix():
    archives = sorted(BUILD.glob("src/*/libfan-*.a"))
    assert archives
    for archive in archives:
        listing = output("nm", "-A", "-g", "--defined-only", str(archive))
        for line in listing.splitlines():
            name = line.split()[-1]
            assert name.startswith("fan_"), line


def test_B21_the_core_bus_needs_libc_alone():
    floors = [BUILD / f"src/{name}" for name in ("base/libfan-base.a", "event/libfan-event-core.a",
                                                 "bus/libfan-bus.a")]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "core.so")
        output("gcc", "-shared", "-o", str(library), "-Wl,-z,defs", "-Wl,--whole-archive",
               *map(str, floors), "-Wl,--no-whole-archive", "-pthread")
        assert dynamic(library, "NEEDED") == ["libc.so.6"], dynamic(library, "NEEDED")


if __name__ == "__main__":
    tap.run(globals())
