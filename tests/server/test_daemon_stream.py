"""GET /v1/stream, end to end against fanfared."""

import json
import os
import random
import sys
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from daemon import MEMORY_TELLS, Daemon, folder, request, together  # noqa: E402

LINES = "application/x-ndjson"
SOAK = os.environ.get("FANFARE_SOAK", "") not in ("", "0")


def publish_lines(daemon, events):
    body = "\n".join(json.dumps(event) for event in events)
    answer = daemon.publish(body, LINES, Prefer="return=minimal")
    assert answer["stored"] == len(events), answer


def check_rising(frames):
    seqs = [frame.seq for frame in frames]
    assert all(a < b for a, b in zip(seqs, seqs[1:])), seqs


def test_a_stream_begins_live_with_a_retry_and_the_right_head():
    with Daemon() as daemon:
        daemon.publish({"type": "before.it"})
        with daemon.stream() as stream:
            fields = stream.response.fields
            assert fields["content-type"] == "text/event-stream"
            assert fields["cache-control"] == "no-cache, no-transform"
            assert fields["x-accel-buffering"] == "no"
            retry = stream.frame()
            assert 1000 <= retry.retry < 3000 and retry.data is None
            daemon.publish({"type": "a.b.create", "topic": "t", "payload": {"k": 1}})
            frame = next(stream)
            assert frame.event == "a.b.create" and frame.id == f"2@{daemon.epoch}"
            event = frame.json()
            assert event["payload"] == {"k": 1} and event["seq"] == 2 and event["topic"] == "t"
            assert "status" not in event


def test_R05_retry_is_not_the_same_for_all():
    with Daemon() as daemon:
        streams = [daemon.stream() for _ in range(20)]
        assert len({stream.frame().retry for stream in streams}) > 5
        for stream in streams:
            stream.close()


def test_filters_choose_by_topic_and_type():
    kinds = [("a.b.create", "one"), ("a.b.delete", "one"), ("a.b.create", "two"), ("a.b", ""),
             ("x", "two"), ("x.y.z.w", "three")]
    filters = [
        ({}, lambda type_, topic: True),
        ({"type": "*"}, lambda type_, topic: True),
        ({"type": ">"}, lambda type_, topic: True),
        ({"topic": "one"}, lambda type_, topic: topic == "one"),
        ({"topic": ""}, lambda type_, topic: topic == ""),
        ({"type": "a.b.create"}, lambda type_, topic: type_ == "a.b.create"),
        ({"type": "a.b.*"}, lambda type_, topic: type_ in ("a.b.create", "a.b.delete")),
        ({"type": "*.b"}, lambda type_, topic: type_ == "a.b"),
        ({"type": "x.>"}, lambda type_, topic: type_ == "x.y.z.w"),
        ({"topic": "two", "type": "a.>"},
         lambda type_, topic: topic == "two" and type_ == "a.b.create"),
        ({"topic": "one", "type": "a.b.delete"},
         lambda type_, topic: topic == "one" and type_ == "a.b.delete"),
        ({"topic": "nowhere"}, lambda type_, topic: False),
    ]
    events = [{"type": kind[0], "topic": kind[1]} for kind in kinds * 20]
    with Daemon() as daemon:
        # From the log and live must choose alike.
        live = [(daemon.stream(**query), wants) for query, wants in filters]
        publish_lines(daemon, events)
        late = [(daemon.stream(after=0, **query), wants) for query, wants in filters]
        publish_lines(daemon, events)
        publish_lines(daemon, events)
        for rounds, streams in ((3, live), (3, late)):
            for stream, wants in streams:
                expected = [kind for kind in kinds if wants(*kind)] * 20 * rounds
                frames = stream.take(len(expected))
                check_rising(frames)
                assert [(frame.event, frame.json()["topic"]) for frame in frames] == expected
                stream.close()


def test_P13_bad_cursors_filters_and_parameters_are_named():
    with Daemon() as daemon:
        for query, field in (("after=x", "after"), ("after=-1", "after"), ("after=", "after"),
                             ("after=1@2", "after"), ("after=99999999999999999999", "after"),
                             ("type=a..b", "type"), ("type=", "type"), ("colour=1", "colour"),
                             ("topic=" + "x" * 256, "topic"), ("after=1&after=2", "after")):
            response = daemon.ask("GET", f"/v1/stream?{query}")
            problem = response.problem()
            assert response.status == 400 and problem["field"] == field, (query, problem)
        response = daemon.ask("GET", "/v1/stream?after=0", Last_Event_ID="nonsense")
        assert response.problem()["field"] == "Last-Event-ID"


def test_P13_last_event_id_wins_over_after():
    with Daemon() as daemon:
        publish_lines(daemon, [{"type": "a", "payload": number} for number in range(1, 11)])
        for last, after, first in ((f"7@{daemon.epoch}", 0, 8), ("7", 0, 8), (None, 3, 4),
                                   (None, f"3@{daemon.epoch}", 4), (None, 0, 1)):
            with daemon.stream(last_event_id=last, after=after) as stream:
                assert next(stream).seq == first
        with daemon.stream(after=10) as stream:
            daemon.publish({"type": "a"})
            assert next(stream).seq == 11


def test_L04_a_cursor_of_another_log_is_told_and_starts_over():
    with Daemon() as daemon:
        publish_lines(daemon, [{"type": "a"}] * 5)
        for cursor, after in ((f"3@{'1' * 16}", 3), (f"900@{'1' * 16}", 900), ("900", 900),
                              (f"900@{daemon.epoch}", 900)):
            with daemon.stream(after=cursor) as stream:
                gap = next(stream)
                assert gap.event == "fanfare.gap" and gap.id == f"0@{daemon.epoch}", vars(gap)
                assert gap.json() == {"after": after, "before": 1, "count": None,
                                      "reason": "epoch"}
                assert [frame.seq for frame in stream.take(5)] == [1, 2, 3, 4, 5]
                # Live from there.
                seq = daemon.publish({"type": "b"})["seq"]
                while (frame := next(stream)).seq < seq:
                    assert frame.event == "b"
                assert frame.seq == seq
            # What came after the gap resumes behind it, without another gap.
            with daemon.stream(last_event_id=gap.id, type="a") as stream:
                assert next(stream).seq == 1


def test_L04_what_retention_removed_is_told():
    with Daemon("memory:?capacity=100") as daemon:
        publish_lines(daemon, [{"type": "a"} for _ in range(250)])
        with daemon.stream(after=20) as stream:
            gap = next(stream)
            assert gap.event == "fanfare.gap", vars(gap)
            told = gap.json()
            assert told["after"] == 20 and told["reason"] == "retention"
            assert gap.seq == told["before"] - 1
            frames = stream.take(250 - gap.seq)
            assert [frame.seq for frame in frames] == list(range(told["before"], 251))
        with daemon.stream(last_event_id=gap.id) as stream:
            assert next(stream).seq == told["before"]


def test_payload_of_several_lines_comes_back():
    payload = '{\n  "a": 1,\r\n\t"b": [\n]\r}'
    with Daemon() as daemon:
        daemon.publish('{"type": "a", "payload": ' + payload + "}")
        with daemon.stream(after=0) as stream:
            data = next(stream).data
            # A line end within JSON is white space; each becomes LF, as the format has it.
            kept = payload.replace("\r\n", "\n").replace("\r", "\n")
            assert f'"payload":{kept},"metadata"' in data, data
        whole = daemon.ask("GET", "/v1/events?limit=1").body.decode()
        assert f'"payload":{payload},"metadata"' in whole


class Load:
    """Publishers that run while listeners come at random moments with random cursors."""

    QUERIES = [
        ({}, lambda event: True),
        ({"topic": "t1"}, lambda event: event["topic"] == "t1"),
        ({"type": "load.0"}, lambda event: event["type"] == "load.0"),
        ({"type": "load.>"}, lambda event: True),
        ({"type": "load.*", "topic": "t2"}, lambda event: event["topic"] == "t2"),
    ]

    def __init__(self, daemon, seed):
        self.daemon = daemon
        self.rng = random.Random(seed)
        self.publishers, self.rounds, self.size = 4, 40, 50
        self.total = self.publishers * self.rounds * self.size
        self.published = 0
        self.changed = threading.Condition()
        self.heard = []

    def publish(self, number):
        with self.daemon.connect() as client:
            for step in range(self.rounds):
                body = "\n".join(
                    json.dumps({"type": f"load.{number % 2}", "topic": f"t{number}",
                                "payload": [number, step * self.size + at]})
                    for at in range(self.size))
                response = request(client, "POST", "/v1/events", body, Content_Type=LINES,
                                   Prefer="return=minimal")
                assert response.status == 200
                with self.changed:
                    self.published += self.size
                    self.changed.notify_all()

    def publish_all(self):
        together(*[lambda n=n: self.publish(n) for n in range(self.publishers)])
        # One of these reaches every listener.
        for topic in ("t1", "t2"):
            self.daemon.publish({"type": "load.0", "topic": topic, "payload": "end"})

    def listen(self):
        with self.changed:
            target = self.rng.randrange(self.total)
            self.changed.wait_for(lambda: self.published >= target)
            after = self.rng.randrange(self.published + 1)
            query, wants = self.rng.choice(self.QUERIES)
        seqs = []
        with self.daemon.stream(after=after, **query) as stream:
            for frame in stream:
                assert frame.event != "fanfare.gap", frame.data
                if frame.json()["payload"] == "end":
                    break
                seqs.append(frame.seq)
        with self.changed:
            self.heard.append((after, wants, seqs))

    def log(self):
        events = []
        with self.daemon.stream(after=0) as stream:
            while len(events) < self.total:
                events.append(next(stream).json())
        return events


def test_L07_replay_meets_live_while_publishers_run():
    for seed, store in enumerate(("memory:?capacity=100000", "sqlite:{}/log.db")):
        with folder() as place, Daemon(store.format(place)) as daemon:
            load = Load(daemon, seed)
            together(load.publish_all, *[load.listen] * 20)
            log = load.log()
            assert len(load.heard) == 20
            for after, wants, seqs in load.heard:
                assert seqs == [event["seq"] for event in log
                                if event["seq"] > after and wants(event)]
            assert daemon.get("/v1/stats")["streams"]["gaps"] == 0


def test_L07_a_resumed_stream_goes_on_across_a_kill():
    with folder() as place:
        uri = f"sqlite:{place}/log.db"
        seen = []
        stored = []
        last = None
        for life in range(4):
            with Daemon(uri) as daemon:
                stream = daemon.stream(last_event_id=last, **({} if last else {"after": 0}))
                for number in range(50):
                    stored.append(daemon.publish({"type": "a", "payload": [life, number]})["seq"])
                    if number < 30:
                        seen.append(next(stream))
                        last = stream.last_id
                stream.close()
                daemon.kill()
        with Daemon(uri) as daemon:
            with daemon.stream(last_event_id=last) as stream:
                while len(seen) < len(stored):
                    seen.append(next(stream))
        assert [frame.seq for frame in seen] == stored
        assert [frame.json()["payload"] for frame in seen] == [
            [life, number] for life in range(4) for number in range(50)]


def flood(daemon, before):
    """50 MB past clients that stand still, or 10; gives the memory before it, the first time."""
    size, count = 4000, 12_500 if MEMORY_TELLS else 2_500
    slow = [daemon.stream(receive_size=4096) for _ in range(20)]
    fast = daemon.stream()
    publish_lines(daemon, [{"type": "warm"}])
    assert next(fast).event == "warm"
    before = before or daemon.memory_peak()
    fallbacks = daemon.get("/v1/stats")["streams"]["fallbacks"]
    frames = []

    def read_fast():
        frames.extend(fast.take(count))

    def publish():
        with daemon.connect() as client:
            for start in range(0, count, 250):
                body = "\n".join(
                    json.dumps({"type": "load", "payload": [number, "x" * size]})
                    for number in range(start, start + 250))
                response = request(client, "POST", "/v1/events", body, Content_Type=LINES,
                                   Prefer="return=minimal")
                assert response.status == 200

    together(publish, read_fast)
    assert [frame.json()["payload"][0] for frame in frames] == list(range(count))
    stats = daemon.get("/v1/stats")
    assert stats["streams"]["fallbacks"] >= fallbacks + 20, stats
    # 20 buffers of 256 KiB, pages of the log, the bus, the writer's queue.
    daemon.check_memory_peak(40 << 20, before)
    for stream in slow[:3]:
        assert next(stream).event == "warm"
        numbers = [frame.json()["payload"][0] for frame in stream.take(count)]
        assert numbers == list(range(count))
    # They are live again.
    publish_lines(daemon, [{"type": "after.all"}])
    for stream in slow[:3]:
        assert next(stream).event == "after.all"
    daemon.until(lambda now: now["streams"]["live"] >= 4)
    assert daemon.get("/v1/stats")["streams"]["gaps"] == 0
    for stream in slow:
        stream.close()
    fast.close()
    daemon.until(lambda now: now["streams"]["open"] == 0)
    return before


def test_L12_a_slow_client_costs_a_bounded_buffer_and_loses_nothing():
    with folder() as place, Daemon(f"sqlite:{place}/log.db") as daemon:
        before = None
        for _ in range(10 if SOAK else 1):
            before = flood(daemon, before)


def test_large_events_pass_a_slow_client():
    big = "y" * 900_000
    with folder() as place, Daemon(f"sqlite:{place}/log.db") as daemon:
        stream = daemon.stream(receive_size=4096)
        for number in range(6):
            daemon.publish({"type": "big", "payload": [number, big]})
        frames = stream.take(6)
        assert [frame.json()["payload"] for frame in frames] == [[n, big] for n in range(6)]
        stream.close()


def test_T04_idle_streams_are_sent_comments_that_move_the_place_on():
    with Daemon("memory:", "--keep-alive", "1") as daemon:
        with daemon.stream(type="rare") as stream:
            assert stream.frame().retry
            daemon.publish({"type": "common"})
            first = stream.frame()
            assert first.comment and first.data is None
            while stream.last_id != f"1@{daemon.epoch}":
                assert stream.frame().comment
            # Whoever resumes there is not told the common event as lost, nor reads it again.
            with daemon.stream(last_event_id=stream.last_id) as resumed:
                daemon.publish({"type": "rare"})
                assert next(resumed).event == "rare"
            assert next(stream).event == "rare"


def test_T04_streams_end_within_a_second_of_a_stop():
    with Daemon() as daemon:
        live = [daemon.stream(type="b") for _ in range(50)]
        stuck = [daemon.stream(receive_size=4096) for _ in range(5)]
        body = "\n".join(['{"type": "a", "payload": "%s"}' % ("x" * 10_000)] * 500
                         + ['{"type": "b"}'] * 10)
        daemon.publish(body, LINES, Prefer="return=minimal")
        for stream in live:
            assert len(stream.take(10)) == 10
        started = time.monotonic()
        daemon.stop()
        # A bound that no machine misses; the second is that of the clients that take nothing.
        assert time.monotonic() - started < 5
        for stream in live:
            assert stream.frame() is None or stream.frame() is None
            stream.close()
        for stream in stuck:
            stream.close()


def test_T04_everything_is_freed_when_the_client_goes():
    with Daemon() as daemon:
        for _ in range(5):
            streams = [daemon.stream(topic=f"t{number}", type="a.*") for number in range(40)]
            streams += [daemon.stream(type=f"a.{number}.*", after=0) for number in range(40)]
            daemon.publish({"type": "a.b", "topic": "t7"})
            for stream in streams:
                stream.close()
        stats = daemon.until(lambda now: now["streams"]["open"] == 0)
        assert stats["streams"]["opened"] == 400 and stats["streams"]["live"] == 0


def test_each_event_is_encoded_once_a_loop_and_only_for_those_who_want_it():
    with Daemon(loops=2) as daemon:
        streams = [daemon.stream(topic="wanted") for _ in range(60)]
        for stream in streams:
            stream.frame()
        publish_lines(daemon, [{"type": "a", "topic": f"t{n}"} for n in range(500)])
        publish_lines(daemon, [{"type": "a", "topic": "wanted"} for n in range(100)])
        for stream in streams:
            check_rising(stream.take(100))
            stream.close()
        stats = daemon.until(lambda now: now["streams"]["open"] == 0)["streams"]
        assert stats["delivered"] == 6000 and stats["encoded"] <= 200, stats


def test_head_and_old_clients():
    with Daemon() as daemon:
        daemon.publish({"type": "a"})
        with daemon.connect() as client:
            client.send("HEAD /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            response = client.response(head_only=True)
            assert response.fields["content-type"] == "text/event-stream"
            assert request(client, "GET", "/healthz").status == 200
        with daemon.connect() as client:
            client.send("GET /v1/stream?after=0 HTTP/1.0\r\n\r\n")
            assert "transfer-encoding" not in client.head().fields
            assert b"event: a\n" in client.until(b"data: ")


if __name__ == "__main__":
    tap.run(globals())
