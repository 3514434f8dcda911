"""fanfare against fanfared: the two speak the same language, also while one of them restarts."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "server")]
sys.dont_write_bytecode = True

import tap  # noqa: E402

import fake  # noqa: E402
from daemon import Daemon, folder  # noqa: E402
from fake import expect  # noqa: E402


def url_of(daemon):
    return f"http://{daemon.address[0]}:{daemon.address[1]}"


def run(daemon, *arguments, **more):
    return fake.run(url_of(daemon), *arguments, **more)


def start(daemon, *arguments, **more):
    return fake.start(url_of(daemon), *arguments, **more)


def again(daemon):
    """The same server once more: its log, its port."""
    return Daemon(daemon.store, "--listen", f"{daemon.address[0]}:{daemon.address[1]}")


def seqs(text):
    return [json.loads(line)["seq"] for line in text.splitlines()]


def test_P01_what_is_published_comes_back_by_every_verb():
    payload = '{"a" : 1.50, "b":[1E5, "\\u00e9é"], "big": 123456789012345678901}'
    with Daemon() as daemon:
        done = run(daemon, "pub", "--type", "public.users.create", "--topic", "t",
                   "--id", "one", "--user-id", "-7", "--metadata", '{"k":  1}', "--data", payload)
        expect(done, 0, f"stored one 1@{daemon.epoch}")
        texts = [run(daemon, "get", "one").out, run(daemon, "ls", "--json").out,
                 run(daemon, "tail", "--json", "--from-start", "--count", "1").out]
        for text in texts:
            assert f'"payload":{payload}' in text and '"metadata":{"k":  1}' in text, text
            event = json.loads(text)
            assert (event["seq"], event["source"], event["user_id"], event["entity"]) == (
                1, "system", -7, "users"), text
        assert payload in run(daemon, "tail", "--from-start", "--count", "1").out
        expect(run(daemon, "get", "two"), 1, "404")
        for id_ in ("..", ".", "a/../b?c#d%2e", "é"):
            expect(run(daemon, "pub", "--type", "a", "--id", id_), 0, "stored")
            assert json.loads(run(daemon, "get", id_).out)["id"] == id_
        expect(run(daemon, "stats"), 0, "store.events                              5\n")


def test_P02_refusals_of_the_server_are_shown_with_their_field():
    with Daemon() as daemon:
        expect(run(daemon, "pub", "--type", "a..b"), 1, "refused: type: has an empty segment")
        expect(run(daemon, "pub", "--type", "a", "--data", "[" * 70 + "]" * 70), 1,
               "refused: payload: is nested deeper")
        lines = b'{"type":"a"}\n{"type":"a..b"}\n\n{"type":"b","colour":1}\n{"type":"c"}\n'
        expect(run(daemon, "pub", "--ndjson", "-", stdin=lines), 1, "line 2: refused: type: ",
               "line 4: refused: colour: ", "stored 2, there already 0, refused 2")
        expect(run(daemon, "ls", "--since", "yesterday"), 1, "since")
        expect(run(daemon, "ls", "--status", "lost"), 1, "status")
        expect(run(daemon, "pub", "--type", "a", "--file", "-", stdin=b'"%s"' % (b"x" * (1 << 20))),
               1, "refused: payload")
        expect(run(daemon, "pub", "--type", "a", "--topic", "x" * 256), 1, "refused: topic")


def test_P05_ls_filters():
    with Daemon() as daemon:
        text = "".join(json.dumps({"type": f"s.{entity}.create", "topic": topic,
                                   "id": entity + topic, "source": source}) + "\n"
                       for entity in "ab"
                       for topic, source in (("x", "internal"), ("y", "database")))
        expect(run(daemon, "pub", "--ndjson", "-", stdin=text.encode()), 0)

        def ids(*filters):
            out = run(daemon, "ls", "--json", *filters).out
            return [json.loads(line)["id"] for line in out.splitlines()]
        assert ids() == ["ax", "ay", "bx", "by"]
        assert ids("--newest", "--limit", "2", "--offset", "1") == ["bx", "ay"]
        assert ids("--topic", "y") == ["ay", "by"]
        assert ids("--type", "s.b.*") == ["bx", "by"]
        assert ids("--source", "database", "--entity", "a") == ["ay"]
        assert ids("--schema", "s", "--operation", "create", "--status", "completed",
                   "--user-id", "0", "--until", "2001-01-01T00:00:00Z") == []


def test_P13_a_cursor_of_another_log_is_told_as_a_gap():
    with Daemon() as daemon:
        run(daemon, "pub", "--type", "a")
        done = run(daemon, "tail", "--after", "17@" + "f" * 16, "--count", "1", "--json")
        rows = [json.loads(line) for line in done.out.splitlines()]
        assert rows[0]["gap"]["reason"] == "epoch" and rows[1]["seq"] == 1, rows
        assert f"go on with --after 1@{daemon.epoch}" in done.err


def test_L07_a_tail_that_is_live_misses_nothing_of_a_kill():
    """Before any event has come it goes on from where it became live."""
    with folder() as place:
        daemon = Daemon(f"sqlite:{place}/log.db")
        run(daemon, "pub", "--type", "before")
        tail = start(daemon, "tail", "--json", "--type", "a.>")
        daemon.until(lambda stats: stats["streams"]["live"] == 1)
        daemon.kill()
        assert b"trying again" in tail.stderr.readline()
        with again(daemon) as daemon:
            expect(run(daemon, "pub", "--type", "a.b"), 0)
            assert json.loads(tail.stdout.readline())["seq"] == 2
            _, err, code = fake.interrupt(tail)
            assert code == 0 and f"--after 2@{daemon.epoch}" in err, err
            assert "will not be seen" not in err, err


def test_L07_ended_and_resumed_tails_see_each_event_once():
    with Daemon() as daemon:
        lines = b"".join(b'{"type":"a","payload":%d}\n' % n for n in range(500))
        cursor, seen = "0", []
        publisher = start(daemon, "pub", "--ndjson", "-", stdin=subprocess.PIPE)
        for part in range(5):
            publisher.stdin.write(lines)
            publisher.stdin.flush()
            tail = start(daemon, "tail", "--json", "--after", cursor)
            got = [tail.stdout.readline() for _ in range(100 + 37 * part)]
            tail.send_signal(signal.SIGINT)
            # Its cursor is behind the last whole line, should it end with a part of one.
            got += [line for line in tail.stdout.readlines() if line.endswith(b"\n")]
            err = tail.stderr.read().decode()
            assert tail.wait(timeout=fake.TIMEOUT_S) == 0, err
            tail.stdout.close()
            tail.stderr.close()
            seen += [json.loads(line)["seq"] for line in got]
            cursor = re.search(r"--after (\S+)", err)[1]
            assert cursor == f"{seen[-1]}@{daemon.epoch}"
        publisher.stdin.close()
        assert publisher.wait(timeout=fake.TIMEOUT_S) == 0
        publisher.stdout.close()
        publisher.stderr.close()
        done = run(daemon, "tail", "--json", "--after", cursor, "--count", str(2500 - len(seen)))
        assert seen + seqs(done.out) == list(range(1, 2501))


def through_a_restart(number):
    """Publishes while the server ends and comes back; gives the acknowledged and the stored."""
    with folder() as place:
        daemon = Daemon(f"sqlite:{place}/log.db")
        publisher = start(daemon, "pub", "--ndjson", "-", "--json", stdin=subprocess.PIPE)
        lines = b"".join(b'{"type":"a","payload":%d}\n' % n for n in range(1, 3001))
        # From a file of its own descriptor: the pipe is small, and nobody else writes to it.
        writer = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdout.buffer.write("
                                   "sys.stdin.buffer.read())"], stdin=subprocess.PIPE,
                                  stdout=publisher.stdin)
        publisher.stdin.close()
        writer.stdin.write(lines)
        writer.stdin.close()
        acknowledged = [json.loads(publisher.stdout.readline()) for _ in range(300)]
        daemon.process.send_signal(number)
        daemon.process.communicate()
        with again(daemon) as daemon:
            rest = publisher.stdout.read().decode()
            said = publisher.stderr.read().decode()
            assert publisher.wait(timeout=fake.TIMEOUT_S) == 0, (said, rest[-300:])
            assert writer.wait(timeout=fake.TIMEOUT_S) == 0
            publisher.stdout.close()
            publisher.stderr.close()
            acknowledged += [json.loads(line) for line in rest.splitlines()]
            stored = run(daemon, "tail", "--json", "--from-start", "--count", "3000").out
            assert daemon.get("/v1/stats")["store"]["events"] == 3000
            return acknowledged, [json.loads(line) for line in stored.splitlines()]


def test_L09_R05_a_restart_in_the_middle_doubles_and_loses_nothing():
    for number in (signal.SIGKILL, signal.SIGTERM):
        acknowledged, stored = through_a_restart(number)
        sums = acknowledged.pop()
        assert sums == {"stored": 3000, "duplicates": 0, "refused": 0, "unanswered": 0}, sums
        assert sorted(result["line"] for result in acknowledged) == list(range(1, 3001))
        by_line = {result["line"]: (result["id"], result["seq"]) for result in acknowledged}
        by_payload = {event["payload"]: (event["id"], event["seq"]) for event in stored}
        assert by_line == by_payload


if __name__ == "__main__":
    tap.run(globals())
