"""GET /v1/events, health, stats and metrics, end to end against fanfared."""

import json
import sys
from pathlib import Path
from urllib.parse import quote, urlencode

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from daemon import Daemon, folder  # noqa: E402
from exposition import prometheus_text  # noqa: E402

LINES = "application/x-ndjson"
STORES = ("memory:", "sqlite:{}/log.db")


def listed(daemon, **query):
    return daemon.get(f"/v1/events?{urlencode(query)}")["events"]


def event_of(number):
    return {
        "id": f"e{number}",
        "type": f"s{number % 2}.t{number % 3}.{('create', 'delete')[number % 2]}",
        "topic": f"topic {number % 4}", "source": ("frontend", "system", "database")[number % 3],
        "user_id": number % 5 - 2, "instance_id": f"i{number % 2}",
        "created_at": f"2024-01-{number % 28 + 1:02}T00:00:00.000000Z", "payload": number,
    }


def test_P05_P22_list_answers_every_filter():
    events = [event_of(number) for number in range(100)]
    cases = [
        ({}, lambda event: True),
        ({"topic": "topic 1"}, lambda event: event["topic"] == "topic 1"),
        ({"topic": "none"}, lambda event: False),
        ({"type": "s1.t2.delete"}, lambda event: event["type"] == "s1.t2.delete"),
        ({"type": "*.t1.*"}, lambda event: ".t1." in event["type"]),
        ({"type": "s0.>"}, lambda event: event["type"].startswith("s0.")),
        ({"source": "system"}, lambda event: event["source"] == "system"),
        ({"status": "completed"}, lambda event: True),
        ({"status": "failed"}, lambda event: False),
        ({"user_id": -2}, lambda event: event["user_id"] == -2),
        ({"schema": "s1"}, lambda event: event["type"].startswith("s1.")),
        ({"entity": "t0"}, lambda event: ".t0." in event["type"]),
        ({"operation": "delete"}, lambda event: event["type"].endswith(".delete")),
        ({"instance_id": "i1"}, lambda event: event["instance_id"] == "i1"),
        ({"since": "2024-01-10T00:00:00Z"}, lambda event: event["created_at"][:10] >= "2024-01-10"),
        ({"until": "2024-01-10T01:00:00+01:00"},
         lambda event: event["created_at"][:10] < "2024-01-10"),
        ({"schema": "s1", "entity": "t1", "source": "system", "topic": "topic 3"},
         lambda event: event["type"].startswith("s1.t1.") and event["source"] == "system"
         and event["topic"] == "topic 3"),
    ]
    for store in STORES:
        with folder() as place, Daemon(store.format(place)) as daemon:
            daemon.publish("\n".join(map(json.dumps, events)), LINES)
            for query, wants in cases:
                expected = [event["id"] for event in events if wants(event)]
                found = [event["id"] for event in listed(daemon, order="oldest", **query)]
                assert found == expected, (query, found, expected)
                found = [event["id"] for event in listed(daemon, **query)]
                assert found == expected[::-1], query
            pages = []
            for offset in range(0, 120, 7):
                pages += listed(daemon, order="oldest", offset=offset, limit=7, source="system")
            assert [event["payload"] for event in pages] == [
                event["payload"] for event in events if event["source"] == "system"]
            whole = listed(daemon, limit=1)[0]
            assert {name: whole[name] for name in events[99]} == events[99]
            assert listed(daemon, offset=100) == []


def test_list_gives_a_hundred_and_a_thousand_at_most():
    with Daemon() as daemon:
        daemon.publish("\n".join(['{"type": "a"}'] * 1100), LINES)
        assert len(listed(daemon)) == 100
        assert len(listed(daemon, limit=1000)) == 1000
        assert daemon.get("/v1/events?limit=1001", 400)["field"] == "limit"


def test_list_is_strict():
    bad = {
        "type": ["", "a..b"], "source": ["", "mars", "FRONTEND"], "status": ["", "done"],
        "user_id": ["", "0", "x", "1.5", "9223372036854775808", "-"], "since": ["", "today"],
        "until": ["2024-13-01T00:00:00Z", "2024-01-01"],
        "limit": ["", "0", "-1", "+1", "1001", "x"],
        "offset": ["", "-1", "1e3", "99999999999999999999"], "order": ["", "up"],
        "colour": ["red"], "Limit": ["1"],
    }
    with Daemon() as daemon:
        for name, values in bad.items():
            for value in values:
                problem = daemon.get(f"/v1/events?{name}={quote(value)}", 400)
                assert problem["field"] == name and problem["reason"], (name, value, problem)
        for limit in (0, 1001):
            reason = daemon.get(f"/v1/events?limit={limit}", 400)["reason"]
            assert "1 to 1000" in reason, reason
        assert daemon.get("/v1/events?limit=1&limit=2", 400)["field"] == "limit"


def test_P05_get_of_an_unknown_id_is_not_found():
    with Daemon() as daemon:
        for name in ("nobody", "%20", "a%2Fb", "x" * 255, "x" * 300):
            problem = daemon.get(f"/v1/events/{name}", 404)
            assert problem["field"] == "id", problem
        assert daemon.ask("GET", "/v1/events/%00").status == 400


def test_L12_a_large_list_comes_in_pages():
    with folder() as place, Daemon(f"sqlite:{place}/log.db") as daemon:
        line = '{"type": "a", "payload": "%s"}' % ("x" * 1_000_000)
        for _ in range(4):
            daemon.publish("\n".join([line] * 10), LINES)
        offset, seen = 0, []
        while offset is not None:
            page = daemon.get(f"/v1/events?limit=100&order=oldest&offset={offset}")
            assert 0 < len(page["events"]) < 20, len(page["events"])
            seen += [event["seq"] for event in page["events"]]
            offset = page.get("next_offset")
        assert seen == list(range(1, 41)), seen
        page = daemon.get("/v1/events?limit=10")
        assert len(page["events"]) == 10 and "next_offset" not in page


def test_health_readiness_and_stats():
    with folder() as place, Daemon(f"sqlite:{place}/log.db") as daemon:
        assert daemon.ask("GET", "/healthz").status == 200
        assert daemon.ask("GET", "/readyz").status == 200
        assert daemon.ask("GET", "/nowhere").status == 404
        daemon.publish([{"type": "a", "id": "1"}, {"type": "a", "id": "1"}])
        with daemon.stream() as stream:
            stream.frame()
            stats = daemon.until(lambda now: now["streams"]["live"] == 1)
        assert stats["broker"]["published"] == 1 and stats["broker"]["duplicates"] == 1
        assert stats["broker"]["running"] is True and stats["broker"]["notified_seq"] == 1
        assert stats["store"]["kind"] == "sqlite" and stats["store"]["events"] == 1
        assert stats["store"]["epoch"] == daemon.epoch and stats["store"]["last_seq"] == 1
        assert stats["streams"]["open"] == 1 and stats["http"]["responses_4xx"] == 1
        assert stats["instance_id"] and stats["uptime_s"] >= 0


def metrics(daemon):
    return prometheus_text(daemon.ask("GET", "/metrics").body.decode())


def test_H14_metrics_in_prometheus_text():
    with Daemon() as daemon:
        daemon.publish([{"type": "a.b", "source": "system"}] * 3 + [{"type": 'q"\\uote'}])
        daemon.publish({"type": "a.b", "id": "1"})
        daemon.publish({"type": "a.b", "id": "1"})
        samples = metrics(daemon)
        name = "eventbroker_events_published_total"
        assert samples[name + '{source="system",type="a.b"}'] == 3
        assert samples[name + '{source="frontend",type="a.b"}'] == 1
        assert samples[name + '{source="frontend",type="q\\"\\\\uote"}'] == 1
        assert samples["eventbroker_events_duplicate_total"] == 1
        assert samples["eventbroker_queue_size"] == 0
        assert samples["eventbroker_log_events"] == 5
        assert samples["fanfare_http_connections"] >= 1
        assert samples['fanfare_http_responses_total{code="2xx"}'] == 3


def test_R06_labels_past_a_bound_become_other():
    with Daemon(loops=1) as daemon:
        daemon.publish("\n".join('{"type": "kind.%d"}' % number for number in range(1000)), LINES)
        samples = metrics(daemon)
        name = "eventbroker_events_published_total"
        labels = {key: value for key, value in samples.items() if key.startswith(name)}
        assert len(labels) == 201 and sum(labels.values()) == 1000
        assert labels[name + '{source="frontend",type="other"}'] == 800


def test_R06_a_type_named_other_joins_the_others():
    with Daemon(loops=1) as daemon:
        daemon.publish({"type": "other"})
        daemon.publish("\n".join('{"type": "kind.%d"}' % number for number in range(300)), LINES)
        # metrics() refuses a series that comes twice.
        samples = metrics(daemon)
        name = "eventbroker_events_published_total"
        assert samples[name + '{source="frontend",type="other"}'] == 101


if __name__ == "__main__":
    tap.run(globals())
