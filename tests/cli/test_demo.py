"""tools/demo as a test: real deliveries through a SIGKILL, from seeds."""

import importlib.machinery
import importlib.util
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]
sys.dont_write_bytecode = True

import tap  # noqa: E402

SEEDS = 50 if os.environ.get("FANFARE_SOAK", "") not in ("", "0") else 3


def load_demo():
    loader = importlib.machinery.SourceFileLoader("demo", str(ROOT / "tools" / "demo"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("demo", loader))
    loader.exec_module(module)
    return module


demo = load_demo()


def deliveries():
    try:
        return demo.read_deliveries(demo.find_index(os.environ["FANFARE_BUILD"]))
    except demo.Unreachable as reason:
        raise tap.Skip(str(reason))


def note(text):
    print(f"# {text}", flush=True)


def test_P01_the_deliveries_are_what_the_package_holds():
    every = deliveries()
    whole = json.loads(demo.find_index(os.environ["FANFARE_BUILD"]).read_text(encoding="utf-8"))
    assert len(every) == 329 and len({delivery.type.split(".")[1] for delivery in every}) == 58
    examples = [example for webhook in whole for example in webhook["examples"]]
    assert [json.loads(delivery.payload) for delivery in every] == examples
    assert all("\n" not in demo.envelope(delivery)[:-1] for delivery in every)
    types = {delivery.type for delivery in every}
    assert "github.push" in types and "github.issues.opened" in types


def test_P01_types_are_made_of_legal_segments():
    assert demo.make_type("push", "") == "github.push"
    assert demo.make_type("a.b", "x *>\n") == "github.a_b.x____"


def test_L06_L07_L09_real_deliveries_survive_a_kill_once_and_byte_for_byte():
    every = deliveries()
    for seed in range(SEEDS):
        demo.run(os.environ["FANFARED"], os.environ["FANFARE_CLI"], every, seed, note)


def test_L14_the_comparison_finds_what_it_looks_for():
    """One event that is lost, doubled, altered by a space, or never acknowledged."""
    every = [demo.Delivery("github.push", None, text, demo.digest(text))
             for text in ('{"a": 1}', '{"a": 2}')]
    acknowledged = {line: {"id": f"e{line}", "seq": line} for line in (1, 2)}

    def event(line, payload, **more):
        head = {"id": f"e{line}", "seq": line, "type": "github.push", "topic": ""} | more
        return json.dumps(head)[:-1] + f', "payload":{payload}}}\n'
    good = [event(1, '{"a": 1}'), event(2, '{"a": 2}')]
    demo.check_tail("good", good, every, acknowledged)
    for bad in (good[:1], [*good, good[1]], good[::-1], [good[0], event(2, '{"a":2}')],
                [good[0], event(2, '{"a": 2}', id="e3")], [good[0], '{"gap":{}}', good[1]],
                [good[0], event(2, '{"a": 2}', seq=3)]):
        try:
            demo.check_tail("bad", bad, every, acknowledged)
        except AssertionError:
            continue
        raise AssertionError(f"passed: {bad}")


if __name__ == "__main__":
    tap.run(globals())
