"""fanfare pub, against servers that lose connections, answers and patience."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402

import fake  # noqa: E402
from fake import Log, Server, cut, expect, problem, run  # noqa: E402


def lines(count, **more):
    return "".join(json.dumps({"type": "a.b", "payload": n} | more) + "\n"
                   for n in range(1, count + 1)).encode()


def payloads(log):
    return sorted(event["payload"] for _, event in log.events.values())


def test_P02_an_event_is_published_with_all_that_was_given():
    log = Log()
    with Server(log.one) as server:
        done = run(server, "pub", "--type", "a.b.c", "--topic", 'x"y', "--source", "internal",
                   "--id", "one", "--user-id", "-7", "--metadata", '{"k": 1}',
                   "--data", '{"n": 1.0, "u": "\\u00e9"}')
        expect(done, 0, f"stored one 1@{fake.EPOCH}")
    body = server.requests[0].body.decode()
    assert '"payload":{"n": 1.0, "u": "\\u00e9"}' in body, body
    event = json.loads(body)
    assert event == {"type": "a.b.c", "topic": 'x"y', "source": "internal", "id": "one",
                     "user_id": -7, "metadata": {"k": 1}, "payload": {"n": 1, "u": "é"}}
    assert server.requests[0].headers["content-type"] == "application/json"


def test_P02_the_door_of_the_command_line_is_system():
    log = Log()
    with Server(log.one) as server:
        expect(run(server, "pub", "--type", "a"), 0)
    with Server(log.answer) as server:
        expect(run(server, "pub", "--ndjson", "-", stdin=b'{"type":"a"}\n'), 0)
    assert [event["source"] for _, event in log.events.values()] == ["system", "system"]


def test_P01_a_payload_file_keeps_its_bytes():
    payload = b'{\n\t"a" : [1.50, 1E2],\r\n "b": "\xc3\xa9\\u0041"}\n'
    log = Log()
    with Server(log.one) as server, tempfile.NamedTemporaryFile() as file:
        file.write(payload)
        file.flush()
        expect(run(server, "pub", "--type", "a", "--file", file.name), 0)
        expect(run(server, "pub", "--type", "a", "--file", "-", stdin=payload), 0)
    for request in server.requests:
        assert b'"payload":' + payload + b"}" in request.body, request.body


def test_L09_the_same_id_again_is_told():
    log = Log()
    with Server(log.one) as server:
        expect(run(server, "pub", "--type", "a", "--id", "x"), 0, "stored x 1@")
        expect(run(server, "pub", "--type", "a", "--id", "x"), 0, "there already x 1@")


def test_P02_a_problem_is_shown_with_field_and_reason():
    with Server(problem(400, "type", "has an empty segment\x1b[31m")) as server:
        done = run(server, "pub", "--type", "a..b")
        expect(done, 1, "refused: type: has an empty segment?[31m")
    assert len(server.requests) == 1


def test_P02_what_is_no_json_is_refused_before_any_request():
    with Server(cut) as server:
        for data in ('{"a":1', '1,"type":"x"', "", "{}{}", '{"a":1,"a":2}'):
            expect(run(server, "pub", "--type", "a", "--data", data), 1, "payload: is not JSON")
        expect(run(server, "pub", "--type", "a", "--metadata", "{"), 1, "metadata: is not JSON")
    assert not server.requests


def test_L09_a_lost_answer_is_asked_for_again_with_the_same_id():
    log = Log()
    with Server(log.store_and_cut, cut, log.one) as server:
        done = run(server, "pub", "--type", "a", "--data", "1")
        expect(done, 0, "stored ", "trying again")
    assert len(log.events) == 1
    bodies = {request.body for request in server.requests}
    assert len(server.requests) == 3 and len(bodies) == 1


def test_L09_lines_keep_their_ids_through_lost_answers():
    log = Log()
    with Server(log.store_and_cut, cut, log.store_and_cut, log.answer) as server:
        done = run(server, "pub", "--ndjson", "-", stdin=lines(50))
        expect(done, 0, "stored 50, there already 0, refused 0, without an answer 0")
    ids = [request.ids() for request in server.requests]
    assert len(ids) == 4 and all(each == ids[0] for each in ids)
    assert len(set(ids[0])) == 50 and ids[0] == sorted(ids[0])
    assert payloads(log) == list(range(1, 51))


def test_R05_only_what_has_no_answer_is_sent_again():
    log = Log()
    with Server(log.cut_after(7), log.cut_after(0), log.answer) as server:
        done = run(server, "pub", "--ndjson", "-", "--json", stdin=lines(20))
        expect(done, 0)
    assert [len(request.lines()) for request in server.requests] == [20, 13, 13]
    results = [json.loads(line) for line in done.out.splitlines()]
    assert [result["line"] for result in results[:-1]] == list(range(1, 21))
    assert [result["seq"] for result in results[:-1]] == list(range(1, 21))
    assert results[-1] == {"stored": 20, "duplicates": 0, "refused": 0, "unanswered": 0}


def test_L09_given_ids_that_were_there_are_told_apart():
    log = Log()
    given = b"".join(b'{"id":"e%d","type":"a","payload":%d}\n' % (n, n) for n in range(5))
    with Server(log.answer, log.cut_after(2), log.answer) as server:
        expect(run(server, "pub", "--ndjson", "-", stdin=given[:given.index(b"e3") - 7]), 0,
               "stored 3")
        done = run(server, "pub", "--ndjson", "-", "--json", stdin=given)
        expect(done, 0)
    results = [json.loads(line) for line in done.out.splitlines()]
    assert [result.get("duplicate") for result in results[:2]] == [True, True], results


def test_R05_retry_after_is_honoured():
    log = Log()
    with Server(problem(503, None, None, Retry_After="1"), log.answer) as server:
        expect(run(server, "pub", "--ndjson", "-", stdin=lines(1)), 0, "stored 1", "trying again")
    first, second = server.requests
    assert second.at - first.at >= 1, second.at - first.at


def test_R05_it_gives_up_after_so_many_tries_and_says_what_is_open():
    with Server(cut) as server, tempfile.TemporaryDirectory() as folder:
        rest = Path(folder, "rest")
        done = run(server, "pub", "--ndjson", "-", "--retries", "2", "--rest", str(rest),
                   stdin=lines(3))
        expect(done, 1, "gave up after 3 tries", "3 lines, from line 1 on", "without an answer 3")
        assert rest.read_bytes() == server.requests[0].body
    assert len(server.requests) == 3


def test_L09_what_was_left_can_be_published_later():
    log = Log()
    with Server(log.store_and_cut, cut, log.answer) as server:
        with tempfile.TemporaryDirectory() as folder:
            rest = str(Path(folder, "rest"))
            expect(run(server, "pub", "--ndjson", "-", "--retries", "1", "--rest", rest,
                       stdin=lines(30)), 1)
            expect(run(server, "pub", "--ndjson", rest), 0, "there already 30")
    assert payloads(log) == list(range(1, 31))


def test_R05_a_restarted_server_is_found_again():
    log = Log()
    server = Server(log.answer)
    server.start()
    process = fake.start(server, "pub", "--ndjson", "-", stdin=subprocess.PIPE)
    process.stdin.write(lines(3))
    process.stdin.flush()
    count = 0
    while count < 3:
        count += len(server.wait_request().lines())
    server.stop()
    process.stdin.write(lines(2))
    process.stdin.flush()
    # Its first words are that the server is gone; only then it comes back.
    assert b"trying again" in process.stderr.readline()
    server.start()
    out, err = process.communicate(timeout=fake.TIMEOUT_S)
    server.stop()
    assert process.returncode == 0, err
    assert b"stored 5" in out and len(log.events) == 5


def test_L09_lines_of_a_pipe_are_sent_as_they_come():
    log = Log()
    with Server(log.answer) as server:
        process = fake.start(server, "pub", "--ndjson", "-", "--json", stdin=subprocess.PIPE)
        for number in range(1, 4):
            process.stdin.write(lines(1))
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["line"] == number
        process.stdin.close()
        assert process.wait(timeout=fake.TIMEOUT_S) == 0
        process.stdout.close()
        process.stderr.close()


def test_P02_refused_lines_are_told_by_number_and_the_rest_goes_on():
    text = b"\n".join([
        b'{"type":"a","payload":1}', b"", b"nonsense", b'{"type":"bad"}', b"[1]", b"  ",
        b'{"type":"a","type":"b"}', b'{"type":"a","payload":2}\r', b'{"type":"\xff"}',
        b'{"type":"a","payload":3}'])
    log = Log()
    with Server(log.answer) as server:
        done = run(server, "pub", "--ndjson", "-", stdin=text)
        expect(done, 1, "line 3: refused: is no JSON object", "line 4: refused: type: is bad",
               "line 5: refused", "line 7: refused", "line 9: refused", "stored 3", "refused 5")
        done = run(server, "pub", "--ndjson", "-", "--json", stdin=text)
    results = [json.loads(line) for line in done.out.splitlines()]
    assert sorted(r["line"] for r in results if "error" in r) == [3, 4, 5, 7, 9]
    assert [r["line"] for r in results if "id" in r] == [1, 8, 10]
    assert payloads(log)[:3] == [1, 1, 2]


def test_P02_a_line_that_is_too_long_is_refused_alone():
    log = Log()
    long = b'{"type":"a","payload":"' + b"x" * (17 << 20) + b'"}\n'
    with Server(log.answer) as server:
        done = run(server, "pub", "--ndjson", "-", stdin=lines(1) + long + lines(1))
        expect(done, 1, "line 2: refused: is longer than 16 MiB", "stored 2, there already 0, "
               "refused 1")


def test_L12_requests_are_bounded_and_share_a_connection():
    log = Log()
    with Server(log.answer) as server, tempfile.NamedTemporaryFile() as file:
        file.write(lines(2500))
        file.flush()
        expect(run(server, "pub", "--ndjson", file.name), 0, "stored 2500")
    assert [len(request.lines()) for request in server.requests] == [1000, 1000, 500]
    assert len({request.port for request in server.requests}) == 1
    with Server(log.answer) as server, tempfile.NamedTemporaryFile() as file:
        file.write(lines(8, topic="x" * 300_000) + lines(1, topic="x" * 3_000_000) + lines(1))
        file.flush()
        expect(run(server, "pub", "--ndjson", file.name), 0, "stored 10")
    sizes = [(len(request.lines()), len(request.body)) for request in server.requests]
    assert all(size <= 1 << 20 or count == 1 for count, size in sizes), sizes
    assert max(count for count, _ in sizes) > 1, sizes


def test_R05_an_answer_may_come_byte_by_byte():
    log = Log()

    def slowly(connection, request):
        body = "".join(log.results(request)).encode()
        for byte in fake.head(200, "application/x-ndjson; charset=utf-8", len(body)) + body:
            connection.sendall(bytes([byte]))
        return True

    def in_chunks(connection, request):
        body = "".join(log.results(request)).encode()
        connection.sendall(fake.head(200, "application/x-ndjson", Transfer_Encoding="chunked"))
        for byte in body:
            connection.sendall(b"1;x=y\r\n%c\r\n" % byte)
        connection.sendall(b"0\r\n\r\n")
        return True
    for way in (slowly, in_chunks):
        with Server(way) as server:
            expect(run(server, "pub", "--ndjson", "-", stdin=lines(9)), 0, "stored 9")


def test_R05_an_answer_without_sense_is_no_acknowledgement():
    def say(*answer_lines):
        return fake.answer(200, "application/x-ndjson",
                           "".join(json.dumps(line) + "\n" for line in answer_lines))
    good = {"line": 1, "id": "x", "seq": 1, "cursor": "1@" + fake.EPOCH}
    sums = {"stored": 1, "duplicates": 0, "refused": 0}
    senseless = [
        fake.answer(200, "application/x-ndjson", b"\x00\xff garbage\n"),
        fake.answer(200, "application/x-ndjson", b"x" * (1 << 20)),
        say(good | {"line": 2}, sums),
        say(sums),
        say(good, good, sums),
        say(good),
        say({"line": 1}, sums),
        say({"line": 1, "id": 5, "seq": 1, "cursor": "1"}, sums),
        say("nonsense"),
        say(good, sums, sums),
    ]
    for number, each in enumerate(senseless):
        with Server(each) as server:
            done = run(server, "pub", "--ndjson", "-", "--retries", "1", stdin=lines(1))
            # Once a line has its answer nothing is left to ask; before that it is asked again.
            acknowledged = number in (4, 5, 9)
            expect(done, 0 if acknowledged else 1)
            assert len(server.requests) == (1 if acknowledged else 2), number
    with Server(lambda connection, _: connection.sendall(b"SSH-2.0-OpenSSH\r\n")) as server:
        expect(run(server, "pub", "--ndjson", "-", "--retries", "0", stdin=lines(1)), 1, "gave up")


def test_R05_a_server_that_is_no_fanfare_is_not_asked_again():
    for status in (200, 301, 401, 403, 404, 405):
        with Server(fake.answer(status, "text/html", "<p>hello", Location="/")) as server:
            done = run(server, "pub", "--ndjson", "-", "--retries", "0", stdin=lines(1))
            expect(done, 1, "without an answer 1")
            assert len(server.requests) == 1


def test_P02_a_line_that_spoils_its_request_is_found():
    log = Log()

    def strict(connection, request):
        if b"poison" in request.body:
            return problem(413, "body", "is too large")(connection, request)
        return log.answer(connection, request)
    text = lines(37) + b'{"type":"a","topic":"poison"}\n' + lines(25)
    with Server(strict) as server:
        expect(run(server, "pub", "--ndjson", "-", stdin=text), 1,
               "line 38: refused: body: is too large", "stored 62, there already 0, refused 1")
    assert [seq for seq, _ in log.events.values()] == list(range(1, 63))


def test_R05_a_line_that_the_server_could_not_take_yet_is_sent_again():
    log = Log()

    def full(connection, request):
        results = [json.loads(line) for line in log.results(request)]
        for number in (2, 4):
            log.events.pop(results[number]["id"])
            results[number] = {"line": number + 1, "error": {"status": 503, "field": "",
                                                             "reason": "the queue is full"}}
        return fake.answer(200, "application/x-ndjson",
                           "".join(json.dumps(r) + "\n" for r in results))(connection, request)
    with Server(full, log.answer) as server:
        expect(run(server, "pub", "--ndjson", "-", stdin=lines(6)), 0, "stored 6", "refused 0")
    assert [line["payload"] for line in server.requests[1].lines()] == [3, 5]
    assert payloads(log) == [1, 2, 3, 4, 5, 6]


def test_L09_a_silent_server_is_asked_again_with_the_same_ids():
    log = Log()

    def store_and_hold(connection, request):
        log.results(request)
        fake.hold(connection, request)
        return False
    with Server(store_and_hold, log.answer) as server:
        expect(run(server, "pub", "--ndjson", "-", "--silence", "1", stdin=lines(5)), 0,
               "nothing came for 1 s", "stored 5, there already 0")
    assert server.requests[0].ids() == server.requests[1].ids() and len(log.events) == 5


def test_R05_interrupted_it_says_what_has_no_answer():
    def silent(connection, request):
        fake.hold(connection, request)
        return False
    with Server(silent) as server, tempfile.TemporaryDirectory() as folder:
        rest = Path(folder, "rest")
        process = fake.start(server, "pub", "--ndjson", "-", "--rest", str(rest),
                             stdin=subprocess.PIPE)
        process.stdin.write(lines(2))
        process.stdin.flush()
        request = server.wait_request()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=fake.TIMEOUT_S)
        assert process.returncode == 1, err
        assert b"have no answer" in err and b"stored 0" in out, (out, err)
        assert rest.read_bytes() == request.body


def test_P07_a_server_that_is_not_there_is_told_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        for arguments in (["pub", "--type", "a"], ["pub", "--ndjson", "-"], ["tail"],
                          ["get", "x"], ["ls"], ["stats"]):
            done = run(url, *arguments, stdin=lines(1))
            expect(done, 1, "no server at http://127.0.0.1:")
            assert "secret" not in done.out + done.err and "again" not in done.err


def test_P02_wrong_usage_ends_with_2_and_names_what_is_wrong():
    for words, arguments in [
        ("which verb", []), ("no such verb: 'push'", ["push"]),
        ("unrecognized option '--bogus'", ["--bogus"]),
        ("unrecognized option '--bogus'", ["pub", "--bogus"]),
        ("unrecognized option '--bogus'", ["tail", "--bogus"]),
        ("--type is missing", ["pub"]), ("requires an argument", ["pub", "--type"]),
        ("--ndjson does not go with", ["pub", "--ndjson", "-", "--type", "a"]),
        ("not both", ["pub", "--type", "a", "--data", "1", "--file", "x"]),
        ("--source: 'moon'", ["pub", "--type", "a", "--source", "moon"]),
        ("--user-id", ["pub", "--type", "a", "--user-id", "1x"]),
        ("twice", ["pub", "--type", "a", "--type", "b"]),
        ("'extra'", ["pub", "--type", "a", "extra"]),
        ("--after: the cursor '5@x' has a bad epoch", ["tail", "--after", "5@x"]),
        ("--after: the cursor '-1'", ["tail", "--after=-1"]),
        ("not both", ["tail", "--after", "5", "--from-start"]),
        ("--type: the pattern 'a..b'", ["tail", "--type", "a..b"]),
        ("--count", ["tail", "--count", "0"]),
        ("--limit", ["ls", "--limit", "many"]), ("--type", ["ls", "--type", ""]),
        ("which event", ["get"]), ("not more", ["get", "a", "b"]), ("'x'", ["stats", "x"]),
    ]:
        with Server(cut) as server:
            expect(run(server, *arguments), 2, words)
            assert not server.requests
    for url in ("ftp://x", "nonsense://", "http://", "http://x/?a=b", "http://h:99999", ""):
        expect(run(None, "--url", url, "stats"), 2, "address")


def test_P02_help_and_version():
    expect(run(None, "--version"), 0, "fanfare 0.")
    expect(run(None, "--help"), 0, "pub", "tail", "get", "ls", "stats")
    for verb in ("pub", "tail", "get", "ls", "stats"):
        expect(run(None, verb, "--help"), 0, f"Usage: fanfare {verb}", "--url")


def test_P07_the_address_may_come_from_the_environment():
    log = Log()
    with Server(log.one) as server:
        env = {"FANFARE_URL": server.url + "/base/"}
        expect(run(None, "pub", "--type", "a", env=env), 0)
        expect(run(server, "pub", "--type", "a", env={"FANFARE_URL": "http://127.0.0.1:1"}), 0)
        proxy = {"http_proxy": "http://127.0.0.1:1"}
        expect(run(server, "pub", "--type", "a", env=proxy), 0)
    assert [request.target for request in server.requests] == [
        "/base/v1/events", "/v1/events", "/v1/events"]


def test_P02_a_file_that_is_not_there_is_named():
    with Server(cut) as server:
        expect(run(server, "pub", "--type", "a", "--file", "/no/such"), 1, "/no/such: No such file")
        expect(run(server, "pub", "--ndjson", "/no/such"), 1, "/no/such: No such file")
        expect(run(server, "pub", "--ndjson", "/"), 1, "Is a directory")


def test_R05_progress_is_drawn_on_a_terminal_only():
    log = Log()
    with Server(log.answer) as server, tempfile.NamedTemporaryFile() as file:
        file.write(lines(2500))
        file.flush()
        expect(run(server, "pub", "--ndjson", file.name), 0)
        assert "\x1b" not in run(server, "pub", "--ndjson", file.name).err
        master, slave = pty.openpty()
        process = fake.start(server, "pub", "--ndjson", file.name, stderr=slave)
        os.close(slave)
        seen = b""
        try:
            while piece := os.read(master, 65536):
                seen += piece
        except OSError:  # the other end of a terminal is gone
            pass
        os.close(master)
        process.communicate(timeout=fake.TIMEOUT_S)
        assert process.returncode == 0
        assert b"lines, " in seen and seen.endswith(b"\x1b[K"), seen


if __name__ == "__main__":
    tap.run(globals())
