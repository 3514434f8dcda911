#!/usr/bin/env python3
"""Runs an example in a folder of its own and compares what it prints with a file.

    expect.py FILE PROGRAM [ARGUMENT...]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

expected = Path(sys.argv[1]).read_text()
with tempfile.TemporaryDirectory() as folder:
    command = [str(Path(sys.argv[2]).resolve()), *sys.argv[3:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, cwd=folder)
if done.returncode != 0:
    sys.exit(f"it exits with {done.returncode}")
if done.stdout != expected:
    sys.exit(f"expected:\n{expected}\ngot:\n{done.stdout}")
