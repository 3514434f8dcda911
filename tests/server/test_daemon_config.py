"""fanfared's settings: from where they come, what is said of bad ones, and reading them again."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from client import PATIENCE_S  # noqa: E402
from daemon import PROGRAM, SAYS, Daemon, folder, run  # noqa: E402

SECRET = "hunter2"
EMPTY = {name: value for name, value in os.environ.items() if not name.startswith("FANFARE_")}


def write(place, text, name="fanfare.yaml"):
    path = Path(place, name)
    path.write_text(text, encoding="utf-8")
    return str(path)


def check(path, *arguments, **variables):
    """Gives the settings that --check-config prints: key -> (value, source)."""
    done = run("--check-config", "--config", path, *arguments, env={**EMPTY, **variables})
    assert done.returncode == 0, done
    assert all("no effect here: " in line for line in done.stderr.splitlines()), done
    lines = done.stdout.splitlines()
    assert lines[0] == "ok"
    pairs = [re.fullmatch(r"([a-z_.]+): (.*)  # (.*)", line).groups() for line in lines[1:]]
    return {key: (value, source) for key, value, source in pairs}


class Started:
    """fanfared on a configuration file; collects what it says."""

    def __init__(self, *arguments, cwd=None, **variables):
        self.process = subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, cwd=cwd,
                                        env={**EMPTY, **variables})
        self.said = self.process.stdout.readline()
        match = SAYS.fullmatch(self.said)
        assert match, (self.said, self.process.communicate())
        self.address = (match[1], int(match[2]))
        self.store = match[3]

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def reload(self):
        """Asks it to read its settings again; gives the line that it prints when it did."""
        self.process.send_signal(signal.SIGHUP)
        return self.process.stdout.readline()

    def refused(self):
        """The same with bad settings; gives what it says on standard error."""
        self.process.send_signal(signal.SIGHUP)
        lines = []
        while not lines or "stay as they were" not in lines[-1]:
            lines.append(self.process.stderr.readline())
        return "".join(lines)

    def stop(self):
        self.process.terminate()
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, errors
        return errors


def test_H15_the_last_of_file_environment_and_flags_wins():
    with folder() as place:
        path = write(place, "server:\n  loops: 1\n  connections: 11\n  keep_alive: 1s\n")
        found = check(path, "--keep-alive", "3", FANFARE_SERVER_CONNECTIONS="22",
                      FANFARE_SERVER_KEEP_ALIVE="2s")
        assert found["server.loops"] == ("1", f"{path}:2:10")
        assert found["server.connections"] == ("22", "FANFARE_SERVER_CONNECTIONS")
        assert found["server.keep_alive"] == ("3", "--keep-alive")
        assert found["server.listen"] == ("127.0.0.1:8080", "default")
        done = run("--check-config", env={**EMPTY, "FANFARE_CONFIG": path})
        assert f"server.loops: 1  # {path}:2:10\n" in done.stdout, done


def test_H15_every_flag_of_the_help_is_taken():
    help_text = run("--help").stdout
    flags = re.findall(r"^  --([a-z-]+) \S", help_text, re.M)
    assert len(flags) > 35, flags
    keys = run("--check-config", env=EMPTY).stdout.splitlines()[1:]
    assert len(keys) == len(flags) - 1  # all but --config
    for flag in flags:
        done = run(f"--{flag}", env=EMPTY)
        assert done.returncode == 2 and "needs a value" in done.stderr, (flag, done)


def test_H15_secrets_are_not_shown():
    with folder() as place:
        path = write(place, "event_broker:\n"
                            f"  redis: {{password: {SECRET}}}\n"
                            f"  nats: {{url: 'nats://u:{SECRET}@h:4222'}}\n"
                            f"  database: {{uri: 'postgres://u:{SECRET}@h/d'}}\n")
        found = check(path)
        assert found["event_broker.redis.password"][0] == "***"
        assert found["event_broker.nats.url"][0] == "nats://u:***@h:4222"
        assert SECRET not in str(found)
        done = run("--config", path, "--provider", "redis", env=EMPTY)
        assert done.returncode == 1 and SECRET not in done.stderr, done


def test_H15_bad_settings_exit_with_2_name_their_place_and_start_nothing():
    with folder() as place:
        log = Path(place, "log.db")
        head = f"server:\n  store: 'sqlite:{log}'\n  listen: 127.0.0.1:0\n"
        for text, words in (
                ("event_broker:\n  worker_cuont: 3\n", ":5:3: event_broker.worker_cuont: no such "
                 "key; the nearest is event_broker.worker_count."),
                ("event_broker:\n  worker_count: [3]\n", ":5:17: event_broker.worker_count: "
                 "expected a number from 1 to 1000, not a list."),
                ("  loops: 1\n  loops: 2\n", ":5:3: server.loops: stands twice, first on line 4."),
                ("event_broker:\n  instance_id: ${NO_SUCH_THING}\n", ":5:16: "
                 "event_broker.instance_id: expected the environment to set NO_SUCH_THING, which "
                 "it does not."),
                ("  keep_alive: soon\n", ":4:15: server.keep_alive: expected a duration from 1s to "
                 "1h, such as 250ms, 30s, 5m, 1h30m or 7d, not \"soon\".")):
            path = write(place, head + text)
            for arguments in ([], ["--check-config"]):
                done = run("--config", path, *arguments, env=EMPTY)
                assert done.returncode == 2 and done.stdout == "", done
                assert done.stderr == f"fanfared: {path}{words}\n", done.stderr
                assert not log.exists()
        for path, words in ((f"{place}/none.yaml", "No such file"), (place, "is a directory")):
            done = run("--config", path, env=EMPTY)
            assert done.returncode == 2 and words in done.stderr, done


def test_H15_all_mistakes_are_told_at_once():
    with folder() as place:
        path = write(place, "server:\n" + "".join(f"  x{n}: 1\n" for n in range(12)))
        done = run("--config", path, env=EMPTY)
        lines = done.stderr.splitlines()
        assert done.returncode == 2 and len(lines) == 11, done
        assert lines[10] == "fanfared: and 2 more mistakes."


def test_H19_the_seeds_yaml_loads_and_store_wins_over_it():
    with folder() as place:
        path = write(place, """
event_broker:
  enabled: true
  provider: redis
  mode: async
  worker_count: 10
  buffer_size: 1000
  instance_id: "${HOSTNAME}"
  redis:
    stream_name: "shop:events"
    consumer_group: "shop-workers"
    host: "localhost"
    port: 6379
""")
        found = check(path)
        assert found["server.store"] == ("redis://localhost:6379/0?stream=shop:events&"
                                         "group=shop-workers", "event_broker.provider")
        assert check(path, "--store", "memory:")["server.store"] == ("memory:", "--store")
        assert found["event_broker.instance_id"][0] == os.environ.get("HOSTNAME",
                                                                      socket.gethostname())
        # There is no such provider in this build: told when it is opened, with its place.
        done = run("--config", path, "--listen", "127.0.0.1:0", env=EMPTY)
        assert done.returncode == 1, done
        assert f"{path}:4:13: event_broker.provider: redis://localhost:6379/0" in done.stderr, done
        # What is given and changes nothing is told, by a start and by a look at the settings.
        idle = "has no effect here: it is for a broker with handlers, and fanfared runs none."
        other = "has no effect here: the log is what server.store says."
        words = (f"fanfared: {path}:4:13: event_broker.provider {other}\n"
                 f"fanfared: {path}:5:9: event_broker.mode {idle}\n"
                 f"fanfared: {path}:6:17: event_broker.worker_count {idle}\n"
                 f"fanfared: {path}:7:16: event_broker.buffer_size {idle}\n"
                 f"fanfared: {path}:12:11: event_broker.redis.host {other}\n"
                 f"fanfared: {path}:13:11: event_broker.redis.port {other}\n"
                 f"fanfared: {path}:10:18: event_broker.redis.stream_name {other}\n"
                 f"fanfared: {path}:11:21: event_broker.redis.consumer_group {other}\n")
        done = run("--check-config", "--config", path, "--store", "memory:", env=EMPTY)
        assert done.returncode == 0 and done.stderr == words, done
        with Started("--config", path, "--listen", "127.0.0.1:0", "--store", "memory:") as daemon:
            assert daemon.store == "memory:"
            assert daemon.stop() == words


def test_H19_which_log():
    with folder() as place:
        listen = "server: {listen: '127.0.0.1:0'}\n"
        database = f"database: {{uri: 'sqlite:{place}/own.db'}}"
        for text, store in (
                ("", "sqlite:fanfare.db"),
                ("event_broker: {enabled: true}\n", "memory:"),
                ("event_broker: {provider: memory}\n", "memory:"),
                (f"event_broker: {{provider: database, {database}}}\n", f"sqlite:{place}/own.db"),
                (f"event_broker: {{{database}}}\n", "sqlite:fanfare.db")):
            path = write(place, listen + text)
            assert check(path)["server.store"][0] == store
            with Started("--config", path, cwd=place) as daemon:
                assert daemon.store == store, text
                said = daemon.stop()
                idle = "event_broker.database.uri has no effect here" in said
                assert idle == (database in text and "provider" not in text), (text, said)
                assert said.count("\n") == idle, said
        path = write(place, listen + "event_broker: {enabled: false}\n")
        with Started("--config", path, cwd=place) as daemon:
            assert daemon.store == "sqlite:fanfare.db"
            assert f"{path}:2:25: event_broker.enabled is false" in daemon.stop()
        path = write(place, "event_broker: {provider: database}\n")
        done = run("--check-config", "--config", path, env=EMPTY)
        assert done.returncode == 2 and "event_broker.database.uri" in done.stderr, done


def connect(daemon):
    client = socket.create_connection(daemon.address, timeout=PATIENCE_S)
    client.sendall(b"GET /v1/stats HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = client.recv(4096)
    return client, answer.split(b"\r\n")[0]


def test_H15_sighup_changes_what_can_change():
    with folder() as place:
        text = ("server:\n  listen: 127.0.0.1:0\n  store: 'memory:'\n  loops: 1\n"
                "  connections: {}\n  keep_alive: {}\n")
        path = write(place, text.format(100, "1h"))
        with Started("--config", path) as daemon:
            stream = socket.create_connection(daemon.address, timeout=PATIENCE_S)
            stream.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" in stream.recv(4096)
            first, status = connect(daemon)
            assert b"200" in status
            write(place, text.format(2, "1s"))
            said = daemon.reload()
            assert said == ("fanfared has read its settings again: server.connections is 2, "
                            "server.keep_alive is 1s.\n"), said
            # The stream that was there is kept alive as it is now, and no third one is let in.
            heard = b""
            while b"\n:" not in heard:
                heard += stream.recv(4096)
            second, status = connect(daemon)
            assert b"503" in status, status
            assert daemon.reload() == ("fanfared has read its settings again: nothing has "
                                       "changed.\n")
            for client in (stream, first, second):
                client.close()
            assert daemon.stop() == ""


def test_H15_sighup_names_and_keeps_what_cannot_change():
    with folder() as place:
        text = "server:\n  listen: 127.0.0.1:0\n  store: 'memory:'\n  loops: {}\n"
        path = write(place, text.format(1))
        with Started("--config", path) as daemon:
            write(place, text.format(2))
            for _ in range(2):
                assert "nothing has changed" in daemon.reload()
            connect(daemon)[0].close()
            errors = daemon.stop()
        warning = (f"fanfared: {path}:4:10: server.loops cannot change while it runs, and stays 1 "
                   "until it is started again.\n")
        assert errors == warning * 2, errors


def test_H15_a_bad_file_at_sighup_changes_nothing():
    with folder() as place:
        text = "server:\n  listen: 127.0.0.1:0\n  store: 'memory:'\n  keep_alive: {}\n"
        path = write(place, text.format("1h"))
        with Started("--config", path) as daemon:
            write(place, text.format("1s") + "  colour: red\n")
            errors = daemon.refused()
            assert f"{path}:5:3: server.colour: no such key" in errors, errors
            os.unlink(path)
            assert "No such file" in daemon.refused()
            connect(daemon)[0].close()
            # Had any of it been taken, this would be no change.
            write(place, text.format("1s"))
            assert daemon.reload().endswith("server.keep_alive is 1s.\n")
            daemon.stop()


def test_H15_reloads_do_not_disturb_publishers():
    with folder() as place:
        text = "server:\n  listen: 127.0.0.1:0\n  store: 'memory:'\n  keep_alive: {}s\n"
        path = write(place, text.format(1))
        with Started("--config", path) as daemon:
            stopped = threading.Event()
            wrong = []

            def publish():
                while not stopped.is_set():
                    client = socket.create_connection(daemon.address, timeout=PATIENCE_S)
                    body = b'{"type": "a"}'
                    client.sendall(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                                   b"application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                                   + body)
                    if b"201" not in client.recv(4096):
                        wrong.append("refused")
                    client.close()

            publisher = threading.Thread(target=publish)
            publisher.start()
            for n in range(2, 30):
                write(place, text.format(n))
                assert daemon.reload().endswith(f"server.keep_alive is {n}s.\n")
            stopped.set()
            publisher.join()
            assert not wrong
            assert daemon.stop() == ""


def test_P11_H15_retention_is_a_setting_and_changes_on_sighup():
    with folder() as place:
        text = ("server:\n  listen: 127.0.0.1:0\n  store: 'memory:'\nevent_broker:\n  retention:\n"
                "    interval: 100ms\n{}")
        path = write(place, text.format(""))
        with Started("--config", path) as started:
            daemon = Daemon.__new__(Daemon)
            daemon.address = started.address
            lines = "\n".join(['{"type": "a"}'] * 100)
            daemon.publish(lines, "application/x-ndjson")
            write(place, text.format("    count: 7\n"))
            assert started.reload().endswith("event_broker.retention.count is 7.\n")
            daemon.until(lambda now: now["store"]["events"] == 7)
            write(place, text.format(""))
            assert started.reload().endswith("event_broker.retention.count is no bound.\n")
            daemon.publish(lines, "application/x-ndjson")
            assert daemon.get("/v1/stats")["store"]["events"] == 107
            assert started.stop() == ""
        # And from the start, by a flag.
        with Daemon("memory:", "--retention-count", "3", "--retention-interval", "100ms") as daemon:
            daemon.publish(lines, "application/x-ndjson")
            daemon.until(lambda now: now["store"]["events"] == 3)


def test_the_service_manager_is_told():
    with folder() as place:
        path = write(place, "server:\n  listen: 127.0.0.1:0\n  store: 'memory:'\n")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(PATIENCE_S)
            manager.bind(f"{place}/notify")
            with Started("--config", path, NOTIFY_SOCKET=f"{place}/notify") as daemon:
                assert manager.recv(4096) == b"READY=1"
                daemon.reload()
                assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", manager.recv(4096))
                assert manager.recv(4096) == b"READY=1"
                daemon.stop()
                assert manager.recv(4096) == b"STOPPING=1"


def test_the_log_level_is_a_setting():
    with folder() as place:
        for level in ("debug", "info", "warning", "error"):
            assert check(write(place, f"server: {{log_level: {level}}}\n"))["server.log_level"][0] \
                == level
        done = run("--log-level", "loud", env=EMPTY)
        assert done.returncode == 2 and "one of debug, info, warning, error" in done.stderr, done


def test_a_configured_instance_stamps_its_events():
    with Daemon("memory:", "--instance-id", "box-7") as daemon:
        made = daemon.publish({"type": "a"})
        assert daemon.get(f"/v1/events/{made['id']}")["instance_id"] == "box-7", json.dumps(made)


if __name__ == "__main__":
    tap.run(globals())
