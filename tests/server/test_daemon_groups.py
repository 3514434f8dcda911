"""/v1/groups and /v1/dead, end to end against fanfared."""

import json
import resource
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from urllib.parse import quote, urlencode

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from daemon import Daemon, folder, request, together  # noqa: E402

LINES = "application/x-ndjson"
STORES = ("memory:", "sqlite:{}/log.db")
# Longer than any test waits; a wait that ends by itself would end a test that relies on it.
LONG_MS = 60000


def on_stores(test):
    def each():
        for store in STORES:
            with folder() as place, Daemon(store.format(place)) as daemon:
                test(daemon)
    each.__name__ = test.__name__
    return each


def ask(daemon, method, target, body=None, status=200, client=None):
    """The answer's JSON, or its problem, or None without a body."""
    text = "" if body is None else body if isinstance(body, str) else json.dumps(body)
    fields = {} if body is None else {"Content_Type": "application/json"}
    response = (request(client, method, target, text, **fields) if client else
                daemon.ask(method, target, text, **fields))
    assert response.status == status, (response.status, response.body)
    if status >= 400:
        return response.problem()
    return json.loads(response.body) if response.body else None


def path(group, verb="", handler=""):
    query = "?" + urlencode({"handler": handler}) if handler else ""
    return f"/v1/groups/{quote(group, safe='')}{'/' + verb if verb else ''}{query}"


def make(daemon, group="g", handler="", **options):
    return ask(daemon, "PUT", path(group, handler=handler), {"start": "beginning", **options},
               status=201)


def claim(daemon, group="g", owner="me", handler="", client=None, **options):
    return ask(daemon, "POST", path(group, "claim", handler), {"owner": owner, **options},
               client=client)["claims"]


def settle(daemon, claims, verdict, group="g", handler="", **more):
    items = [{"seq": one["seq"], "token": one["token"], "verdict": verdict, **more}
             for one in claims]
    return ask(daemon, "POST", path(group, "settle", handler), {"items": items})


def publish(daemon, count, first=1, type_="a.b", **more):
    daemon.publish("\n".join(json.dumps({"type": type_, "id": f"e{n}", "payload": n, **more})
                             for n in range(first, first + count)), LINES)


def deliveries(daemon, id_):
    return daemon.get(f"/v1/events/{id_}")["deliveries"]


def fail_all(daemon, count, group="g", handler="", **more):
    claims = claim(daemon, group, handler=handler, limit=count)
    assert len(claims) == count, claims
    assert settle(daemon, claims, "fail", group, handler, **more)["settled"] == count


# ---- Groups ----

@on_stores
def test_P09_groups_are_made_listed_and_deleted(daemon):
    publish(daemon, 3)
    assert ask(daemon, "GET", "/v1/groups") == {"groups": []}
    made = ask(daemon, "PUT", path("m/ä il", handler="h 1"), {"pattern": "a.*"}, status=201)
    assert made == {"group": "m/ä il", "handler": "h 1", "created": True}
    again = ask(daemon, "PUT", path("m/ä il", handler="h 1"), {"pattern": "a.>"})
    assert again["created"] is False
    make(daemon, "old")
    ask(daemon, "PUT", path("cut"), {"start": f"2@{daemon.epoch}"}, status=201)
    groups = {group["group"]: group for group in ask(daemon, "GET", "/v1/groups")["groups"]}
    assert sorted(groups) == ["cut", "m/ä il", "old"]
    late, old = groups["m/ä il"], groups["old"]
    assert (late["handler"], late["pattern"], late["lag"], late["pending"]) == ("h 1", "a.>", 0, 0)
    assert late["oldest_at"] is None and late["lag_s"] == 0 and late["joined_at"]
    assert (old["lag"], old["pending"], groups["cut"]["pending"]) == (3, 3, 1)
    assert old["oldest_at"] and old["lag_s"] >= 0
    assert len(daemon.get("/v1/stats")["groups"]) == 3
    ask(daemon, "DELETE", path("m/ä il"), status=404)
    ask(daemon, "DELETE", path("m/ä il", handler="h 1"), status=204)
    ask(daemon, "DELETE", path("m/ä il", handler="h 1"), status=404)
    assert len(ask(daemon, "GET", "/v1/groups")["groups"]) == 2


@on_stores
def test_P12_a_stream_gets_no_status_and_no_delete_notices(daemon):
    with daemon.stream() as stream:
        publish(daemon, 5)
        assert [frame.json()["id"] for frame in stream.take(5)] == [f"e{n}" for n in range(1, 6)]
        make(daemon)
        fail_all(daemon, 2)
        settle(daemon, claim(daemon), "done")
        settle(daemon, claim(daemon), "retry", delay_ms=0)
        settle(daemon, claim(daemon, limit=2), "hand_back")
        ask(daemon, "POST", "/v1/dead/redrive", {"id": "e1", "group": "g"})
        ask(daemon, "POST", "/v1/dead/discard", {"id": "e2", "group": "g"})
        ask(daemon, "DELETE", path("g"), status=204)
        publish(daemon, 1, first=6)
        frame = next(stream)
        assert frame.json()["id"] == "e6" and frame.seq == 6


@on_stores
def test_P09_claims_are_settled_renewed_and_lost(daemon):
    publish(daemon, 4)
    make(daemon)
    one, two, three = claim(daemon, limit=3, lease_ms=600000)
    assert [c["event"]["payload"] for c in (one, two, three)] == [1, 2, 3]
    assert all(isinstance(c["token"], str) and c["attempt"] == 1 and c["lapses"] == 0
               for c in (one, two, three))
    done = settle(daemon, [one], "done")
    assert done == {"results": [{"seq": 1, "status": "settled"}], "settled": 1, "lost": 0}
    assert settle(daemon, [one], "done")["results"] == [{"seq": 1, "status": "lost"}]
    assert settle(daemon, [two], "retry", error="not yet")["settled"] == 1
    assert settle(daemon, [three], "hand_back")["settled"] == 1
    renewed = ask(daemon, "POST", path("g", "renew"), {"lease_ms": 600000, "items": [
        {"seq": 1, "token": one["token"]}]})
    assert renewed == {"results": [{"seq": 1, "status": "lost"}], "renewed": 0, "lost": 1}
    again = claim(daemon, limit=10)
    assert [(c["seq"], c["attempt"]) for c in again] == [(2, 2), (3, 1), (4, 1)]
    assert deliveries(daemon, "e2")[0]["error"] == "not yet"
    renewed = ask(daemon, "POST", path("g", "renew"), {"items": [
        {"seq": c["seq"], "token": c["token"]} for c in again]})
    assert renewed["renewed"] == 3
    assert settle(daemon, again, "done")["settled"] == 3
    assert claim(daemon) == []
    group = ask(daemon, "GET", "/v1/groups")["groups"][0]
    assert (group["completed"], group["pending"], group["lag"]) == (4, 0, 0)
    assert [d["status"] for d in deliveries(daemon, "e4")] == ["completed"]


@on_stores
def test_H04_ordered_claims_keep_the_order_of_a_key(daemon):
    for number in range(6):
        publish(daemon, 1, first=number, topic=f"key{number % 2}")
    make(daemon)
    first = claim(daemon, owner="x", ordered=True, limit=6)
    assert [c["event"]["payload"] for c in first] == [0, 1], first
    assert claim(daemon, owner="y", ordered=True, limit=6) == []
    settle(daemon, first[1:], "retry", delay_ms=LONG_MS)
    settle(daemon, first[:1], "done")
    assert [c["event"]["payload"] for c in claim(daemon, owner="x", ordered=True, limit=6)] == [2]


# ---- Waiting ----

@on_stores
def test_P09_who_waits_is_given_the_event_when_it_comes(daemon):
    make(daemon, pattern="wanted.*")
    got = []

    def wait(owner):
        got.extend(claim(daemon, owner=owner, wait_ms=LONG_MS))

    threads = [threading.Thread(target=wait, args=[f"o{n}"]) for n in range(4)]
    for thread in threads:
        thread.start()
    publish(daemon, 50, type_="other.thing")
    publish(daemon, 4, first=100, type_="wanted.thing")
    for thread in threads:
        thread.join()
    assert sorted(c["event"]["payload"] for c in got) == [100, 101, 102, 103]
    assert {c["attempt"] for c in got} == {1}


@on_stores
def test_P09_who_waits_is_given_what_becomes_due(daemon):
    make(daemon)
    publish(daemon, 1)
    settle(daemon, claim(daemon), "retry", delay_ms=300)
    (again,) = claim(daemon, wait_ms=LONG_MS, lease_ms=300)
    assert again["attempt"] == 2
    (lapsed,) = claim(daemon, wait_ms=LONG_MS)
    assert (lapsed["attempt"], lapsed["lapses"]) == (3, 1)


def test_P09_a_wait_is_over_in_time_and_with_its_group():
    with Daemon() as daemon:
        make(daemon)
        assert claim(daemon, wait_ms=1) == []
        assert claim(daemon, wait_ms=0) == []
        with daemon.connect() as client:
            body = json.dumps({"owner": "x", "wait_ms": LONG_MS})
            client.send(f"POST {path('g', 'claim')} HTTP/1.1\r\nHost: localhost\r\n"
                        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                        f"{body}")
            assert client.quiet()
            ask(daemon, "DELETE", path("g"), status=204)
            response = client.response()
            assert response.status == 404 and response.problem()["field"] == "group"


def unanswered(http):
    """How many requests have come and wait for an answer, the one for these counters among them."""
    return http["requests"] - sum(http[f"responses_{n}xx"] for n in (2, 3, 4, 5))


def test_H09_waits_end_when_the_server_stops():
    with Daemon() as daemon:
        make(daemon)
        answers = []
        daemon.until(lambda stats: stats["http"]["connections"] == 1)

        def wait(owner):
            answers.append(claim(daemon, owner=owner, wait_ms=LONG_MS))

        threads = [threading.Thread(target=wait, args=[f"o{n}"]) for n in range(8)]
        for thread in threads:
            thread.start()
        daemon.until(lambda stats: unanswered(stats["http"]) == 9)
        daemon.stop()
        for thread in threads:
            thread.join()
        assert answers == [[]] * 8, answers


@on_stores
def test_P09_what_was_for_one_who_has_gone_goes_to_another(daemon):
    """Nothing is claimed for a client that hung up, or it is handed back at once."""
    make(daemon)
    body = json.dumps({"owner": "gone", "wait_ms": LONG_MS, "lease_ms": 3600000})
    for number in range(20):
        with daemon.connect() as client:
            client.send(f"POST {path('g', 'claim')} HTTP/1.1\r\nHost: localhost\r\n"
                        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                        f"{body}")
            assert number % 2 or client.quiet(0.02)
        # Its loop may come to it after the one that tells: it is gone once its request is dropped.
        daemon.until(lambda stats: unanswered(stats["http"]) == number + 2 and
                     stats["http"]["connections"] == 1)
        publish(daemon, 1, first=number)
        (got,) = claim(daemon, owner="here", wait_ms=LONG_MS)
        assert (got["event"]["payload"], got["attempt"], got["lapses"]) == (number, 1, 0)
        settle(daemon, [got], "done")


def test_L12_the_number_of_those_who_wait_is_bounded():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most < 1100:
        raise tap.Skip(f"only {most} descriptors")
    with Daemon(loops=1) as daemon:
        make(daemon)
        body = json.dumps({"owner": "x", "wait_ms": LONG_MS})
        text = (f"POST {path('g', 'claim')} HTTP/1.1\r\nHost: localhost\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}")
        clients = []
        for _ in range(1000):
            clients.append(daemon.connect())
            clients[-1].send(text)
        daemon.until(lambda stats: stats["http"]["requests"] >= 1000)
        with daemon.connect() as client:
            client.send(text)
            response = client.response()
            assert response.status == 503 and int(response.fields["retry-after"]) > 0
        publish(daemon, 1)
        answers = [client for client in clients if not client.quiet(0)]
        while not answers:
            answers = [client for client in clients if not client.quiet(0)]
        assert len(answers) == 1 and answers[0].response().status == 200
        for client in clients:
            client.close()


# ---- Dead letters ----

@on_stores
def test_H06_dead_letters_are_listed_and_shown(daemon):
    publish(daemon, 3, topic="t")
    for group, handler in (("g", ""), ("g", "second"), ("other", "")):
        make(daemon, group, handler)
        fail_all(daemon, 3, group, handler, error="no such address")
    whole = daemon.get("/v1/dead")
    assert whole["next"] is None and len(whole["dead"]) == 9
    letter = whole["dead"][0]
    assert (letter["id"], letter["seq"], letter["type"], letter["topic"], letter["attempts"],
            letter["reason"], letter["error"], letter["lapses"], letter["cursor"]) == (
        "e1", 1, "a.b", "t", 1, "failed", "no such address", 0, f"1@{daemon.epoch}")
    assert letter["completed_at"] and letter["processed_at"] and letter["created_at"]
    assert len(daemon.get("/v1/dead?group=g")["dead"]) == 6
    assert len(daemon.get("/v1/dead?group=g&handler=second&type=a.*&topic=t")["dead"]) == 3
    assert daemon.get("/v1/dead?type=b")["dead"] == []
    assert daemon.get("/v1/dead?topic=")["dead"] == []
    # A page ends with all of an event.
    seen, after = [], 0
    while after is not None:
        page = daemon.get(f"/v1/dead?limit=1&after={after}")
        assert len(page["dead"]) == 3, page
        seen += page["dead"]
        after = page["next"]
    assert seen == whole["dead"]
    for name in ("e2", "2"):
        shown = daemon.get(f"/v1/dead/{name}")
        assert shown["event"]["id"] == "e2" and shown["event"]["status"] == "failed"
        assert [(d["group"], d["handler"]) for d in shown["dead"]] == [
            ("g", ""), ("g", "second"), ("other", "")]
    publish(daemon, 1, first=9)
    for name in ("e9", "4", "5", "nobody", "x" * 300):
        assert daemon.get(f"/v1/dead/{name}", status=404)["field"] == "id"


@on_stores
def test_H06_dead_letters_are_redriven_and_discarded(daemon):
    publish(daemon, 6)
    make(daemon)
    fail_all(daemon, 5, error="why")
    moved = ask(daemon, "POST", "/v1/dead/redrive", {"id": "e1", "group": "g"})
    assert moved == {"moved": 1, "next": None}
    assert ask(daemon, "POST", "/v1/dead/discard", {"seq": 2, "group": "g", "handler": ""}) == moved
    assert [d["status"] for d in deliveries(daemon, "e2")] == ["completed"]
    (again,) = claim(daemon)
    assert (again["seq"], again["attempt"]) == (1, 1)
    for body in ({"id": "e1", "group": "g"}, {"seq": 2, "group": "g"}):
        for verb in ("redrive", "discard"):
            problem = ask(daemon, "POST", f"/v1/dead/{verb}", body, status=409)
            assert problem["field"] in ("id", "seq"), problem
    for body, field in (({"id": "e77", "group": "g"}, "id"), ({"seq": 3, "group": "x"}, "group"),
                        ({"seq": 77, "group": "g"}, "group"), ({"seq": 6, "group": "g"}, "group"),
                        ({"seq": 3, "group": "g", "handler": "h"}, "group")):
        assert ask(daemon, "POST", "/v1/dead/redrive", body, status=404)["field"] == field
    assert len(daemon.get("/v1/dead")["dead"]) == 3


@on_stores
def test_H06_many_dead_letters_are_moved_with_a_bound(daemon):
    publish(daemon, 40, topic="x")
    publish(daemon, 10, first=100, type_="c.d", topic="y")
    for group in ("g", "h"):
        make(daemon, group)
        fail_all(daemon, 50, group)
    moved = ask(daemon, "POST", "/v1/dead/redrive", {"group": "g", "type": "a.*", "limit": 15})
    assert moved["moved"] == 15 and moved["next"] == 15
    moved = ask(daemon, "POST", "/v1/dead/redrive",
                {"group": "g", "type": "a.*", "after": moved["next"]})
    assert moved == {"moved": 25, "next": None}
    assert len(daemon.get("/v1/dead?group=g")["dead"]) == 10
    assert ask(daemon, "POST", "/v1/dead/discard", {"topic": "y"})["moved"] == 20
    assert ask(daemon, "POST", "/v1/dead/discard", {"all": True})["moved"] == 40
    assert ask(daemon, "POST", "/v1/dead/discard", {"all": True})["moved"] == 0
    assert len(claim(daemon, limit=100)) == 40
    groups = {group["group"]: group for group in ask(daemon, "GET", "/v1/groups")["groups"]}
    assert (groups["h"]["failed"], groups["h"]["completed"]) == (0, 50)


@on_stores
def test_L08_what_lapses_three_times_is_a_dead_letter(daemon):
    publish(daemon, 1)
    make(daemon)
    for lapses in range(3):
        (got,) = claim(daemon, lease_ms=100, wait_ms=LONG_MS)
        assert (got["lapses"], got["attempt"]) == (lapses, lapses + 1)
    with daemon.connect() as client:
        body = json.dumps({"owner": "x", "wait_ms": LONG_MS})
        client.send(f"POST {path('g', 'claim')} HTTP/1.1\r\nHost: localhost\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}")
        (letter,) = daemon.until(lambda answer: answer["dead"], "/v1/dead")["dead"]
        assert (letter["reason"], letter["lapses"]) == ("lapses", 3)
        assert "holders" in letter["error"]
        assert client.quiet()
        ask(daemon, "POST", "/v1/dead/redrive", {"group": "g"})
        (got,) = json.loads(client.response().body)["claims"]
        assert (got["seq"], got["attempt"], got["lapses"]) == (1, 1, 0)


@on_stores
def test_L08_what_kills_its_member_is_a_dead_letter_alone(daemon):
    publish(daemon, 20)
    make(daemon)
    done = []
    while not daemon.get("/v1/dead")["dead"] or len(done) < 19:
        # A member that is lost when it comes to e7, with all that it has not settled.
        got = claim(daemon, limit=20, lease_ms=100, wait_ms=500)
        if any(one["lapses"] == 2 for one in got):
            assert len(got) == 1, got
        if all(one["event"]["id"] != "e7" for one in got) and got:
            assert settle(daemon, got, "done")["settled"] == len(got)
            done += got
    (letter,) = daemon.get("/v1/dead")["dead"]
    assert (letter["id"], letter["reason"], letter["lapses"]) == ("e7", "lapses", 3)
    group = ask(daemon, "GET", "/v1/groups")["groups"][0]
    assert (group["completed"], group["failed"], group["pending"]) == (19, 1, 0)


@on_stores
def test_L08_what_two_were_lost_with_comes_alone_beside_a_backlog(daemon):
    publish(daemon, 1)
    make(daemon)
    for _ in range(2):
        (_,) = claim(daemon, lease_ms=100, wait_ms=LONG_MS)
    publish(daemon, 2, first=2)
    got = []
    while not any(one["lapses"] for one in got):
        got = claim(daemon, limit=2, wait_ms=LONG_MS)
        # What is handed back and what is retried: there are always two that are due.
        back = [one for one in got if not one["lapses"]]
        if back:
            settle(daemon, back[:1], "hand_back")
        if back[1:]:
            settle(daemon, back[1:], "retry", delay_ms=0)
    assert [(one["seq"], one["lapses"]) for one in got] == [(1, 2)]


@on_stores
def test_H05_reasons_are_kept(daemon):
    publish(daemon, 2)
    make(daemon)
    one, two = claim(daemon, limit=2)
    settle(daemon, [one], "fail", reason="retries", error="ä" * 500)
    settle(daemon, [two], "fail")
    assert [(d["reason"], len(d["error"])) for d in daemon.get("/v1/dead")["dead"]] == [
        ("retries", 500), ("failed", 0)]


# ---- Refusals ----

def test_P02_what_is_wrong_is_named():
    with Daemon() as daemon:
        publish(daemon, 1)
        make(daemon)
        good = {"seq": 1, "token": "1", "verdict": "done"}
        wrongs = [
            ("PUT", path("g"), {"pattern": "a..b"}, "pattern"),
            ("PUT", path("g"), {"start": "yesterday"}, "start"),
            ("PUT", path("g"), {"topic": 7}, "topic"),
            ("PUT", path("g"), {"colour": 7}, "colour"),
            ("PUT", path("x" * 256), {}, "group"),
            ("PUT", path("g", handler="x" * 256), {}, "handler"),
            ("POST", path("g", "claim"), {}, "owner"),
            ("POST", path("g", "claim"), {"owner": None}, "owner"),
            ("POST", path("g", "claim"), {"owner": ""}, "owner"),
            ("POST", path("g", "claim"), {"owner": "x", "limit": 0}, "limit"),
            ("POST", path("g", "claim"), {"owner": "x", "limit": 1001}, "limit"),
            ("POST", path("g", "claim"), {"owner": "x", "limit": 1.5}, "limit"),
            ("POST", path("g", "claim"), {"owner": "x", "lease_ms": 99}, "lease_ms"),
            ("POST", path("g", "claim"), {"owner": "x", "wait_ms": 60001}, "wait_ms"),
            ("POST", path("g", "claim"), {"owner": "x", "wait_ms": -1}, "wait_ms"),
            ("POST", path("g", "claim"), {"owner": "x", "ordered": 1}, "ordered"),
            ("POST", path("g", "claim"), [], "body"),
            ("POST", path("g", "claim"), "{", "body"),
            ("POST", path("g", "claim"), '{"owner":"x","owner":"y"}', "body"),
            ("POST", path("g", "settle"), {}, "items"),
            ("POST", path("g", "settle"), {"items": []}, "items"),
            ("POST", path("g", "settle"), {"items": [good] * 1001}, "items"),
            ("POST", path("g", "settle"), {"items": [good, 7]}, "items"),
            ("POST", path("g", "settle"), {"items": [good, {**good, "token": 1}]},
             "items[1].token"),
            ("POST", path("g", "settle"), {"items": [{**good, "token": "1x"}]}, "items[0].token"),
            ("POST", path("g", "settle"), {"items": [{**good, "token": str(1 << 64)}]},
             "items[0].token"),
            ("POST", path("g", "settle"), {"items": [{**good, "verdict": "maybe"}]},
             "items[0].verdict"),
            ("POST", path("g", "settle"), {"items": [{"seq": 1, "token": "1"}]},
             "items[0].verdict"),
            ("POST", path("g", "settle"), {"items": [{**good, "seq": 0}]}, "items[0].seq"),
            ("POST", path("g", "settle"), {"items": [{**good, "error": "x" * 1001}]},
             "items[0].error"),
            ("POST", path("g", "settle"), {"items": [{**good, "reason": "retries"}]},
             "items[0].reason"),
            ("POST", path("g", "settle"),
             {"items": [{**good, "verdict": "fail", "reason": "lapses"}]}, "items[0].reason"),
            ("POST", path("g", "renew"), {"items": [good]}, "items[0].verdict"),
            ("POST", path("g", "renew"), {"lease_ms": 1, "items": []}, "lease_ms"),
            ("POST", "/v1/dead/redrive", {}, "group"),
            ("POST", "/v1/dead/redrive", {"seq": 1}, "group"),
            ("POST", "/v1/dead/redrive", {"seq": 1, "id": "e1", "group": "g"}, "seq"),
            ("POST", "/v1/dead/redrive", {"id": "e1", "group": "g", "type": "a"}, "id"),
            ("POST", "/v1/dead/discard", {"all": "yes"}, "all"),
            ("POST", "/v1/dead/discard", {"all": False}, "group"),
            ("POST", "/v1/dead/discard", {"group": "g", "limit": 1001}, "limit"),
            ("POST", "/v1/dead/discard", {"type": "a..b"}, "type"),
        ]
        with daemon.connect() as client:
            for method, target, body, field in wrongs:
                problem = ask(daemon, method, target, body, status=400, client=client)
                assert problem["field"] == field, (target, body, problem)
            for query, field in (("limit=0", "limit"), ("limit=1001", "limit"),
                                 ("after=-1", "after"), ("after=x", "after"),
                                 ("type=a..b", "type"), ("x=1", "x"),
                                 ("group=" + "x" * 256, "group"), ("group=%zz", "group")):
                problem = ask(daemon, "GET", f"/v1/dead?{query}", status=400, client=client)
                assert problem["field"] == field, (query, problem)
            start = {"start": "1@" + "f" * 16}
            assert ask(daemon, "PUT", path("n"), start, status=409)["field"] == "start"
            for verb, body in (("claim", {"owner": "x"}), ("settle", {"items": [good]}),
                               ("renew", {"items": [{"seq": 1, "token": "1"}]})):
                assert ask(daemon, "POST", path("n", verb), body, status=404)["field"] == "group"
        assert ask(daemon, "GET", "/v1/groups")["groups"][0]["pending"] == 1


def test_P02_a_body_must_say_what_it_is_and_be_short():
    with Daemon() as daemon:
        for method, target in (("PUT", path("g")), ("POST", path("g", "claim")),
                               ("POST", path("g", "settle")), ("POST", "/v1/dead/discard")):
            assert daemon.ask(method, target, "{}").status == 415
            assert daemon.ask(method, target, "{}", Content_Type="text/plain").status == 415
            assert daemon.ask(method, target, "{}", Content_Type="application/json",
                              Content_Encoding="gzip").status == 415
            assert daemon.ask(method, target, " " * 3000000,
                              Content_Type="application/json").status == 413
        assert daemon.ask("GET", path("g")).status == 405
        assert daemon.ask("DELETE", "/v1/dead").status == 405


# ---- Together ----

@on_stores
def test_P09_many_members_handle_each_event_once(daemon):
    make(daemon)
    handled, lock = [], threading.Lock()
    total = 600

    def member(owner):
        with daemon.connect() as client:
            while True:
                got = claim(daemon, owner=owner, client=client, limit=7, wait_ms=500)
                with lock:
                    handled.extend(c["event"]["payload"] for c in got)
                    if not got and len(handled) >= total:
                        return
                if got:
                    items = [{"seq": c["seq"], "token": c["token"], "verdict": "done"}
                             for c in got]
                    ask(daemon, "POST", path("g", "settle"), {"items": items}, client=client)

    def publisher():
        for number in range(total // 20):
            publish(daemon, 20, first=number * 20)

    together(publisher, *[lambda n=n: member(f"m{n}") for n in range(6)])
    assert sorted(handled) == list(range(total))
    group = ask(daemon, "GET", "/v1/groups")["groups"][0]
    assert (group["completed"], group["pending"], group["processing"]) == (total, 0, 0)


def test_L08_claims_outlive_a_kill_of_the_server():
    with folder() as place:
        daemon = Daemon(f"sqlite:{place}/log.db")
        publish(daemon, 3)
        make(daemon)
        got = claim(daemon, limit=2, lease_ms=3600000)
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.communicate()
        with Daemon(f"sqlite:{place}/log.db") as daemon:
            assert [c["seq"] for c in claim(daemon, limit=10)] == [3]
            assert settle(daemon, got, "done")["settled"] == 2


def test_P11_a_server_that_was_down_deletes_no_group():
    with folder() as place:
        store = f"sqlite:{place}/log.db"
        with Daemon(store) as daemon:
            make(daemon)
            publish(daemon, 50)
            assert settle(daemon, claim(daemon), "done")["settled"] == 1
        # Three minutes go by.
        with sqlite3.connect(f"{place}/log.db") as log:
            log.execute("UPDATE grp SET joined_us = joined_us - 180000000")
        log.close()
        with Daemon(store, "--retention-group-age", "2m", "--retention-age", "1s",
                    "--retention-interval", "100ms") as daemon:
            # It has looked at everything: what was done went.
            daemon.until(lambda stats: stats["broker"]["removed"] == 1)
            assert len(claim(daemon, limit=100)) == 49


if __name__ == "__main__":
    tap.run(globals())
