"""fanfare capture, from a real PostgreSQL into the log of a server that runs."""

import re
import select
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "server")]
sys.dont_write_bytecode = True

import tap  # noqa: E402

import fake  # noqa: E402
from daemon import Daemon, folder  # noqa: E402
from fake import expect  # noqa: E402
from postgres import Started  # noqa: E402

SERVER = None


class Capture:
    """The program, from the moment on that it captures."""

    def __init__(self, *arguments):
        self.process = fake.start("http://127.0.0.1:1", "capture", *arguments)
        self.words = ""
        self.until("capturing")

    def until(self, words):
        while words not in self.words:
            ready, _, _ = select.select([self.process.stderr], [], [], fake.TIMEOUT_S)
            line = self.process.stderr.read1().decode() if ready else ""
            assert line, f"{words!r} is not in {self.words!r}"
            self.words += line

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _, words, code = fake.interrupt(self.process)
        self.words += words
        assert code == 0, self.words


def run(*arguments):
    return fake.run("http://127.0.0.1:1", "capture", *arguments)


def samples(path):
    """What node_exporter would read, with a line for each family's type, once."""
    lines = path.read_text(encoding="utf-8").splitlines()
    types = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert len(types) == len(set(types)), types
    assert not path.with_name(path.name + ".tmp").exists()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in lines if not line.startswith("#")}


def insert(*numbers):
    SERVER.sql("INSERT INTO users VALUES " + ", ".join(f"({number})" for number in numbers))


def take(stream, *numbers):
    for number in numbers:
        event = next(stream).json()
        assert event["type"] == "public.users.create" and event["topic"] == f"users:{number}", event
        assert event["payload"] == {"id": number} and event["source"] == "database", event


def test_H13_the_command_line_captures_by_decoding():
    with folder() as place:
        store = f"sqlite:{place}/events.db"
        arguments = ("--from", SERVER.uri(), "--store", store, "--table", "public.users")
        with Daemon(store) as daemon, daemon.stream() as stream:
            assert stream.frame().retry
            with Capture(*arguments) as capture:
                insert(1, 2)
                take(stream, 1, 2)
            assert "2 events brought into the log" in capture.words, capture.words
            insert(3)
            metrics = Path(place) / "capture.prom"
            # It goes on where it was, over a restart of the database, and says so.
            with Capture(*arguments, "--metrics", str(metrics)) as capture:
                take(stream, 3)
                SERVER.tell("kill")
                capture.until("trying again")
                SERVER.tell("start")
                insert(4)
                take(stream, 4)
                capture.until("going on")
        values = samples(metrics)
        assert values['eventbroker_capture_events_total{slot="fanfare"}'] >= 2, values
        assert values['eventbroker_capture_failures_total{slot="fanfare"}'] > 0, values
        assert values['eventbroker_capture_slot_bytes{slot="fanfare"}'] > 0, values
        for name, value in (("leading", 1), ("failing", 0), ("gaps_total", 0), ("slot_alarm", 0)):
            assert values[f'eventbroker_capture_{name}{{slot="fanfare"}}'] == value, values
        expect(run("--from", SERVER.uri(), "--remove"), 0)
        expect(run("--from", SERVER.uri(), "--remove"), 1, 'no slot "fanfare"')
        assert SERVER.sql("SELECT count(*) FROM pg_replication_slots") == ["0"]


def test_H13_H12_the_command_line_captures_by_triggers_and_relays_the_outbox():
    with folder() as place:
        store = f"sqlite:{place}/events.db"
        arguments = ("--from", SERVER.uri(), "--store", store, "--trigger")
        with Daemon(store) as daemon, daemon.stream() as stream:
            assert stream.frame().retry
            metrics = Path(place) / "relay.prom"
            with Capture(*arguments, "--table", "users", "--metrics", str(metrics)):
                insert(5)
                take(stream, 5)
            values = samples(metrics)
            assert values['eventbroker_relay_events_total{outbox="fan_outbox"}'] == 1, values
            for name in ("failing", "rows", "lag_seconds", "hidden_seconds", "aside_total"):
                assert values[f'eventbroker_relay_{name}{{outbox="fan_outbox"}}'] == 0, values
            insert(6)
            with Capture(*arguments):
                take(stream, 6)
                SERVER.sql("SELECT fan_outbox.publish('a.b.c', '{\"n\": 1}')")
                assert next(stream).json()["payload"] == {"n": 1}
            expect(run("--from", SERVER.uri(), "--trigger", "--table", "users", "--remove"), 0)
            insert(7)
        assert SERVER.sql("SELECT count(*) FROM fan_outbox.event") == ["0"]


def test_H13_what_is_wrong_is_told_in_a_sentence():
    with folder() as place:
        store = f"sqlite:{place}/events.db"
        table = ("--store", store, "--table", "users")
        for code, arguments, words in (
                (2, (), "--from is missing"),
                (2, ("--from", SERVER.uri()), "--store is missing"),
                (2, ("--from", SERVER.uri(), "--store", store), "--table is missing"),
                (2, ("--from", SERVER.uri(), *table, "--outbox", "x"), "goes with --trigger"),
                (2, ("--from", SERVER.uri(), *table, "--trigger", "--slot", "x"), "without"),
                (2, ("--from", SERVER.uri(), *table, "--slot-bytes", "x"), "a size such as"),
                (2, ("--from", SERVER.uri(), *table, "x"), "what is 'x'?"),
                (1, ("--from", SERVER.uri(), *table, "--metrics", "/no/x"), "--metrics /no/x"),
                (1, ("--from", "sqlite:x", *table), "--from is no URI"),
                (1, ("--from", SERVER.tcp(password="falsch"), *table), "password"),
                (1, ("--from", SERVER.uri(), *table, "--slot", "A"), "--slot must have"),
                (1, ("--from", SERVER.uri(), "--store", store, "--table", "no"), "no table no"),
                (1, ("--from", SERVER.uri(), "--store", store, "--table", "no", "--trigger"),
                 '"no" does not exist'),
                (1, ("--from", SERVER.uri(), "--table", "users", "--store", "what:ever"), "what")):
            done = run(*arguments)
            expect(done, code, words)
            assert "falsch" not in done.err and "geheim" not in done.err, done.err
            assert code == 2 or re.fullmatch(r"fanfare: [^\n]+\n", done.err), done.err


def main():
    global SERVER
    with Started() as SERVER:
        SERVER.sql("CREATE TABLE users(id int PRIMARY KEY); ALTER TABLE users OWNER TO fan")
        tap.run(globals())


if __name__ == "__main__":
    main()
