"""How fanfared starts, stops, dies, and says what is wrong."""

import json
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from client import PATIENCE_S  # noqa: E402
from daemon import PROGRAM, Daemon, folder, request, run, together  # noqa: E402

LINES = "application/x-ndjson"
SOAK = os.environ.get("FANFARE_SOAK", "") not in ("", "0")


def check_sentence(done, code, *words):
    """One sentence on standard error that holds the words, nothing else, and the code."""
    assert done.returncode == code, done
    assert done.stdout == "", done.stdout
    assert done.stderr.startswith("fanfared: ") and done.stderr.endswith(".\n"), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr, (word, done.stderr)


def test_help_and_version():
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    for flag in ("--listen", "--store", "--loops", "--config", "--help", "--version"):
        assert flag in done.stdout
    done = run("--version")
    assert done.returncode == 0 and done.stdout.startswith("fanfared ")


def test_bad_flags_exit_with_2_and_name_it():
    for arguments, word in (
            (["--colour"], "--colour"), (["-x"], "-x"), (["nonsense"], "nonsense"),
            (["--listen"], "--listen"), (["--loops", "0"], "--loops"),
            (["--loops", "many"], "many"), (["--loops", "-1"], "--loops"),
            (["--keep-alive", "1.5"], "--keep-alive"), (["--connections", ""], "--connections"),
            (["--config", "/nowhere/x"], "/nowhere/x"), (["--grpc-listen", "x"], "--grpc-listen"),
            (["--store", "memory:", "--listen", "8080"], "8080"),
            (["--store", "memory:", "--listen", "127.0.0.1:99999"], "99999"),
            (["--store", "memory:", "--listen", "nowhere.invalid:1"], "nowhere.invalid")):
        check_sentence(run(*arguments), 2, word)


def test_P07_a_store_that_cannot_be_is_named_and_exits_with_1():
    for store, word in (("oracle:x", "oracle"), ("memory:?colour=1", "colour")):
        check_sentence(run("--store", store), 1, word)


def test_only_loopback_until_there_is_access_control():
    for address in ("0.0.0.0:0", "[::]:0", "192.0.2.1:0"):
        check_sentence(run("--store", "memory:", "--listen", address), 2, "--listen", address,
                       "loopback")


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        check_sentence(run("--store", "memory:", "--listen", address), 1, address, "in use")
    with Daemon() as daemon:
        address = f"127.0.0.1:{daemon.address[1]}"
        check_sentence(run("--store", "memory:", "--listen", address), 1, address, "in use")


def start_on(path):
    return run("--listen", "127.0.0.1:0", "--store", f"sqlite:{path}")


def test_P07_a_file_that_is_no_log_is_refused_and_left_alone():
    with folder() as place:
        path = Path(place, "log.db")
        content = b"this is no database, but it is long enough to look at" * 100
        path.write_bytes(content)
        check_sentence(start_on(path), 1, str(path))
        assert path.read_bytes() == content
        path.unlink()
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE recipes (name TEXT)")
        other.close()
        check_sentence(start_on(path), 1, str(path))
        check_sentence(start_on(place), 1, place)
        check_sentence(start_on(f"{place}/missing/log.db"), 1, "--store", "missing")


def test_P24_a_log_of_a_newer_version_is_refused():
    with folder() as place:
        path = Path(place, "log.db")
        with Daemon(f"sqlite:{path}") as daemon:
            daemon.publish({"type": "a"})
        with sqlite3.connect(path) as log:
            version = log.execute("PRAGMA user_version").fetchone()[0]
            log.execute(f"PRAGMA user_version = {version + 1}")
        log.close()
        check_sentence(start_on(path), 1, str(path), str(version + 1))


def test_a_read_only_folder_is_named():
    with folder() as place, folder() as other:
        os.chmod(place, 0o555)
        program, options = PROGRAM, {}
        if os.geteuid() == 0:
            # Root may write anywhere; somebody else must be able to read the program.
            os.chmod(other, 0o755)
            program = shutil.copy(PROGRAM, other)
            options = {"user": 65534, "group": 65534, "extra_groups": []}
        try:
            done = subprocess.run([program, "--listen", "127.0.0.1:0", "--store",
                                   f"sqlite:{place}/log.db"], capture_output=True, text=True,
                                  timeout=60, check=False, **options)
            check_sentence(done, 1, place)
        finally:
            os.chmod(place, 0o755)


def test_it_says_where_it_listens_and_stops_on_both_signals():
    for number in (signal.SIGTERM, signal.SIGINT):
        with folder() as place, Daemon(f"sqlite:{place}/log.db") as daemon:
            assert daemon.store == f"sqlite:{place}/log.db"
            assert daemon.stop(number) == ""


def test_R03_no_thread_takes_a_signal_and_descriptors_are_raised():
    with Daemon() as daemon:
        daemon.get("/v1/events")  # now the threads for reads are there
        threads = list(Path(f"/proc/{daemon.process.pid}/task").iterdir())
        assert len(threads) > 6
        for thread in threads:
            # The first one waits for them, and the kernel shows that as unblocked.
            if thread.name == str(daemon.process.pid):
                continue
            status = (thread / "status").read_text(encoding="ascii")
            blocked = int(status.split("SigBlk:\t")[1].split()[0], 16)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
                assert blocked >> (number - 1) & 1, (thread.name, number)
        limits = Path(f"/proc/{daemon.process.pid}/limits").read_text(encoding="ascii")
        soft, hard = limits.split("Max open files")[1].split()[:2]
        assert soft == hard == str(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def test_a_stop_finishes_what_was_begun():
    with folder() as place:
        uri = f"sqlite:{place}/log.db"
        count = 20_000
        body = "\n".join(['{"type": "a", "payload": "%s"}' % ("x" * 200)] * count)
        with Daemon(uri) as daemon:
            client = daemon.connect()
            head = f"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: {LINES}\r\n"
            client.send(f"{head}Prefer: return=minimal\r\nContent-Length: {len(body)}\r\n\r\n")
            client.send(body[:len(body) // 2])
            # Some of it is in the log: the request is under way.
            daemon.until(lambda now: now["broker"]["published"] > 0)
            stopping = threading.Thread(target=daemon.stop)
            stopping.start()
            client.send(body[len(body) // 2:])
            answer = json.loads(client.response().body)
            assert answer["stored"] == count and answer["refused"] == 0, answer
            stopping.join()
        with Daemon(uri) as daemon:
            assert daemon.get("/v1/stats")["store"]["events"] == count


def test_L06_L09_what_was_acknowledged_survives_a_kill():
    rng = random.Random(3)
    with folder() as place:
        uri = f"sqlite:{place}/log.db"
        attempted, acknowledged = set(), {}
        lock = threading.Lock()

        def publish(daemon, number, life):
            try:
                with daemon.connect() as client:
                    for step in range(100_000):
                        name = f"{life}-{number}-{step}"
                        with lock:
                            attempted.add(name)
                        response = request(client, "POST", "/v1/events",
                                           json.dumps({"type": "a", "id": name, "payload": name}),
                                           Content_Type="application/json")
                        assert response.status == 201, response.body
                        with lock:
                            acknowledged[name] = json.loads(response.body)["seq"]
            except (AssertionError, OSError):
                # The server is dead; the ledger tells what counts.
                assert daemon.process.poll() is not None or killed.is_set()

        for life in range(50 if SOAK else 5):
            with Daemon(uri) as daemon:
                killed = threading.Event()
                enough = len(acknowledged) + rng.randrange(1, 400)

                def kill():
                    while len(acknowledged) < enough:
                        daemon.get("/v1/stats")
                    killed.set()
                    daemon.kill()

                together(kill, *[lambda n=n: publish(daemon, n, life) for n in range(16)])
        with Daemon(uri) as daemon, daemon.stream(after=0) as stream:
            total = daemon.get("/v1/stats")["store"]["events"]
            frames = stream.take(total)
        stored = {frame.json()["id"]: frame.seq for frame in frames}
        assert len(stored) == total
        assert [frame.seq for frame in frames] == sorted(stored.values())
        assert all(stored.get(name) == seq for name, seq in acknowledged.items())
        assert set(stored) <= attempted
        assert all(frame.json()["payload"] == frame.json()["id"] for frame in frames)
        log = sqlite3.connect(f"{place}/log.db")
        assert log.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        log.close()


def test_R01_a_full_disk_refuses_appends_serves_reads_and_recovers():
    with folder() as place:
        script = (f"mount -t tmpfs -o size=8m none {place} && "
                  f"head -c 5000000 /dev/zero > {place}/ballast && exec \"$@\"")
        probe = subprocess.run(["unshare", "-m", "sh", "-c", f"mount -t tmpfs none {place}"],
                               capture_output=True, check=False)
        if probe.returncode:
            raise tap.Skip("no file system can be mounted")
        daemon = Daemon(f"sqlite:{place}/log.db",
                        prefix=["unshare", "-m", "sh", "-c", script, "sh"])
        with daemon, daemon.stream(after=0) as stream:
            stored = 0
            payload = "x" * 50_000
            while True:
                response = daemon.ask("POST", "/v1/events",
                                      json.dumps({"type": "a", "payload": payload}),
                                      Content_Type="application/json")
                if response.status != 201:
                    break
                stored += 1
                assert stored < 200
            assert response.status == 507, response.body
            problem = response.problem()
            assert problem["detail"], problem
            assert stored > 5
            assert len(stream.take(stored)) == stored
            assert daemon.get("/v1/events?limit=1")["events"][0]["payload"] == payload
            lines = daemon.publish('{"type": "a", "payload": "%s"}\n{"type' % payload, LINES)
            assert lines["refused"] == 2, lines
            assert "full" in lines["results"][0]["error"]["reason"], lines
            os.unlink(f"/proc/{daemon.process.pid}/root{place}/ballast")
            assert daemon.publish({"type": "b"}, status=201)["seq"] > stored
            assert next(stream).event == "b"
            daemon.stop()


def test_R01_a_log_that_another_locks_is_told_and_recovers():
    with folder() as place, Daemon(f"sqlite:{place}/log.db", loops=1) as daemon:
        other = sqlite3.connect(f"{place}/log.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        body = json.dumps({"type": "a", "payload": "x" * 4000})
        with daemon.connect() as first:
            first.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\n"
                       "Content-Type: application/json\r\n"
                       f"Content-Length: {len(body)}\r\n\r\n{body}")
            daemon.until(lambda stats: stats["http"]["bytes_received"] > len(body))
            # The second one waits for the first one's turn, and then for its own.
            second = daemon.ask("POST", "/v1/events", body, Content_Type="application/json")
            for response in (first.response(), second):
                assert response.status == 503 and response.fields["retry-after"], response.body
        # Two waits of 4 s for the lock, and room for a machine that is busy.
        assert time.monotonic() - started < 16
        other.execute("ROLLBACK")
        other.close()
        assert daemon.publish({"type": "b"}, status=201)["seq"] == 1


def test_L06_a_stop_tells_that_the_log_refused_what_was_accepted():
    with folder() as place:
        daemon = Daemon(f"sqlite:{place}/log.db", loops=1)
        other = sqlite3.connect(f"{place}/log.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        client = daemon.connect()
        body = json.dumps({"type": "a", "payload": "x" * 4000})
        client.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\n"
                    "Content-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n{body}")
        daemon.until(lambda stats: stats["http"]["bytes_received"] > len(body))
        # A reset, so that there is nobody left to be told.
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        daemon.process.send_signal(signal.SIGTERM)
        _, errors = daemon.process.communicate(timeout=PATIENCE_S)
        other.execute("ROLLBACK")
        count = other.execute("SELECT count(*) FROM events").fetchone()[0]
        other.close()
        assert (count, daemon.process.returncode) == (0, 1), (count, daemon.process.returncode)
        assert "could not be written" in errors, errors


if __name__ == "__main__":
    tap.run(globals())
