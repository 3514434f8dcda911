"""POST /v1/events, end to end against fanfared."""

import base64
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from daemon import Daemon, folder, request  # noqa: E402

LINES = "application/x-ndjson"
CLOUD = "application/cloudevents+json"
CLOUD_BATCH = "application/cloudevents-batch+json"


def refused(daemon, body, content_type="application/json", status=400, **fields):
    """A publish that must fail, with nothing of it stored."""
    before = daemon.get("/v1/stats")["store"]["events"]
    problem = daemon.publish(body, content_type, status=status, **fields)
    assert daemon.get("/v1/stats")["store"]["events"] == before
    return problem


def test_P01_an_event_keeps_all_that_it_was_given():
    event = {
        "id": "order/1 ä", "type": "public.users.create", "topic": "users/7", "source": "database",
        "schema": "public", "entity": "users", "operation": "create", "user_id": -7,
        "session_id": "s", "instance_id": "i", "created_at": "2024-02-29T12:00:00.123456Z",
        "deliver_at": "2030-01-01T00:00:00.000000Z",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "payload": {"a": [1, 2.5, None]}, "metadata": {"k": "v"},
    }
    with Daemon() as daemon:
        answer = daemon.publish(event, status=201)
        assert answer == {"id": event["id"], "seq": 1, "cursor": f"1@{daemon.epoch}"}, answer
        kept = daemon.get("/v1/events/order%2F1%20%C3%A4")
        assert {name: kept[name] for name in event} == event, kept
        assert kept["seq"] == 1 and kept["status"] == "completed" and kept["deliveries"] == []


def test_P02_what_is_absent_is_stamped_and_the_door_is_the_frontend():
    with Daemon() as daemon:
        answer = daemon.publish({"type": "chat.message"}, status=201)
        kept = daemon.get(f"/v1/events/{answer['id']}")
        assert kept["source"] == "frontend" and kept["payload"] is None
        assert kept["instance_id"] and kept["created_at"].endswith("Z")
        assert answer["id"][14] == "7"


def test_P02_refusals_name_field_and_reason():
    with Daemon() as daemon:
        cases = [
            ('{"payload": 1}', "type", "missing"),
            ('{"type": ""}', "type", ""),
            ('{"type": "a..b"}', "type", "empty segment"),
            ('{"type": "a b"}', "type", ""),
            ('{"type": "fanfare.gap"}', "type", "reserved"),
            ('{"type": "a", "source": "mars"}', "source", "database"),
            ('{"type": "a", "colour": 1}', "colour", ""),
            ('{"type": "a", "seq": 1}', "seq", ""),
            ('{"type": "a", "user_id": 1.5}', "user_id", ""),
            ('{"type": "a", "created_at": "yesterday"}', "created_at", "RFC 3339"),
            ('{"type": "a", "metadata": []}', "metadata", "object"),
            ('{"type": "a", "id": "%s"}' % ("x" * 256), "id", "255"),
            ('{"type": "a", "payload": {"k": 1, "k": 2}}', "payload", "line 1"),
            ('{"type": "a", "type": "b"}', None, "line 1"),
            ('{"type": "a"', None, "line 1"),
            ('{"type": "a"}\n\n }', None, "line 3"),
            ("", None, ""),
            ("7", None, ""),
            ('"text"', None, ""),
        ]
        for body, field, reason in cases:
            problem = refused(daemon, body)
            assert field in (None, problem["field"]), (body, problem)
            assert reason in problem["reason"], (body, problem)
            assert problem["title"] == "Bad Request"


def test_L04_nobody_publishes_what_looks_like_a_gap():
    cloud = {"specversion": "1.0", "id": "1", "source": "/s", "type": "fanfare.gap"}
    with Daemon() as daemon:
        assert refused(daemon, json.dumps(cloud), CLOUD)["field"] == "type"
        binary = {f"ce_{name}": value for name, value in cloud.items()}
        assert refused(daemon, "{}", **binary)["field"] == "type"
        answer = daemon.publish('{"type": "fanfare.gap"}\n{"type": "fanfares.gap"}', LINES)
        assert (answer["stored"], answer["refused"]) == (1, 1), answer
        assert answer["results"][0]["error"]["field"] == "type"


def test_P02_a_crowd_of_refusals_is_answered():
    # More than are held of one request at a time, with no event among them that calls back.
    count = 20_000
    with Daemon(loops=1) as daemon:
        for body, kind in ((b"[" + b",".join([b"1"] * count) + b"]", "application/json"),
                           (b"[" + b",".join([b"1"] * count) + b"]", CLOUD_BATCH),
                           (b"1\n" * count, LINES)):
            answer = daemon.publish(body, kind)
            assert answer["stored"] == 0 and answer["refused"] == count, kind
            assert [result["line"] for result in answer["results"]] == [*range(1, count + 1)]
        # What is right among them is stored, also behind a crowd.
        body = b"1\n" * count + b'{"type": "a"}\n' + b"1\n" * count + b'{"type": "a"}'
        answer = daemon.publish(body, LINES, Prefer="return=minimal")
        assert answer["stored"] == 2 and answer["refused"] == 2 * count


def test_P02_invalid_utf8_and_depth_are_refused():
    with Daemon() as daemon:
        for raw in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\\u0000", b"\\ud800"):
            problem = refused(daemon, b'{"type": "a", "payload": "' + raw + b'"}')
            assert "payload" in (problem["field"], problem["detail"].split(":")[0]), problem
        refused(daemon, b'\xef\xbb\xbf{"type": "a"}')
        for depth in (70, 10_000, 1_000_000):
            deep = b'{"type": "a", "payload": ' + b"[" * depth + b"]" * depth + b"}"
            assert "deep" in refused(daemon, deep)["reason"]
            if depth > 1024:
                refused(daemon, b"[" * depth + b"]" * depth)
        assert daemon.publish('{"type": "a", "payload": ' + "[" * 64 + "]" * 64 + "}")["seq"] == 1


def test_P02_sizes_are_bounded():
    with Daemon() as daemon:
        limit = 1 << 20
        ok = '{"type": "a", "payload": "' + "x" * (limit - 2) + '"}'
        assert daemon.publish(ok, status=201)["seq"] == 1
        problem = refused(daemon, ok.replace("xx", "xxx", 1))
        assert problem["field"] == "payload" and str(limit) in problem["reason"]
        # By its announced length alone, and by what comes.
        with daemon.connect() as client:
            client.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\n"
                        "Content-Type: application/json\r\n"
                        "Content-Length: 104857600\r\nExpect: 100-continue\r\n\r\n")
            assert client.response().problem()["status"] == 413
        with daemon.connect() as client:
            client.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\n"
                        "Content-Type: application/json\r\n"
                        "Transfer-Encoding: chunked\r\n\r\n")
            try:
                for _ in range(1600):
                    client.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
            except OSError:
                pass
            assert client.response().problem()["status"] == 413
        daemon.check_memory_peak(100 << 20)


def test_L09_the_same_id_again_is_told_and_stored_once():
    with Daemon() as daemon:
        first = daemon.publish({"type": "a", "id": "1", "payload": 1}, status=201)
        again = daemon.publish({"type": "a", "id": "1", "payload": 2}, status=200)
        assert again == {**first, "duplicate": True}
        assert daemon.get("/v1/events/1")["payload"] == 1
        assert daemon.get("/v1/stats")["store"]["events"] == 1


def test_payload_bytes_come_back_as_they_were():
    texts = [
        '{ "z" : 1 ,\t"a":2, "é": "\\u00e9"}', "[1e2, 1E+2, 100.0, -0, 0.10, 1e-7]",
        "123456789012345678901234567890", "9007199254740993", '"\\/\\b\\f\\n\\r\\t\\"\\\\"',
        '"\\ud83d\\ude00 \U0001f600"', '"\x7f"', " true ", "{}", "[ ]", '{"a":{"a":{"a":[]}}}',
        '"</script>\\u2028"', "null",
    ]
    with Daemon() as daemon:
        for text in texts:
            body = '{"type": "a", "payload":' + text + "}"
            answer = daemon.publish(body, status=201)
            whole = daemon.ask("GET", f"/v1/events/{answer['id']}").body.decode()
            assert f'"payload":{text.strip()},"metadata"' in whole, (text, whole)
        with daemon.stream(after=0) as stream:
            for text in texts:
                data = next(stream).data
                assert f'"payload":{text.strip()},"metadata"' in data, (text, data)


def test_an_array_stands_event_by_event():
    with Daemon() as daemon:
        answer = daemon.publish([
            {"type": "a", "id": "1"}, {"type": "a..b"}, {"type": "b", "id": "1"}, 7, [],
            {"type": "c", "id": "2"},
        ], status=200)
        assert (answer["stored"], answer["duplicates"], answer["refused"]) == (2, 1, 3), answer
        results = answer["results"]
        assert [result["line"] for result in results] == [1, 2, 3, 4, 5, 6]
        assert results[0] == {"line": 1, "id": "1", "seq": 1, "cursor": f"1@{daemon.epoch}"}
        assert results[1]["error"]["field"] == "type" and results[1]["error"]["status"] == 400
        assert results[2]["duplicate"] is True and results[2]["seq"] == 1
        assert "error" in results[3] and "error" in results[4]
        assert results[5]["seq"] > 1
        assert daemon.publish([], status=200)["results"] == []
        # What is no JSON is refused whole, with the place in the body.
        problem = refused(daemon, '[{"type": "a"},\n {"type" "b"}]')
        assert "line 2" in problem["reason"], problem
        deep = '{"type": "a", "payload": ' + "[" * 70 + "]" * 70 + "}"
        assert daemon.publish(f'[{deep}, {{"type": "b"}}]')["refused"] == 1


def test_ten_thousand_lines_with_some_bad_ones():
    lines = []
    for number in range(1, 10_001):
        if number % 1000 == 17:
            lines.append('{"type": "a..b"}')
        elif number % 1000 == 18:
            lines.append("{broken")
        elif number % 1000 == 19:
            lines.append(" \t\r")
        elif number % 1000 == 20:
            lines.append('{"type": "load.test", "id": "same"}')
        else:
            lines.append('{"type": "load.test", "id": "%d", "payload": "%s"}'
                         % (number, "x" * (number % 300)))
    body = "\n".join(lines)
    with folder() as place, Daemon(f"sqlite:{place}/log.db") as daemon:
        answer = daemon.publish(body, LINES)
        assert answer["stored"] == 9961 and answer["duplicates"] == 9, {**answer, "results": 0}
        assert answer["refused"] == 20 and len(answer["results"]) == 9990
        seqs = []
        for result in answer["results"]:
            number = result["line"]
            if number % 1000 in (17, 18):
                assert result["error"]["reason"]
            elif number % 1000 == 20:
                assert result["id"] == "same"
            else:
                assert result["id"] == str(number)
                seqs.append(result["seq"])
        assert [result["line"] for result in answer["results"]] == [
            number for number in range(1, 10_001) if number % 1000 != 19]
        assert seqs == sorted(seqs)
        minimal = daemon.publish(body, LINES, Prefer="return=minimal")
        assert minimal["duplicates"] == 9970 and len(minimal["results"]) == 20
        response = daemon.ask("POST", "/v1/events", body, Content_Type=LINES,
                              Accept=f"text/plain, {LINES};q=0.9")
        assert response.fields["content-type"] == LINES
        told = [json.loads(line) for line in response.body.splitlines()]
        assert len(told) == 9991
        assert told[-1] == {"stored": 0, "duplicates": 9970, "refused": 20}
        assert told[0] == {**answer["results"][0], "duplicate": True}


def test_lines_are_taken_as_they_arrive():
    with Daemon() as daemon, daemon.connect() as client, daemon.stream() as stream:
        client.send(f"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: {LINES}\r\n"
                    "Transfer-Encoding: chunked\r\n\r\n")
        for number in range(5):
            for part in ('{"type": "a", ', f'"payload": {number}}}', "\n"):
                client.send(f"{len(part):x}\r\n{part}\r\n")
            # It is there while the request goes on.
            assert next(stream).json()["payload"] == number
        client.send('c\r\n{"type": "b"\r\n1\r\n}\r\n0\r\n\r\n')
        answer = json.loads(client.response().body)
        assert answer["stored"] == 6 and answer["results"][5]["line"] == 6
        assert next(stream).event == "b"
        # The connection goes on.
        assert request(client, "GET", "/healthz").status == 200


def test_L12_a_line_too_long_is_passed_over_without_being_kept():
    with Daemon() as daemon, daemon.connect() as client:
        client.send(f"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: {LINES}\r\n"
                    "Transfer-Encoding: chunked\r\n\r\n")
        client.send(b'd\r\n{"type": "a"}\r\n1\r\n\n\r\n')
        for _ in range(1000):
            client.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        client.send(b'1\r\n\n\r\nd\r\n{"type": "b"}\r\n0\r\n\r\n')
        answer = json.loads(client.response().body)
        assert answer["stored"] == 2 and answer["refused"] == 1, answer
        assert answer["results"][1]["line"] == 2
        assert answer["results"][1]["error"]["field"] == "line"
        daemon.check_memory_peak(100 << 20)


def test_L12_a_flood_of_lines_waits_for_the_writer():
    """More than fits into the writer's queue and the request's own bounds."""
    line = b'{"type": "flood", "payload": "' + b"x" * 1000 + b'"}\n'
    count = 100_000
    with Daemon("memory:?capacity=200000") as daemon, daemon.connect() as client:
        client.send(f"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: {LINES}\r\n"
                    f"Prefer: return=minimal\r\nContent-Length: {len(line) * count}\r\n\r\n")
        for _ in range(count // 100):
            client.send(line * 100)
        answer = json.loads(client.response().body)
        assert answer == {"stored": count, "duplicates": 0, "refused": 0, "results": []}, answer


def test_a_client_that_goes_leaves_nothing_behind():
    with Daemon() as daemon:
        for body in (b'{"type": "a"}\n' * 1000, b'{"type": "a"'):
            client = daemon.connect()
            client.send(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                        b"application/x-ndjson\r\nContent-Length: 100000\r\n\r\n" + body)
            client.close()
        daemon.until(lambda now: now["http"]["connections"] == 1 and now["broker"]["queued"] == 0)
        assert daemon.stop() == ""


def test_P03_cloudevents_in_all_three_modes():
    cloud = {"specversion": "1.0", "id": "1", "source": "/here", "type": "com.example.made",
             "subject": "thing", "time": "2024-02-29T12:00:00Z", "extra": "x",
             "datacontenttype": "application/json", "data": {"b": 1}}
    with Daemon() as daemon:
        structured = daemon.publish(cloud, CLOUD, status=201)
        kept = daemon.get(f"/v1/events/{structured['id']}")
        assert kept["type"] == cloud["type"] and kept["topic"] == "thing", kept
        assert kept["payload"] == {"b": 1} and kept["created_at"] == "2024-02-29T12:00:00.000000Z"
        # The same event by another mode is the same event.
        binary = daemon.publish('{"b": 1}', status=200, ce_specversion="1.0", ce_id="1",
                                CE_Source="/here", ce_type=cloud["type"], ce_subject="thing")
        assert binary["duplicate"] and binary["id"] == structured["id"]
        batch = daemon.publish([cloud, {**cloud, "id": "2"}, {**cloud, "specversion": "0.3"}],
                               CLOUD_BATCH, status=200)
        assert (batch["stored"], batch["duplicates"], batch["refused"]) == (1, 1, 1), batch
        assert batch["results"][2]["error"]["field"] == "specversion"
        assert refused(daemon, cloud, CLOUD_BATCH)["field"] == "body"
        problem = refused(daemon, {**cloud, "source": None}, CLOUD)
        assert problem["field"] == "source", problem


def test_P03_binary_mode_takes_any_data_and_decodes_header_fields():
    with Daemon() as daemon:
        data = bytes(range(256))
        answer = daemon.publish(data, "image/png", status=201, ce_specversion="1.0", ce_id="1",
                                ce_source="/here", ce_type="com.example.made",
                                ce_subject="Euro%20%E2%82%AC", ce_extra='"a\\"b"')
        kept = daemon.get(f"/v1/events/{answer['id']}")
        assert kept["topic"] == "Euro €" and kept["content_type"] == "image/png"
        assert base64.b64decode(kept["payload"]) == data
        assert kept["metadata"]["cloudevents"]["attributes"]["extra"] == 'a"b'
        for value in ("%", "%2", "%zz", "%00"):
            problem = refused(daemon, "1", ce_specversion="1.0", ce_id="2", ce_source="/h",
                              ce_type="a.b", ce_subject=value)
            assert problem["field"].lower() == "ce-subject", problem


def test_other_content_types_are_refused_before_the_body_is_sent():
    with Daemon() as daemon:
        for fields in ({"Content_Type": "text/plain"}, {}, {"Content_Type": "application/jsonp"},
                       {"Content_Type": LINES, "Content_Encoding": "gzip"}):
            with daemon.connect() as client:
                head = "".join(f"{name.replace('_', '-')}: {value}\r\n"
                               for name, value in fields.items())
                client.send(f"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{head}"
                            "Content-Length: 10\r\nExpect: 100-continue\r\n\r\n")
                problem = client.response().problem()
                assert problem["status"] == 415 and problem["field"].startswith("Content-")
        response = daemon.ask("POST", "/v1/events", '{"type": "a"}',
                              Content_Type="Application/JSON ; charset=utf-8")
        assert response.status == 201


def test_unknown_paths_methods_and_parameters():
    with Daemon() as daemon:
        for method, path, status in (("GET", "/", 404), ("GET", "/v1", 404), ("GET", "/v1/x", 404),
                                     ("GET", "/v1/events/", 404), ("GET", "/v1/events/a/b", 404),
                                     ("PUT", "/v1/events", 405), ("POST", "/v1/stream", 405),
                                     ("DELETE", "/metrics", 405), ("POST", "/v1/events?x=1", 400),
                                     ("GET", "/v1/stats?x=1", 400)):
            response = daemon.ask(method, path)
            assert response.status == status, (method, path, response.status)
            response.problem()


if __name__ == "__main__":
    tap.run(globals())
