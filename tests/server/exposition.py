"""Reads Prometheus' text format, so strictly that any line that is no metric fails."""

import re

LABEL = r'[a-z]+="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"([a-z_]+)(?:\{{{LABEL}(?:,{LABEL})*\}})? \d+(?:\.\d+)?")
KINDS = ("counter", "gauge", "histogram")


def family_of(name, typed):
    if name in typed:
        return name
    base = re.sub("_(bucket|sum|count)$", "", name)
    return base if typed.get(base) == "histogram" else None


def prometheus_text(text):
    """Gives the value of each series."""
    samples, helped, typed = {}, set(), {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in helped and len(line.split()) > 3, line
            helped.add(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in typed and name in helped and kind in KINDS, line
            typed[name] = kind
        else:
            match = SAMPLE.fullmatch(line)
            family = match and family_of(match[1], typed)
            assert family and family == list(typed)[-1], line
            assert typed[family] != "counter" or family.endswith("_total"), line
            series, value = line.rsplit(" ", 1)
            assert series not in samples, line
            samples[series] = float(value)
    return samples
