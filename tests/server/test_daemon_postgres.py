"""fanfared over PostgreSQL: what it says of what is wrong, and two of them on one log."""

import json
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from daemon import Daemon, run  # noqa: E402
from postgres import Started  # noqa: E402

SERVER = None


def check_refused(uri, code, *words, secret="geheim"):
    """One sentence that holds the words and no password, and the exit code."""
    done = run("--listen", "127.0.0.1:0", "--store", uri)
    assert done.returncode == code, done
    assert done.stdout == "", done.stdout
    assert done.stderr.startswith("fanfared: ") and done.stderr.endswith(".\n"), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert secret not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, (word, done.stderr)


def test_P07_a_wrong_password_is_refused_without_a_word_of_it():
    check_refused(SERVER.tcp(password="falsch"), 1, 'password authentication failed for user "fan"',
                  "fan:***@127.0.0.1", secret="falsch")
    check_refused(SERVER.tcp(password=""), 1, "no password supplied")
    check_refused(SERVER.tcp(user="nobody"), 1, '"nobody"')


def test_P07_a_server_or_database_that_is_not_there_is_named():
    check_refused(SERVER.tcp(database="nowhere"), 1, 'database "nowhere" does not exist')
    check_refused("postgres://fan:geheim@127.0.0.1:1/fan?timeout_ms=100", 1, "refused")
    check_refused("postgres://fan:geheim@nowhere.invalid/fan?timeout_ms=100", 1, "nowhere.invalid")


def test_P07_a_missing_privilege_is_told_with_what_to_do():
    SERVER.sql("CREATE ROLE poor LOGIN PASSWORD 'arm'")
    check_refused(SERVER.tcp(user="poor", password="arm"), 1, "permission denied for database fan",
                  'CREATE SCHEMA "fanfare" AUTHORIZATION "poor"', secret=":arm@")
    SERVER.sql("CREATE SCHEMA theirs")
    check_refused(SERVER.uri("schema=theirs"), 1, "permission denied for schema theirs")


def test_P07_what_is_no_log_is_left_alone():
    SERVER.sql("CREATE SCHEMA shop AUTHORIZATION fan; CREATE TABLE shop.event(id int); "
               "ALTER TABLE shop.event OWNER TO fan")
    check_refused(SERVER.uri("schema=shop"), 1, "shop", "schema= or table=")
    assert SERVER.sql("SELECT count(*) FROM pg_class c JOIN pg_namespace n "
                      "ON n.oid = c.relnamespace WHERE n.nspname = 'shop'") == ["1"]
    with Daemon(SERVER.uri("schema=shop&table=beside")) as daemon:
        daemon.publish({"type": "a.b.create"})
    assert SERVER.sql("SELECT count(*) FROM shop.beside") == ["1"]


def test_P07_a_database_in_another_encoding_is_refused():
    SERVER.sql("CREATE DATABASE old OWNER fan ENCODING 'LATIN1' TEMPLATE template0")
    check_refused(SERVER.uri(database="old"), 1, "UTF8")


def test_P24_other_formats_are_refused():
    with Daemon(SERVER.uri("schema=formats")) as daemon:
        daemon.publish({"type": "a.b.create"})
    SERVER.sql("UPDATE formats.meta SET value = 99 WHERE key = 'format'")
    check_refused(SERVER.uri("schema=formats"), 1, "format 99", "formats up to 1")
    SERVER.sql("UPDATE formats.meta SET value = 0 WHERE key = 'format'")
    check_refused(SERVER.uri("schema=formats"), 1, "has no format")
    SERVER.sql("UPDATE formats.meta SET value = 1 WHERE key = 'format'")
    with Daemon(SERVER.uri("schema=formats")) as daemon:
        assert daemon.get("/v1/stats")["store"]["events"] == 1


def test_P07_a_typo_in_the_uri_is_named():
    for uri, word in (
            (SERVER.uri("shema=x"), "unknown option 'shema'"),
            (SERVER.uri("timeout_ms=soon"), "option 'timeout_ms' is 'soon'"),
            (SERVER.uri("poll_ms=0"), "option 'poll_ms' is '0'"),
            (SERVER.uri("schema="), "option 'schema'"),
            (SERVER.uri("table=" + "t" * 41), "option 'table'"),
            (SERVER.uri("channel=" + "c" * 64), "option 'channel'"),
            (SERVER.uri("sslmode=perhaps"), "sslmode"),
            ("postgres:fan:geheim@host/fan", "postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
            ("postgres://fan:ge%ZZheim@host/fan", "percent"),
            ("postgres://fan:geheim@[host/fan", "postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
            ("postgres://fan:geheim@host:port/fan", "port")):
        check_refused(uri, 2, word)


def test_P10_two_daemons_on_one_log_hear_each_other():
    """Each stream gets all events of both, in order, within milliseconds."""
    count = 50
    with Daemon(SERVER.uri("schema=both")) as one, Daemon(SERVER.uri("schema=both")) as other:
        assert one.epoch == other.epoch
        with one.stream() as first, other.stream() as second:
            assert first.frame().retry and second.frame().retry
            waits = []
            for number in range(count):
                for daemon, stream in ((one, second), (other, first)):
                    begun = time.monotonic()
                    daemon.publish({"type": "a.b.create", "payload": {"number": number}})
                    frame = next(stream)
                    waits.append(time.monotonic() - begun)
                    assert frame.json()["payload"] == {"number": number}
                    assert next(second if stream is first else first).id == frame.id
            waits.sort()
            print(f"# publish to receive in another process: p50 {waits[count] * 1000:.1f} ms, "
                  f"p99 {waits[-2] * 1000:.1f} ms")


def test_R01_publishes_survive_the_servers_death():
    with Daemon(SERVER.uri("schema=death&timeout_ms=1000")) as daemon:
        daemon.publish({"type": "a.b.create", "id": "before"})
        with daemon.stream() as stream:
            assert stream.frame().retry
            SERVER.tell("kill")
            body = json.dumps({"type": "a.b.create", "id": "while"})
            answer = daemon.ask("POST", "/v1/events", body, Content_Type="application/json")
            assert answer.status in (503, 504), (answer.status, answer.body)
            SERVER.tell("start")
            daemon.publish({"type": "a.b.create", "id": "after"})
            seen = []
            while not seen or seen[-1] != "after":
                seen.append(next(stream).json()["id"])
            assert seen in (["after"], ["while", "after"]), seen


def main():
    global SERVER
    with Started() as SERVER:
        tap.run(globals())


if __name__ == "__main__":
    main()
