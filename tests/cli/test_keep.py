"""fanfare backup, restore, verify and retain, on the log of a server that runs."""

import json
import os
import sqlite3
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "server")]
sys.dont_write_bytecode = True

import tap  # noqa: E402

import fake  # noqa: E402
from daemon import Daemon, folder  # noqa: E402
from fake import expect  # noqa: E402


def run(*arguments, **more):
    return fake.run("http://127.0.0.1:1", *arguments, **more)


def publish(daemon, count, first=0):
    lines = "".join(json.dumps({"type": "a.b.c", "topic": f"t{i % 3}", "id": f"id-{i}"}) + "\n"
                    for i in range(first, first + count))
    daemon.publish(lines.encode(), "application/x-ndjson")


def test_P24_backup_and_restore_beside_a_server():
    with folder() as place:
        store, copy = f"sqlite:{place}/events.db", f"{place}/copy"
        with Daemon(store) as daemon:
            publish(daemon, 200)
            expect(run("backup", "--store", store, copy), 0, f"backed up to {copy}")
            expect(run("backup", "--store", store, copy), 1, "is there already")
            expect(run("verify", "--store", store), 0, "sound, 200 events")
            publish(daemon, 10, 200)
            epoch = daemon.epoch
            expect(run("restore", copy, "--store", store), 1, "is there already")
        again = f"sqlite:{place}/again.db"
        done = run("restore", copy, "--store", again)
        expect(done, 0, "restored, the last event is 200@")
        assert epoch not in done.out
        with Daemon(again) as daemon:
            assert daemon.epoch != epoch and daemon.epoch in done.out
            assert daemon.get("/v1/stats")["store"]["events"] == 200
            # A cursor of the old log gets a gap, not a wrong place.
            with daemon.stream(after=f"205@{epoch}") as stream:
                frame = next(stream)
                assert frame.event == "fanfare.gap" and frame.json()["reason"] == "epoch"


def test_P24_verify_tells_each_fault():
    with folder() as place:
        store = f"sqlite:{place}/events.db"
        with Daemon(store) as daemon:
            publish(daemon, 20)
        with sqlite3.connect(f"{place}/events.db") as log:
            log.execute("UPDATE event SET created_us = 0 WHERE seq IN (3, 5)")
            log.execute("UPDATE event_block SET count = 7")
        log.close()
        done = run("verify", "--store", store)
        expect(done, 1, "event 3: has no time", "event 5: has no time", "block: counts 7 events",
               "found 4 faults")
        os.truncate(f"{place}/events.db", 8192)
        expect(run("verify", "--store", store), 1)


def test_P11_retain_beside_a_server():
    with folder() as place:
        store = f"sqlite:{place}/events.db"
        with Daemon(store) as daemon:
            publish(daemon, 1000)
            with daemon.stream(after="0") as stream:
                assert next(stream).seq == 1
            done = run("retain", "--store", store, "--count", "100")
            expect(done, 0, "removed 900, expired 0, discarded 0; trimmed up to 900")
            assert daemon.get("/v1/stats")["store"]["events"] == 100
            with daemon.stream(after="0") as stream:
                gap = next(stream)
                assert gap.event == "fanfare.gap" and gap.json()["reason"] == "retention"
                assert gap.json()["before"] == 901
                assert next(stream).seq == 901
            expect(run("retain", "--store", store, "--age", "1h", "--accept-clock"), 0, "removed 0")
            expect(run("verify", "--store", store), 0, "sound, 100 events")


def test_P11_what_makes_no_sense_is_wrong_usage():
    with folder() as place:
        store = f"sqlite:{place}/none.db"
        for arguments in (["backup"], ["backup", "--store", store], ["restore", "x"],
                          ["verify"], ["verify", "--store", store, "x"],
                          ["retain", "--store", store],
                          ["retain", "--store", store, "--age", "7"],
                          ["retain", "--store", store, "--age", "0d"],
                          ["retain", "--store", store, "--bytes", "much"],
                          ["retain", "--store", store, "--count", "-1"],
                          ["retain", "--store", store, "--age", "99999999999999999999d"]):
            expect(run(*arguments), 2, "fanfare ")
        # What is not there is not made.
        for arguments in (["verify"], ["retain", "--count", "1"], ["backup", f"{place}/copy"]):
            done = run(arguments[0], "--store", store, *arguments[1:])
            expect(done, 1, f"fanfare: {store}: {place}/none.db: there is no log\n")
            # However long the path is, it is the user's words that are told.
            far = store.replace("none", "n" * 50)
            done = run(arguments[0], "--store", far, *arguments[1:])
            expect(done, 1, "there is no log")
            assert "create" not in done.err, done.err
        assert not os.listdir(place)
        expect(run("verify", "--store", "what:"), 1, "unknown scheme")
        expect(run("backup", "--store", "memory:", f"{place}/copy"), 1, "cannot be backed up")


if __name__ == "__main__":
    tap.run(globals())
