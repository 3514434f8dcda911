"""fanfare tail, get, ls and stats, against streams that break in every place."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402

import fake  # noqa: E402
from fake import EPOCH, Server, answer_json, expect, frame, hold, problem, run, stream  # noqa: E402

RETRY = "retry: 10\n\n"


def seqs(text):
    return [json.loads(line)["seq"] for line in text.splitlines()]


def cursor_of(err):
    return re.findall(r"go on with --after (\S+)", err)[-1]


def gap(**members):
    return f"event: fanfare.gap\ndata: {json.dumps(members)}\n\n"


def test_L07_a_stream_may_come_byte_by_byte():
    text = RETRY + ": comment\r\n\r\n" + frame(1) + frame(2).replace("\n", "\r") + frame(3)
    with Server(stream(*(bytes([byte]) for byte in text.encode()), then=hold)) as server:
        done = run(server, "tail", "--json", "--from-start", "--count", "3")
    expect(done, 0)
    assert seqs(done.out) == [1, 2, 3]
    assert cursor_of(done.err) == f"3@{EPOCH}"
    assert server.requests[0].target == "/v1/stream?after=0"
    assert server.requests[0].headers["accept"] == "text/event-stream"


def test_L07_cut_in_every_place_nothing_is_lost_or_doubled():
    """One connection for each byte at which the second frame can break off."""
    second = frame(2)

    def serve(connection, request):
        last = request.headers.get("last-event-id")
        number = len(server.requests) - 1
        if number > len(second):
            assert last == f"2@{EPOCH}", last
            return stream(frame(3), then=hold)(connection, request)
        assert last == (None if number == 0 else f"1@{EPOCH}"), last
        # The last of these is the whole frame, and the same again.
        again = second if number == len(second) else ""
        pieces = [RETRY, "" if number else frame(1), second[:number], again]
        return stream("".join(pieces))(connection, request)
    with Server(serve) as server:
        process = fake.start(server, "tail", "--json", "--after", "0")
        lines = [process.stdout.readline() for _ in range(3)]
        _, err, code = fake.interrupt(process)
    assert code == 0, err
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3], lines
    assert len(server.requests) == len(second) + 2
    assert "again after 2; left out" in err


def test_L07_it_goes_on_from_its_cursor_when_the_server_comes_back():
    server = Server(stream(RETRY + frame(1) + frame(2), then=hold), stream(frame(3), then=hold))
    server.start()
    process = fake.start(server, "tail", "--json", "--topic", "a b&c", "--type", "x.>")
    assert [json.loads(process.stdout.readline())["seq"] for _ in range(2)] == [1, 2]
    server.stop()
    assert b"trying again" in process.stderr.readline()
    # It is refused at least once before the server is back.
    assert b"Connection refused" in process.stderr.readline() or True
    server.start()
    assert json.loads(process.stdout.readline())["seq"] == 3
    _, err, code = fake.interrupt(process)
    server.stop()
    assert code == 0 and cursor_of(err) == f"3@{EPOCH}", err
    assert [request.target for request in server.requests] == [
        "/v1/stream?topic=a%20b%26c&type=x.%3E"] * 2
    assert server.requests[1].headers["last-event-id"] == f"2@{EPOCH}"


def test_L07_a_place_without_an_event_is_a_place_too():
    """A live stream that names its head in the first frame can be gone on with before any event."""
    with Server(stream(f"{RETRY}id: 41@{EPOCH}\n\n"), stream(frame(42), then=hold)) as server:
        done = run(server, "tail", "--json", "--count", "1")
        expect(done, 0)
    assert server.requests[1].headers["last-event-id"] == f"41@{EPOCH}"
    assert "will not be seen" not in done.err


def test_L07_a_live_tail_without_a_place_says_that_it_begins_anew():
    with Server(stream(RETRY), stream(frame(42), then=hold)) as server:
        expect(run(server, "tail", "--json", "--count", "1"), 0, "will not be seen")


def test_L04_a_gap_is_told_in_its_place():
    lost = {"after": 2, "before": 7, "count": 4, "reason": "overflow"}
    text = RETRY + frame(2) + gap(**lost) + frame(7)
    with Server(stream(text, then=hold)) as server:
        done = run(server, "tail", "--json", "--count", "2")
        expect(done, 0)
        rows = [json.loads(line) for line in done.out.splitlines()]
        assert [row.get("seq") or row for row in rows] == [2, {"gap": lost}, 7]
        done = run(server, "tail", "--count", "2")
        assert len(done.out.splitlines()) == 2
        expect(done, 0, "gap: 4 events lost between 2 and 7 (overflow)")


def test_P13_a_cursor_of_another_epoch_is_told_as_a_gap():
    text = gap(after=17, before=1, count=None, reason="epoch") + frame(1, epoch="f" * 16)
    with Server(stream(text, then=hold)) as server:
        done = run(server, "tail", "--after", f"17@{EPOCH}", "--count", "1")
        expect(done, 0, "another one than that of the cursor", "sequence 17", "next here is 1")
        assert cursor_of(done.err) == "1@" + "f" * 16
    with Server(stream(gap(after=1, before=9, count=None, reason="retention") + frame(9),
                       then=hold)) as server:
        expect(run(server, "tail", "--after", "1", "--count", "1"), 0,
               "an unknown number of events lost between 1 and 9 (retention)")
    with Server(stream("event: fanfare.gap\ndata: [garbage\n\n" + frame(1), then=hold)) as server:
        expect(run(server, "tail", "--count", "1"), 0, "make no sense")


def test_P01_payload_bytes_are_unchanged():
    payload = '{"a" : 1.0, "b":1E5,"c":"\\u00e9é\\/", "big":123456789012345678901}'
    data = f'{{"seq":1,"payload":{payload}}}'
    with Server(stream(frame(1, data=data), then=hold)) as server:
        assert run(server, "tail", "--json", "--count", "1").out == data + "\n"
        assert run(server, "tail", "--count", "1").out.endswith(payload + "\n")


def test_P01_an_event_on_several_lines_of_data_is_one_line():
    with Server(stream('id: 1@e\ndata: {"seq":1,\ndata: "payload":[\ndata: 1]}\n\n',
                       then=hold)) as server:
        assert run(server, "tail", "--json", "--count", "1").out == '{"seq":1, "payload":[ 1]}\n'


def test_L10_what_a_server_repeats_is_left_out_and_told():
    with Server(stream(frame(1), frame(2), frame(1), frame(2), frame(3), then=hold)) as server:
        done = run(server, "tail", "--json", "--count", "3")
        expect(done, 0, "left out")
    assert seqs(done.out) == [1, 2, 3]


def test_R05_retry_after_and_passing_answers_are_waited_for():
    with Server(stream(RETRY), problem(503, None, None, Retry_After="1"), problem(500),
                problem(429), stream(frame(1), then=hold)) as server:
        expect(run(server, "tail", "--json", "--count", "1"), 0, "detail; trying again")
    at = [request.at for request in server.requests]
    assert at[2] - at[1] >= 1


def test_P02_a_refusal_is_shown_and_ends_it():
    with Server(problem(400, "after", "is no cursor")) as server:
        expect(run(server, "tail", "--after", "5"), 1, "server answers 400: after: is no cursor")
        assert len(server.requests) == 1
    for status, type_ in ((200, "text/html"), (204, "text/plain"), (200, "application/json")):
        with Server(fake.answer(status, type_, b"" if status == 204 else b"hello")) as server:
            expect(run(server, "tail"), 1, "no stream of events")


def test_R05_a_silent_server_is_left():
    with Server(stream(RETRY, frame(1), then=hold), stream(frame(2), then=hold)) as server:
        done = run(server, "tail", "--json", "--silence", "1", "--count", "2")
        expect(done, 0, "nothing came for 1 s")
    assert seqs(done.out) == [1, 2]


def test_L07_ctrl_c_says_where_to_go_on():
    with Server(stream(frame(7), then=hold)) as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            process = fake.start(server, "tail", "--json")
            assert json.loads(process.stdout.readline())["seq"] == 7
            process.send_signal(number)
            _, err = process.communicate(timeout=fake.TIMEOUT_S)
            assert process.returncode == 0 and cursor_of(err.decode()) == f"7@{EPOCH}", err
    # Also while it waits to connect anew.
    with Server(stream("retry: 100000\n\n" + frame(8))) as server:
        process = fake.start(server, "tail", "--json")
        assert b"trying again" in process.stderr.readline()
        _, err, code = fake.interrupt(process)
        assert code == 0 and cursor_of(err) == f"8@{EPOCH}", err


def test_L07_ctrl_c_ends_a_tail_that_nobody_reads():
    """Blocked on a full pipe, its cursor is that of the last line that went out as a whole."""
    count = 4000
    big = {n: frame(n, data=json.dumps({"seq": n, "x": "y" * 500})) for n in range(1, count + 1)}
    with Server(stream("".join(big.values()), then=hold)) as server:
        read_end, write_end = os.pipe()
        process = fake.start(server, "tail", "--json", stdout=write_end)
        # It is full when it cannot be written to any more: then the program waits, too.
        poll = select.poll()
        poll.register(write_end, select.POLLOUT)
        while poll.poll(0):
            os.sched_yield()
        os.close(write_end)
        _, err, code = fake.interrupt(process)
        with os.fdopen(read_end, "rb") as pipe:
            whole = [line for line in pipe.read().splitlines(True) if line.endswith(b"\n")]
    assert code == 0, err
    numbers = [json.loads(line)["seq"] for line in whole]
    assert 0 < len(numbers) < count and numbers == list(range(1, len(numbers) + 1))
    assert cursor_of(err) == f"{numbers[-1]}@{EPOCH}", (err, numbers[-1])


def test_L07_a_reader_that_goes_ends_it_by_sigpipe():
    frames = "".join(frame(n) for n in range(1, 200))
    with Server(stream(frames, then=hold)) as server:
        process = fake.start(server, "tail", "--json")
        process.stdout.readline()
        process.stdout.close()
        for connection in list(server.open):
            connection.sendall(frame(200).encode())
        assert process.wait(timeout=fake.TIMEOUT_S) == -signal.SIGPIPE
        process.stderr.close()


def on_terminal(server, *arguments, env=None):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    process = fake.start(server, *arguments, stdout=slave, stderr=subprocess.DEVNULL, env=env)
    os.close(slave)
    seen = b""
    try:
        while piece := os.read(master, 65536):
            seen += piece
    except OSError:  # the other end of a terminal is gone
        pass
    os.close(master)
    assert process.wait(timeout=fake.TIMEOUT_S) == 0
    return seen.decode()


def test_P01_colours_are_for_terminals_and_control_characters_for_nobody():
    data = json.dumps({"seq": 1, "created_at": "2024-02-29T12:00:00Z", "topic": "t\x1b[31m\x07",
                       "payload": "é" * 100}, ensure_ascii=False)
    with Server(stream(frame(1, data=data.replace("\\u009b", "\u009b")), then=hold)) as server:
        done = run(server, "tail", "--count", "1")
        assert done.out == '1  2024-02-29T12:00:00Z  a.b  t?[31m?  "' + "é" * 100 + '"\n', done.out
        text = on_terminal(server, "tail", "--count", "1")
        assert "\x1b[36ma.b\x1b[0m" in text and "t?[31m?" in text, text
        assert len(re.sub(r"\x1b\[\d*m", "", text).rstrip()) == 60 and "…" in text, text
        assert "\x1b" not in on_terminal(server, "tail", "--count", "1", env={"NO_COLOR": "1"})
        assert "\x1b" not in on_terminal(server, "tail", "--count", "1", env={"TERM": "dumb"})
        assert "\x1b" not in on_terminal(server, "tail", "--json", "--count", "1")


def test_P05_get_shows_what_the_server_keeps():
    body = '{"id":"a/b c","payload":{"x" : 1.0},"deliveries":[]}'
    with Server(answer_json(body)) as server:
        assert run(server, "get", "a/b c").out == body + "\n"
    assert server.requests[0].target == "/v1/events/a%2Fb%20c"
    with Server(problem(404, "id", "no event has it")) as server:
        expect(run(server, "get", "x"), 1, "404: id: no event has it")


def test_P05_ls_asks_by_every_filter():
    events = '{"events":[{"seq":1,"id":"x","type":"a.b","topic":"t","status":"pending",' \
             '"created_at":"2024","payload":{"events" : [1.0, "]"]}},{"seq":2,"id":"y"}]}'
    with Server(answer_json(events)) as server:
        done = run(server, "ls", "--topic", "t", "--type", "a.>", "--source", "system", "--status",
                   "failed", "--user-id", "-5", "--schema", "s", "--entity", "e", "--operation",
                   "o", "--instance", "i", "--since", "2024-01-01T00:00:00+01:00", "--until", "u",
                   "--newest", "--limit", "3", "--offset", "4", "--json")
        expect(done, 0)
        assert done.out.splitlines() == [
            '{"seq":1,"id":"x","type":"a.b","topic":"t","status":"pending","created_at":"2024",'
            '"payload":{"events" : [1.0, "]"]}}', '{"seq":2,"id":"y"}']
        assert server.requests[0].target == (
            "/v1/events?topic=t&type=a.%3E&source=system&status=failed&user_id=-5&schema=s"
            "&entity=e&operation=o&instance_id=i&since=2024-01-01T00%3A00%3A00%2B01%3A00&until=u"
            "&limit=3&offset=4&order=newest")
        rows = run(server, "ls").out.splitlines()
        assert server.requests[1].target == "/v1/events?order=oldest"
        assert len(rows) == 3 and rows[1].split() == ["1", "2024", "pending", "a.b", "t", "x"], rows
    with Server(answer_json('{"events":[]}')) as server:
        done = run(server, "ls", "--json")
        assert done.out == "" and done.err == ""
    with Server(answer_json('{"events":[{"seq":1}],"next_offset":17}')) as server:
        done = run(server, "ls", "--json")
        assert done.out == '{"seq":1}\n' and "--offset 17" in done.err, done.err


def test_P16_stats_are_shown_flat_or_as_they_are():
    body = ' {"store":{"events":12,"lag":[1.50,{"a":"b"}]},"ok":true}'
    with Server(answer_json(body)) as server:
        assert run(server, "stats", "--json").out == body + "\n"
        rows = [line.split() for line in run(server, "stats").out.splitlines()]
    assert rows == [["store.events", "12"], ["store.lag.0", "1.50"], ["store.lag.1.a", "b"],
                    ["ok", "true"]]


def test_P05_an_answer_that_is_no_json_is_told():
    for type_, body in (("text/html", "<p>"), ("application/json", "[1]"),
                        ("application/json", "{"), ("application/json", "")):
        with Server(fake.answer(200, type_, body)) as server:
            for arguments in (["get", "x"], ["ls"], ["stats"]):
                expect(run(server, *arguments), 1, "is it a Fanfare server?")
    with Server(answer_json('{"events":5}')) as server:
        expect(run(server, "ls"), 1, "no list of events")
    with Server(fake.cut) as server:
        expect(run(server, "stats"), 1, "lost the server at")


if __name__ == "__main__":
    tap.run(globals())
