"""fanfared over PostgreSQL: what it says of what is wrong, and two of them on one log."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from client import PATIENCE_S  # noqa: E402
from daemon import PROGRAM, Daemon  # noqa: E402
from postgres import Started  # noqa: E402

SERVER = None


def check_refused(uri, *words, secret="geheim"):
    """Of either program one sentence that holds the words and no password, and exit code 1."""
    for name, command in (("fanfared", [PROGRAM, "--listen", "127.0.0.1:0", "--store", uri]),
                          ("fanfare", [os.environ["FANFARE_CLI"], "verify", "--store", uri])):
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S,
                              check=False)
        assert done.returncode == 1, done
        assert done.stdout == "", done.stdout
        assert done.stderr.startswith(f"{name}: ") and done.stderr.count("\n") == 1, done.stderr
        assert secret not in done.stderr, done.stderr
        for word in words:
            assert word in done.stderr, (word, done.stderr)


def test_P07_a_wrong_password_is_refused_without_a_word_of_it():
    check_refused(SERVER.tcp(password="falsch"), 'password authentication failed for user "fan"',
                  "fan:***@127.0.0.1", "passfile=", secret="falsch")
    check_refused(SERVER.tcp(password=""), "no password supplied", "passfile=")
    check_refused(SERVER.tcp(user="nobody"), '"nobody"')


def test_P07_a_server_or_database_that_is_not_there_is_named():
    check_refused(SERVER.tcp(database="nowhere"), 'database "nowhere" does not exist',
                  "CREATE DATABASE")
    check_refused("postgres://fan:geheim@127.0.0.1:1/fan?timeout_ms=100", "refused")
    check_refused("postgres://fan:geheim@nowhere.invalid/fan?timeout_ms=100", "nowhere.invalid")


def test_P07_a_missing_privilege_is_told_with_what_to_do():
    """And what is told helps."""
    SERVER.sql("CREATE ROLE poor LOGIN PASSWORD 'arm'")
    poor = SERVER.tcp(user="poor", password="arm")
    check_refused(poor, "permission denied for database fan",
                  'CREATE SCHEMA "fanfare" AUTHORIZATION "poor"', secret=":arm@")
    SERVER.sql("CREATE SCHEMA theirs")
    check_refused(SERVER.uri("schema=theirs"), "permission denied for schema theirs",
                  'GRANT ALL ON SCHEMA "theirs" TO "fan"')
    with Daemon(SERVER.uri("schema=shared")) as daemon:
        daemon.publish({"type": "a.b.create"})
    advice = 'GRANT USAGE ON SCHEMA "shared" TO "poor", and ALL ON ALL TABLES'
    check_refused(poor + "?schema=shared", "permission denied for schema shared", advice,
                  secret=":arm@")
    SERVER.sql("GRANT USAGE ON SCHEMA shared TO poor")
    check_refused(poor + "?schema=shared", "permission denied for table meta", advice,
                  secret=":arm@")
    SERVER.sql("GRANT ALL ON ALL TABLES IN SCHEMA shared TO poor")
    with Daemon(poor + "?schema=shared") as daemon:
        daemon.publish({"type": "a.b.create"})
    done = subprocess.run([os.environ["FANFARE_CLI"], "retain", "--count", "1", "--store",
                           poor + "?schema=shared"], capture_output=True, text=True,
                          timeout=PATIENCE_S, check=True)
    assert done.stdout.startswith("removed 1,"), done


def test_P07_what_is_no_log_is_left_alone():
    SERVER.sql("CREATE SCHEMA shop AUTHORIZATION fan; CREATE TABLE shop.event(id int); "
               "ALTER TABLE shop.event OWNER TO fan")
    check_refused(SERVER.uri("schema=shop"), "shop", "schema= or table=")
    assert SERVER.sql("SELECT count(*) FROM pg_class c JOIN pg_namespace n "
                      "ON n.oid = c.relnamespace WHERE n.nspname = 'shop'") == ["1"]
    with Daemon(SERVER.uri("schema=shop&table=beside")) as daemon:
        daemon.publish({"type": "a.b.create"})
    assert SERVER.sql("SELECT count(*) FROM shop.beside") == ["1"]


def test_P07_a_database_in_another_encoding_is_refused():
    SERVER.sql("CREATE DATABASE old OWNER fan ENCODING 'LATIN1' TEMPLATE template0")
    check_refused(SERVER.uri(database="old"), "UTF8")


def test_P24_other_formats_are_refused():
    with Daemon(SERVER.uri("schema=formats")) as daemon:
        daemon.publish({"type": "a.b.create"})
    SERVER.sql("UPDATE formats.meta SET value = 99 WHERE key = 'format'")
    check_refused(SERVER.uri("schema=formats"), "format 99", "formats up to 1", "a later one")
    SERVER.sql("UPDATE formats.meta SET value = 0 WHERE key = 'format'")
    check_refused(SERVER.uri("schema=formats"), "has no format", "restore a copy")
    SERVER.sql("UPDATE formats.meta SET value = 1 WHERE key = 'format'")
    with Daemon(SERVER.uri("schema=formats")) as daemon:
        assert daemon.get("/v1/stats")["store"]["events"] == 1


def test_P07_a_typo_in_the_uri_is_named():
    place = "postgres://USER:PASSWORD@HOST:PORT/"
    for uri, word in (
            (SERVER.uri("shema=x"), "unknown option 'shema'"),
            (SERVER.uri("timeout_ms=soon"), "option 'timeout_ms' is 'soon'"),
            (SERVER.uri("poll_ms=0"), "option 'poll_ms' is '0'"),
            (SERVER.uri("schema="), "option 'schema'"),
            (SERVER.uri("table=" + "t" * 41), "option 'table'"),
            (SERVER.uri("channel=" + "c" * 64), "option 'channel'"),
            (SERVER.uri("sslmode=perhaps"), "sslmode"),
            (SERVER.uri("pasword=geheim"), "unknown option 'pasword'"),
            ("postgre://fan:geheim@host/fan", "postgres:"),
            ("postgres:fan:geheim@host/fan", "postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
            ("postgres://fan:ge%ZZheim@host/fan", "percent"),
            ("postgres://fan:geheim@[host/fan", place),
            ("postgres://fan:geheim@host:port/fan", place),
            # A password with a mark that is not escaped, or without its end: no part of it is told.
            ("postgres://fan:ge@heim@127.0.0.1/fan", place),
            ("postgres://fan:heim/ge@127.0.0.1/fan", place),
            ("postgres://fan:heim?ge@127.0.0.1/fan", place),
            ("postgres://fan:geheim127.0.0.1:5432/fan", "fan:***/fan: expected " + place)):
        check_refused(uri, word, secret="heim")


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
    """It is killed, and then in recovery for as long as publishers wait."""
    with Daemon(SERVER.uri("schema=death&timeout_ms=1000")) as daemon:
        daemon.publish({"type": "a.b.create", "id": "before"})
        with daemon.stream() as stream:
            assert stream.frame().retry
            SERVER.tell("recover")
            body = json.dumps({"type": "a.b.create", "id": "while"})
            answer = daemon.ask("POST", "/v1/events", body, Content_Type="application/json")
            assert answer.status in (503, 504), (answer.status, answer.body)
            SERVER.tell("recovered")
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
