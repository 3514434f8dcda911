"""fanfare run, dead and groups, against fanfared: the shell user's worker and what it leaves."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "server")]
sys.dont_write_bytecode = True

import tap  # noqa: E402

import fake  # noqa: E402
from daemon import Daemon, folder  # noqa: E402
from fake import answer_json, cut, expect  # noqa: E402

LINES = "application/x-ndjson"
# A line in the ledger for each command that was run. It is written in one piece.
NOTE = 'echo "$FANFARE_ID $FANFARE_ATTEMPT $FANFARE_LAPSES" >> "$LEDGER"'


def url_of(daemon):
    return f"http://{daemon.address[0]}:{daemon.address[1]}"


def run(daemon, *arguments, **more):
    return fake.run(url_of(daemon), *arguments, **more)


def publish(daemon, count, first=1, type_="a.b", **more):
    daemon.publish("\n".join(json.dumps({"type": type_, "id": f"e{n}", "payload": n, **more})
                             for n in range(first, first + count)), LINES)


def delivery(daemon, id_):
    (one,) = daemon.get(f"/v1/events/{id_}")["deliveries"]
    return one


def group_of(daemon, name="g"):
    return next(group for group in daemon.get("/v1/groups")["groups"] if group["group"] == name)


def until(condition):
    deadline = time.monotonic() + fake.TIMEOUT_S
    while not (answer := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)  # tidy: a file or a process is looked at, and wakes nobody
    return answer


def end_left_behind(worker):
    """Ends the commands that a killed member leaves running."""
    for status in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"FANFARE_TEST_WORKER={id(worker)}".encode() in status.read_bytes():
                os.kill(int(status.parent.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            pass


class Worker:
    """A fanfare run that goes on until it is stopped; `said` is its standard error."""

    def __init__(self, daemon, *arguments, group="g", type_="a.>", command="true", env=None):
        self.process = fake.start(url_of(daemon), "run", "--type", type_, "--group", group,
                                  "--from-start", *arguments, "--", "sh", "-c", command,
                                  env={**(env or {}), "FANFARE_TEST_WORKER": str(id(self))})
        self.said = ""
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        until(lambda: "waiting for events" in self.said)

    def read(self):
        for line in self.process.stderr:
            self.said += line.decode()

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        code = self.process.wait(timeout=fake.TIMEOUT_S)
        self.reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        assert "AddressSanitizer" not in self.said and "runtime error" not in self.said, self.said
        return code

    def stop(self):
        self.signal(signal.SIGTERM)
        assert self.wait() == 0, self.said
        return self.said

    def kill(self):
        self.signal(signal.SIGKILL)
        end_left_behind(self)
        self.wait()


class Ledger:
    def __init__(self, place):
        self.path = Path(place) / "ledger"
        self.env = {"LEDGER": str(self.path)}

    def rows(self):
        text = self.path.read_text() if self.path.exists() else ""
        return [tuple(line.split()) for line in text.splitlines()]


# ---- Verdicts ----

def test_H05_the_exit_code_is_the_verdict():
    with Daemon() as daemon:
        publish(daemon, 1, 1, type_="a.good")
        publish(daemon, 1, 2, type_="a.bad")
        publish(daemon, 1, 3, type_="a.later")
        publish(daemon, 1, 4, type_="a.killed")
        command = ('echo first >&2; echo "  $FANFARE_TYPE sagt: ä" >&2; printf "\\n\\n" >&2;'
                   'case $FANFARE_TYPE in a.good) exit 0;; a.bad) exit 65;; a.later) exit 75;;'
                   '*) kill -USR1 $$;; esac')
        done = run(daemon, "run", "--type", "a.*", "--group", "g", "--from-start", "--count", "6",
                   "--retries", "1", "--delay", "10ms", "--", "sh", "-c", command)
        expect(done, 0, "1 done, 2 to be retried, 3 dead, 0 handed back", "a.good sagt: ä")
        good, bad, later, killed = (delivery(daemon, f"e{n}") for n in range(1, 5))
        assert (good["status"], good["attempts"], good["error"]) == ("completed", 1, "")
        assert (bad["status"], bad["attempts"], bad["reason"]) == ("failed", 1, "failed")
        assert (later["attempts"], later["reason"], later["error"]) == (
            2, "retries", "  a.later sagt: ä")
        assert (killed["attempts"], killed["reason"]) == (2, "retries")


def test_H05_without_words_the_end_itself_is_the_error():
    with Daemon() as daemon:
        publish(daemon, 3)
        for number, (command, error) in enumerate((("exit 7", "exit code 7"),
                                                   ("kill -KILL $$", "signal 9 (Killed)"),
                                                   ("printf 'x\\377y\\033[1m' >&2; exit 65",
                                                    "x?y?[1m")), 1):
            expect(run(daemon, "run", "--type", "a.b", "--group", "g", "--from-start", "--once",
                       "--retries", "0", "--", "sh", "-c", command), 0, "1 dead")
            assert delivery(daemon, f"e{number}")["error"] == error
        publish(daemon, 1, 4)
        expect(run(daemon, "run", "--type", "a.b", "--group", "g", "--once", "--", "sh", "-c",
                   "yes ä | tr -d '\\n' | head -c 5001 >&2; exit 65"), 0)
        error = delivery(daemon, "e4")["error"]
        assert error == "ä" * (len(error)) and 990 <= len(error.encode()) <= 1000, error


def test_P01_a_command_is_given_the_event_and_its_names():
    payload = '{"a" : 1.50,\n "b":[1E5, "\\u00e9é"], "big": 123456789012345678901}'
    with Daemon() as daemon, folder() as place:
        daemon.publish(f'{{"type":"a.b","id":"one","topic":"t x","payload":{payload}}}')
        command = f'cat > "{place}/event"; env > "{place}/env"; ls -l /proc/self/fd > "{place}/fd"'
        expect(run(daemon, "run", "--type", "a.b", "--group", "g ä", "--from-start", "--once", "--",
                   "sh", "-c", command, env={"FANFARE_ID": "of another", "KEPT": "1"}), 0)
        text = (Path(place) / "event").read_text()
        assert text.count("\n") == 1 and text.endswith("\n")
        assert payload.replace("\n", " ") in text
        assert json.loads(text)["id"] == "one" and json.loads(text)["seq"] == 1
        lines = (Path(place) / "env").read_text().splitlines()
        names = dict(line.split("=", 1) for line in lines if line.startswith("FANFARE_"))
        del names["FANFARE_CLI"]
        assert {name: value for name, value in names.items() if name in (
            "FANFARE_ID", "FANFARE_SEQ", "FANFARE_TYPE", "FANFARE_TOPIC", "FANFARE_GROUP",
            "FANFARE_ATTEMPT", "FANFARE_LAPSES")} == {
            "FANFARE_ID": "one", "FANFARE_SEQ": "1", "FANFARE_TYPE": "a.b", "FANFARE_TOPIC": "t x",
            "FANFARE_GROUP": "g ä", "FANFARE_ATTEMPT": "1", "FANFARE_LAPSES": "0"}
        assert "KEPT=1" in lines and len([x for x in lines if x.startswith("FANFARE_ID=")]) == 1


def status_fields(text):
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_R03_a_command_inherits_no_descriptor_and_no_signal():
    with Daemon() as daemon, folder() as place:
        publish(daemon, 1)
        command = f'cat /proc/self/status > "{place}/status"; ls /proc/$$/fd > "{place}/fd"'
        expect(run(daemon, "run", "--type", "a.b", "--from-start", "--once", "--", "sh", "-c",
                   command), 0)
        fields = status_fields((Path(place) / "status").read_text())
        # What this test was itself started to ignore, as a shell's `&` does, is nobody's mistake.
        own = status_fields(subprocess.run(["cat", "/proc/self/status"], capture_output=True,
                                           text=True, check=True).stdout)
        # 32 and 33 are libc's own, which its posix_spawn leaves ignored.
        assert int(fields["SigBlk"], 16) == 0, fields
        assert int(fields["SigIgn"], 16) & ~int(own["SigIgn"], 16) & 0x7fffffff == 0, fields
        # The shell itself holds what it reads from, and may keep one for its redirections.
        assert {"0", "1", "2"} <= set((Path(place) / "fd").read_text().split()) <= {
            "0", "1", "2", "3", "10", "255"}


def test_R03_a_command_need_not_read_and_may_read_much():
    with Daemon() as daemon:
        big = "x" * 1000000
        for number in (1, 2):
            daemon.publish({"type": "a.b", "id": f"e{number}", "payload": big})
        done = run(daemon, "run", "--type", "a.b", "--group", "g", "--from-start", "--count", "2",
                   "--", "sh", "-c", 'test $FANFARE_ID = e1 || wc -c')
        expect(done, 0, "2 done")
        assert int(done.out) > 1000000


def test_H03_the_pauses_between_attempts_double_up_to_a_bound():
    with Daemon() as daemon:
        publish(daemon, 1)
        daemon.ask("PUT", "/v1/groups/g", '{"start":"beginning"}', Content_Type="application/json")
        for attempt, wanted_s in ((1, 100), (2, 200), (3, 400), (4, 500), (5, 500)):
            expect(run(daemon, "run", "--type", "a.b", "--group", "g", "--once", "--retries", "9",
                       "--delay", "100", "--delay-max", "500s", "--", "false"), 0,
                   "1 to be retried")
            one = delivery(daemon, "e1")
            assert one["attempts"] == attempt and one["status"] == "pending"
            due, last = (time.mktime(time.strptime(one[name][:19], "%Y-%m-%dT%H:%M:%S"))
                         for name in ("due_at", "processed_at"))
            assert wanted_s * 0.75 - 1 <= due - last <= wanted_s + 30, (wanted_s, one)
            # It is made due: dead and redriven would start anew, so the attempts are made anew.
            make_due(daemon, attempt)


def make_due(daemon, attempts):
    """A fresh group whose only event has had so many attempts, each asking for a retry at once."""
    daemon.ask("DELETE", "/v1/groups/g")
    daemon.ask("PUT", "/v1/groups/g", '{"start":"beginning"}', Content_Type="application/json")
    for _ in range(attempts):
        answer = daemon.ask("POST", "/v1/groups/g/claim", '{"owner":"x"}',
                            Content_Type="application/json")
        (one,) = json.loads(answer.body)["claims"]
        body = {"items": [{"seq": one["seq"], "token": one["token"], "verdict": "retry"}]}
        daemon.ask("POST", "/v1/groups/g/settle", json.dumps(body),
                   Content_Type="application/json")


# ---- Time limits and leases ----

def test_H05_a_command_that_takes_too_long_is_killed_with_all_that_it_started():
    with Daemon() as daemon, folder() as place:
        publish(daemon, 1)
        command = f'sleep 1000 & echo $! > "{place}/pid"; echo waiting >&2; wait'
        done = run(daemon, "run", "--type", "a.b", "--group", "g", "--from-start", "--once",
                   "--timeout", "300ms", "--retries", "0", "--", "sh", "-c", command)
        expect(done, 0, "1 dead")
        one = delivery(daemon, "e1")
        assert one["error"] == "took longer than 300 ms: waiting", one
        pid = (Path(place) / "pid").read_text().strip()
        status = Path(f"/proc/{pid}/status")
        until(lambda: not status.exists() or "State:\tZ" in status.read_text())


def test_H05_who_takes_no_notice_of_sigterm_is_killed():
    with Daemon() as daemon:
        publish(daemon, 1)
        done = run(daemon, "run", "--type", "a.b", "--group", "g", "--from-start", "--once",
                   "--timeout", "100ms", "--", "sh", "-c",
                   "trap '' TERM; while true; do sleep 0.1; done")
        expect(done, 0, "1 to be retried")
        assert delivery(daemon, "e1")["error"].startswith("took longer than 100 ms")


def test_P09_the_lease_is_renewed_while_the_command_runs():
    with Daemon() as daemon, folder() as place:
        publish(daemon, 1)
        worker = Worker(daemon, "--lease", "1500ms", "--count", "1",
                        command=f'while ! test -e "{place}/go"; do sleep 0.05; done')
        until(lambda: group_of(daemon)["processing"] == 1)
        # Another one would be given it twice over, were it not renewed.
        answer = daemon.ask("POST", "/v1/groups/g/claim", '{"owner":"x","wait_ms":4000}',
                            Content_Type="application/json")
        assert json.loads(answer.body) == {"claims": []}
        (Path(place) / "go").touch()
        assert worker.wait() == 0
        one = delivery(daemon, "e1")
        assert (one["status"], one["attempts"], one["lapses"]) == ("completed", 1, 0)


# ---- Ends ----

def test_L08_a_killed_member_s_event_is_given_again_and_dead_after_the_third():
    with Daemon() as daemon, folder() as place:
        ledger = Ledger(place)
        publish(daemon, 1)
        for lapse in range(3):
            worker = Worker(daemon, "--lease", "300ms", env=ledger.env,
                            command=f"{NOTE}; sleep 1000")
            rows = until(lambda: len(ledger.rows()) > lapse and ledger.rows())
            assert rows[-1] == ("e1", str(lapse + 1), str(lapse)), rows
            worker.kill()
        worker = Worker(daemon, env=ledger.env, command=NOTE)
        (letter,) = daemon.until(lambda answer: answer["dead"], "/v1/dead")["dead"]
        assert (letter["reason"], letter["lapses"], letter["id"]) == ("lapses", 3, "e1")
        expect(run(daemon, "dead", "redrive", "e1", "--group", "g"), 0, "redriven 1")
        assert until(lambda: len(ledger.rows()) == 4 and ledger.rows())[-1] == ("e1", "1", "0")
        assert "1 done" in worker.stop()


def test_L08_what_two_members_were_lost_with_runs_alone():
    with Daemon() as daemon, folder() as place:
        ledger = Ledger(place)
        publish(daemon, 2)
        expect(run(daemon, "groups", "create", "g", "--from-start"), 0)
        for _ in range(2):
            answer = daemon.ask("POST", "/v1/groups/g/claim", json.dumps(
                {"owner": "x", "limit": 2, "lease_ms": 100, "wait_ms": 60000}),
                Content_Type="application/json")
            assert len(json.loads(answer.body)["claims"]) == 2
        publish(daemon, 20, first=3)
        worker = Worker(daemon, "--jobs", "4", env=ledger.env, command=(
            'echo "$FANFARE_ID begin" >> "$LEDGER"; sleep 0.05;'
            'echo "$FANFARE_ID end" >> "$LEDGER"'))
        until(lambda: group_of(daemon)["completed"] == 22)
        rows = ledger.rows()
        for id_ in ("e1", "e2"):
            at = rows.index((id_, "begin"))
            assert rows[at + 1] == (id_, "end"), rows
            assert {name for name, what in rows[:at] if what == "begin"} == {
                name for name, what in rows[:at] if what == "end"}, rows
            assert (delivery(daemon, id_)["attempts"], delivery(daemon, id_)["lapses"]) == (3, 2)
        assert all(delivery(daemon, f"e{n}")["attempts"] == 1 for n in range(3, 23))
        worker.stop()


def test_H05_a_lapse_uses_up_no_retry():
    with Daemon() as daemon:
        publish(daemon, 1)
        worker = Worker(daemon, "--lease", "300ms", command="sleep 1000")
        until(lambda: group_of(daemon)["processing"] == 1)
        worker.kill()
        done = run(daemon, "run", "--type", "a.>", "--group", "g", "--retries", "1", "--delay",
                   "10ms", "--count", "2", "--", "false")
        expect(done, 0, "1 to be retried, 1 dead")
        one = delivery(daemon, "e1")
        assert (one["attempts"], one["lapses"], one["reason"]) == (3, 1, "retries")


def test_H09_a_signal_lets_commands_finish_and_a_second_one_kills_them():
    with Daemon() as daemon, folder() as place:
        publish(daemon, 3)
        command = f'echo run >&2; while ! test -e "{place}/go"; do sleep 0.05; done'
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            worker = Worker(daemon, command=command)
            until(lambda: "run\n" in worker.said)
            worker.signal(number)
            until(lambda: "still running" in worker.said)
            if number != signal.SIGINT:
                (Path(place) / "go").touch()
                assert worker.wait() == 0
                assert "1 done, 0 to be retried, 0 dead, 0 handed back" in worker.said
                (Path(place) / "go").unlink()
                continue
            worker.signal(number)
            assert worker.wait() == 0
            assert "0 done, 0 to be retried, 0 dead, 1 handed back" in worker.said
        assert (delivery(daemon, "e1")["status"], delivery(daemon, "e1")["attempts"]) == (
            "completed", 1)
        assert (delivery(daemon, "e3")["status"], delivery(daemon, "e3")["attempts"]) == (
            "pending", 0)
        worker = Worker(daemon, "--jobs", "3")
        until(lambda: group_of(daemon)["completed"] == 3)
        assert "0 handed back" in worker.stop()


def test_L06_a_verdict_outlives_the_server_s_death():
    with folder() as place:
        ledger = Ledger(place)
        store = f"sqlite:{place}/log.db"
        daemon = Daemon(store)
        publish(daemon, 3)
        worker = Worker(daemon, "--jobs", "2", env=ledger.env,
                        command=f'{NOTE}; while ! test -e "{place}/go"; do sleep 0.05; done')
        until(lambda: len(ledger.rows()) == 2)
        daemon.kill()
        (Path(place) / "go").touch()
        until(lambda: "trying again until it answers" in worker.said)
        with Daemon(store, "--listen", f"{daemon.address[0]}:{daemon.address[1]}") as daemon:
            daemon.until(lambda answer: answer["groups"][0]["completed"] == 3, "/v1/groups")
            assert "answers again" in worker.said
            assert "3 done" in worker.stop()
            assert sorted(ledger.rows()) == [(f"e{n}", "1", "0") for n in (1, 2, 3)]


def test_L06_a_lost_answer_to_a_verdict_is_asked_for_again():
    claim = {"claims": [{"seq": 7, "token": "5", "attempt": 1, "lapses": 0,
                         "event": {"id": "x", "seq": 7, "type": "a"}}]}
    lost = {"results": [{"seq": 7, "status": "lost"}], "settled": 0, "lost": 1}
    with fake.Server(answer_json({"created": True}, 201), answer_json(claim), cut, cut,
                     answer_json(lost)) as server:
        done = fake.run(server, "run", "--type", "a", "--once", "--", "true")
        expect(done, 0, "trying again until it answers", "answers again", "1 done")
        verdicts = [json.loads(request.body) for request in server.requests
                    if "/settle" in request.target]
        assert len(verdicts) == 3 and verdicts[0] == verdicts[1] == verdicts[2], verdicts
        assert verdicts[0]["items"] == [{"seq": 7, "token": "5", "verdict": "done", "delay_ms": 0}]


def test_R05_what_failed_together_comes_again_apart():
    """Twenty events of a service that is down: their retries are spread, and in time."""
    claims = [{"seq": n, "token": str(n), "attempt": 1, "lapses": 0,
               "event": {"id": f"e{n}", "seq": n, "type": "a"}} for n in range(1, 21)]
    settled = answer_json({"results": [{"seq": n, "status": "ok"} for n in range(1, 21)],
                           "settled": 20, "lost": 0})
    with fake.Server(answer_json({"created": True}, 201), answer_json({"claims": claims}),
                     *[settled] * 20) as server:
        fake.run(server, "run", "--type", "a", "--count", "20", "--jobs", "20", "--delay", "100s",
                 "--delay-max", "100s", "--", "false")
        delays = [item["delay_ms"] for request in server.requests if "/settle" in request.target
                  for item in json.loads(request.body)["items"]]
    assert len(delays) >= 20 and len(set(delays)) > 10, delays
    assert all(75000 <= delay <= 100000 for delay in delays), delays
    assert max(delays) - min(delays) > 5000, delays


def test_R05_a_server_that_makes_no_sense_is_left():
    good = {"seq": 1, "token": "1", "attempt": 1, "lapses": 0, "event": {"type": "a"}}
    for answer in ([], {"claims": [7]}, {"claims": [{"seq": 1}]}, {"results": []},
                   {"claims": [{**good, "token": 1}]}, {"claims": [{**good, "token": "1x"}]},
                   {"claims": [{**good, "token": "1" * 24}]}, {"claims": [{**good, "seq": "x"}]},
                   {"claims": [{**good, "event": []}]}, {"claims": [good, good]}):
        with fake.Server(answer_json({"created": True}, 201), answer_json(answer)) as server:
            done = fake.run(server, "run", "--type", "a", "--once", "--", "true")
            expect(done, 1, "answers")
    expect(fake.run("http://127.0.0.1:1", "run", "--type", "a", "--", "true"), 1, "no server")


def test_H09_a_command_that_is_not_there_is_no_dead_letter():
    with Daemon() as daemon, folder() as place:
        publish(daemon, 3)
        for name in ("no-such-command-at-all", "./nothing", "/", str(place), ""):
            expect(run(daemon, "run", "--type", "a.b", "--from-start", "--", name), 2, "no command")
        assert daemon.get("/v1/groups") == {"groups": []}
        script = Path(place) / "once"
        script.write_text(f"#!/bin/sh\nrm '{script}'\n")
        script.chmod(0o755)
        done = run(daemon, "run", "--type", "a.b", "--group", "g", "--from-start", "--",
                   str(script))
        expect(done, 1, "cannot run", "1 done", "1 handed back")
        assert (delivery(daemon, "e2")["status"], delivery(daemon, "e2")["attempts"]) == (
            "pending", 0)


def test_P09_the_end_of_its_group_is_the_end_of_a_member():
    with Daemon() as daemon:
        worker = Worker(daemon)
        expect(run(daemon, "groups", "delete", "g"), 0)
        assert worker.wait() == 1
        assert "404" in worker.said and "group" in worker.said


def test_H05_wrong_usage_is_told():
    with Daemon() as daemon:
        for arguments, words in (
                ([], "command"), (["--type", "a"], "command"), (["--", "true"], "--type"),
                (["--type", "a..b", "--", "true"], "--type"),
                (["--type", "a", "--jobs", "0", "--", "true"], "--jobs"),
                (["--type", "a", "--lease", "1x", "--", "true"], "--lease"),
                (["--type", "a", "--lease", "2h", "--", "true"], "--lease"),
                (["--type", "a", "--timeout", "0", "--", "true"], "--timeout"),
                (["--type", "a", "--delay", "", "--", "true"], "--delay"),
                (["--type", "a", "--after", "x", "--", "true"], "--after"),
                (["--type", "a", "--after", "1", "--from-start", "--", "true"], "not both"),
                (["--type", "a", "--group", "", "--", "true"], "group")):
            expect(run(daemon, "run", *arguments), 2, words)


# ---- Members together ----

def test_P09_members_are_killed_in_turn_and_every_event_is_handled():
    with folder() as place, Daemon(f"sqlite:{place}/log.db") as daemon:
        ledger = Ledger(place)
        options = ("--lease", "500ms", "--jobs", "2")
        workers = [Worker(daemon, *options, env=ledger.env, command=NOTE) for _ in range(4)]
        total = 0
        for _ in range(5):
            publish(daemon, 60, first=total)
            total += 60
            until(lambda: len(ledger.rows()) > total - 50)
            workers.pop(0).kill()
            workers.append(Worker(daemon, *options, env=ledger.env, command=NOTE))
        daemon.until(lambda answer: answer["groups"][0]["completed"] == total, "/v1/groups")
        for worker in workers:
            worker.stop()
        group = group_of(daemon)
        assert (group["pending"], group["processing"], group["failed"]) == (0, 0, 0), group
        rows = ledger.rows()
        assert {row[0] for row in rows} == {f"e{n}" for n in range(total)}
        # Who was killed between effect and verdict has its events run again, with one attempt and
        # one lapse more; nothing else comes twice.
        for id_ in {row[0] for row in rows}:
            runs = sorted((int(attempt), int(lapses)) for name, attempt, lapses in rows
                          if name == id_)
            one = delivery(daemon, id_)
            assert one["lapses"] == one["attempts"] - 1 == runs[-1][1] == runs[-1][0] - 1, (
                id_, runs, one)
        assert len(rows) <= total + 5 * 2


def test_H04_ordered_members_keep_the_order_of_each_key():
    with folder() as place, Daemon(f"sqlite:{place}/log.db") as daemon:
        ledger = Ledger(place)
        keys = 5
        options = ("--lease", "500ms", "--jobs", "2", "--ordered", "--retries", "5", "--delay",
                   "20ms")
        # Every seventh event fails at its first attempt.
        command = ('echo "$FANFARE_TOPIC $FANFARE_SEQ $FANFARE_ATTEMPT" >> "$LEDGER";'
                   'test $((FANFARE_SEQ % 7)) != 0 || test $FANFARE_ATTEMPT != 1')
        workers = [Worker(daemon, *options, env=ledger.env, command=command) for _ in range(3)]
        daemon.publish("\n".join(json.dumps({"type": "a.b", "topic": f"k{n % keys}"})
                                 for n in range(100)), LINES)
        until(lambda: len(ledger.rows()) > 20)
        workers.pop(0).kill()
        daemon.until(lambda answer: answer["groups"][0]["completed"] == 100, "/v1/groups")
        for worker in workers:
            worker.stop()
        for key in range(keys):
            seqs = [int(seq) for topic, seq, _ in ledger.rows() if topic == f"k{key}"]
            assert seqs == sorted(seqs) and len(set(seqs)) == 20, (key, seqs)


# ---- Dead letters and groups ----

def test_H06_dead_letters_by_the_command_line():
    with folder() as place, Daemon(f"sqlite:{place}/log.db") as daemon:
        publish(daemon, 5, topic="t")
        publish(daemon, 2, first=10, type_="c.d")
        done = run(daemon, "run", "--type", ">", "--group", "g", "--from-start", "--count", "7",
                   "--", "sh", "-c", 'echo "no \033[1m room" >&2; exit 65')
        expect(done, 0, "7 dead")
        done = run(daemon, "dead", "ls")
        expect(done, 0, "SEQ", "no ?[1m room", "failed")
        assert "\033" not in done.out and len(done.out.splitlines()) == 8
        rows = [json.loads(line) for line in
                run(daemon, "dead", "ls", "--json", "--type", "c.*").out.splitlines()]
        assert [row["id"] for row in rows] == ["e10", "e11"]
        done = run(daemon, "dead", "ls", "--limit", "2", "--group", "g", "--topic", "t", "--json")
        expect(done, 0, "go on with --after 2")
        assert len(done.out.splitlines()) == 2
        shown = json.loads(run(daemon, "dead", "show", "e3").out)
        assert shown["event"]["payload"] == 3 and shown["dead"][0]["group"] == "g"
        assert json.loads(run(daemon, "dead", "show", "3").out) == shown
        expect(run(daemon, "dead", "show", "nobody"), 1, "404")
        expect(run(daemon, "dead", "redrive", "e1", "--group", "g"), 0, "redriven 1\n")
        expect(run(daemon, "dead", "redrive", "e1", "--group", "g"), 1, "409", "pending")
        expect(run(daemon, "dead", "discard", "2", "--group", "g"), 0, "discarded 1\n")
        expect(run(daemon, "dead", "discard", "2", "--group", "other"), 1, "404", "group")
        expect(run(daemon, "dead", "discard", "--type", "c.>"), 0, "discarded 2\n")
        expect(run(daemon, "dead", "redrive", "--group", "g", "--limit", "2"), 0, "redriven 2\n")
        expect(run(daemon, "dead", "redrive", "--all"), 0, "redriven 1\n")
        expect(run(daemon, "dead", "redrive", "--all"), 0, "redriven 0\n")
        expect(run(daemon, "run", "--type", ">", "--group", "g", "--count", "4", "--", "true"), 0,
               "4 done")
        assert run(daemon, "dead", "ls", "--json").out == ""
        for arguments, words in (
                ([], "which verb"), (["burn"], "no such verb"), (["show"], "which event"),
                (["ls", "e1"], "what is"), (["redrive"], "which ones"),
                (["redrive", "e1"], "--group"), (["redrive", "e1", "e2"], "what is"),
                (["discard", "e1", "--group", "g", "--all"], "not both"),
                (["ls", "--type", "a..b"], "--type"), (["ls", "--limit", "0"], "--limit")):
            expect(run(daemon, "dead", *arguments), 2, words)


def test_H06_more_than_a_page_is_moved():
    with Daemon() as daemon:
        publish(daemon, 2500)
        daemon.ask("PUT", "/v1/groups/g", '{"start":"beginning"}', Content_Type="application/json")
        moved = 0
        while moved < 2500:
            answer = daemon.ask("POST", "/v1/groups/g/claim", '{"owner":"x","limit":1000}',
                                Content_Type="application/json")
            items = [{"seq": one["seq"], "token": one["token"], "verdict": "fail"}
                     for one in json.loads(answer.body)["claims"]]
            daemon.ask("POST", "/v1/groups/g/settle", json.dumps({"items": items}),
                       Content_Type="application/json")
            moved += len(items)
        expect(run(daemon, "dead", "discard", "--group", "g", "--limit", "1200"), 0,
               "discarded 1200\n")
        expect(run(daemon, "dead", "redrive", "--all"), 0, "redriven 1300\n")
        assert group_of(daemon)["pending"] == 1300


def test_P09_groups_by_the_command_line():
    with Daemon() as daemon:
        publish(daemon, 3)
        expect(run(daemon, "groups", "create", "old", "--type", "a.*", "--from-start"), 0)
        expect(run(daemon, "groups", "create", "m/ä", "--handler", "h", "--after", "2"), 0)
        expect(run(daemon, "groups", "create", "new"), 0)
        done = run(daemon, "groups", "ls")
        expect(done, 0, "GROUP", "PENDING")
        assert len(done.out.splitlines()) == 4
        rows = {row["group"]: row for row in
                map(json.loads, run(daemon, "groups", "ls", "--json").out.splitlines())}
        assert (rows["old"]["pending"], rows["m/ä"]["pending"], rows["new"]["pending"]) == (3, 1, 0)
        assert rows["m/ä"]["handler"] == "h" and rows["old"]["lag_s"] >= 0
        expect(run(daemon, "stats"), 0, "groups.0.lag ", "groups.0.group ")
        expect(run(daemon, "groups", "delete", "m/ä"), 1, "404")
        expect(run(daemon, "groups", "delete", "m/ä", "--handler", "h"), 0)
        expect(run(daemon, "groups", "create", "x", "--after", "1@" + "f" * 16), 1, "409")
        for arguments, words in (([], "which verb"), (["create"], "which group"),
                                 (["make", "x"], "no such verb"), (["ls", "x"], "what is"),
                                 (["create", ""], "1 to 255"), (["create", "x", "y"], "what is")):
            expect(run(daemon, "groups", *arguments), 2, words)


if __name__ == "__main__":
    tap.run(globals())
