"""B21: the given program of the core bus needs libc alone (a sanitizer brings its runtime)."""

import re
import subprocess
import sys

done = subprocess.run(["readelf", "--dynamic", "--wide", sys.argv[1]], stdout=subprocess.PIPE,
                      text=True, check=True)
needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout))
allowed = re.compile(r"(ld-linux[^.]*|lib(c|pthread|(a|t|ub)san|gcc_s|m|dl|rt|resolv))\.so")
unexpected = sorted(name for name in needed if not allowed.match(name))
if "libc.so.6" not in needed or unexpected:
    sys.exit(f"it needs more than libc: {sorted(needed)}")
