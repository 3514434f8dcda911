"""A test program in Python: every function test_… of the calling module, reported as TAP.

    if __name__ == "__main__":
        tap.run(globals())

A test fails by raising; raise tap.Skip("why") where the machine lacks what it needs.
"""

import sys
import traceback


class Skip(Exception):
    pass


def run(names):
    tests = [(name, test) for name, test in names.items()
             if name.startswith("test_") and callable(test)]
    wanted = sys.argv[1:]
    tests = [(name, test) for name, test in tests if not wanted or name in wanted]
    print(f"1..{len(tests)}")
    failed = 0
    for number, (name, test) in enumerate(tests, 1):
        try:
            test()
        except Skip as reason:
            print(f"ok {number} - {name} # SKIP {reason}", flush=True)
        except Exception:
            failed += 1
            for line in traceback.format_exc().splitlines():
                print(f"# {line}")
            print(f"not ok {number} - {name}", flush=True)
        else:
            print(f"ok {number} - {name}", flush=True)
    sys.exit(1 if failed else 0)
