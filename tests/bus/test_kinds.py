"""B10: what FAN_KIND_DECLARE makes compiles with the declared struct and with no other."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.dont_write_bytecode = True

import tap  # noqa: E402

COMPILERS = (["gcc", "-xc", "-std=c11"], ["clang", "-xc", "-std=c11"],
             ["g++", "-xc++", "-std=c++11"], ["clang++", "-xc++", "-std=c++11"])
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", f"-I{ROOT / 'include'}"]
HEAD = """
#include <fanfare/kind.h>
struct pulse { double seconds; };
struct drift { double score; };
enum { PULSE, DRIFT };
FAN_KIND_DECLARE(pulse, PULSE, "host.pulse", struct pulse)
FAN_KIND_DECLARE(drift, DRIFT, "host.drift", struct drift)
extern const struct fan_kind kinds[2];
const struct fan_kind kinds[2] = { FAN_KIND(pulse), FAN_KIND(drift) };
"""
PUBLISH = """
enum fan_status try_it(struct fan_bus *bus, const struct %s *value);
enum fan_status try_it(struct fan_bus *bus, const struct %s *value)
{
    return pulse_publish(bus, "t", value, NULL);
}
"""
READ = """
enum fan_status try_it(const struct fan_message *message, struct %s *value);
enum fan_status try_it(const struct fan_message *message, struct %s *value)
{
    return pulse_read(message, value);
}
"""
TWICE = """
FAN_KIND_DECLARE(other, DRIFT, "host.drift", struct pulse)
"""


def complaint(compiler, source):
    done = subprocess.run([*compiler, *STRICT, "-"], input=source, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout if done.returncode else None


def test_B10_publishing_or_reading_another_struct_does_not_compile():
    for compiler in COMPILERS:
        for use in (PUBLISH, READ):
            said = complaint(compiler, HEAD + use % ("pulse", "pulse"))
            assert said is None, said
            said = complaint(compiler, HEAD + use % ("drift", "drift"))
            assert said and "drift" in said and "pulse" in said, (compiler, said)


def test_B10_two_structs_for_one_index_do_not_compile():
    for compiler in COMPILERS:
        said = complaint(compiler, HEAD + TWICE)
        assert said and "fan_kind_at_DRIFT" in said, (compiler, said)


if __name__ == "__main__":
    tap.run(globals())
