"""fanfared over a store that fails, from a seed: what its clients are told is so."""

import json
import os
import random
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from daemon import Daemon, folder, request, together  # noqa: E402

FAULTS = ("append.errors=12%,append.unknown=12%,append.torn=4%,read.errors=10%,"
          "wait.deaf=10%,wait.early=10%,delay=5%,delay_ms=0-2,limit=2000")
CLAIM_FAULTS = "claim.errors=15%,settle.errors=15%,settle.unknown=15%,settle.torn=10%,limit=200"
STORES = ("memory:", "sqlite:{}/log.db")
COUNT = 60
PUBLISHERS = 3


def seeds():
    only = os.environ.get("FANFARE_SEED")
    many = 50 if os.environ.get("FANFARE_SOAK", "0") != "0" else 1
    return [int(only)] if only else range(1, 1 + many)


class Told:
    """What publishers were told of their events, by id."""

    def __init__(self):
        self.stored = {}
        self.refused = set()


def publish_some(daemon, chance, told, number):
    """One event after the other: again while in doubt, given up now and then when refused."""
    with daemon.connect() as client:
        for count in range(COUNT):
            id_ = f"p{number}-{count}"
            doubt = False
            while True:
                body = json.dumps({"id": id_, "type": "a.b", "topic": f"t{number}"})
                response = request(client, "POST", "/v1/events", body,
                                   Content_Type="application/json")
                if response.status in (200, 201):
                    told.stored[id_] = json.loads(response.body)["seq"]
                    break
                problem = response.problem()
                doubt |= "same id again" in problem["detail"]
                if not doubt and chance.random() < 0.5:
                    told.refused.add(id_)
                    break


def follow(daemon, wanted):
    """Reads the stream until it has so many events, going on where it broke off."""
    seen, last_id = [], None
    while len(seen) < wanted():
        query = {} if last_id else {"after": 0}
        with daemon.stream(last_event_id=last_id, **query) as stream:
            assert stream.response.status in (200, 503), stream.response.status
            while stream.response.status == 200 and len(seen) < wanted():
                frame = stream.frame()
                if frame is None:
                    break
                last_id = frame.id or last_id
                if frame.data is not None:
                    assert frame.event == "a.b", frame.event
                    seen.append((frame.seq, frame.json()["id"]))
    return seen


def run_publish(store, seed):
    told = Told()
    with Daemon(f"fault:seed={seed},{FAULTS}:{store}") as daemon:
        together(*(lambda number=number: publish_some(daemon, random.Random(seed + number), told,
                                                      number) for number in range(PUBLISHERS)))
        seen = follow(daemon, lambda: len(told.stored))
        assert [seq for seq, _ in seen] == sorted({seq for seq, _ in seen})
        assert dict((id_, seq) for seq, id_ in seen) == told.stored
        for id_ in sorted(told.refused)[:20]:
            while (response := daemon.ask("GET", f"/v1/events/{id_}")).status >= 500:
                pass
            assert response.status == 404, (id_, response.body)
    return len(told.refused)


def test_L06_L07_L09_what_clients_are_told_is_so():
    refused = 0
    for store in STORES:
        for seed in seeds():
            with folder() as place:
                print(f"# seed {seed}, {store}")
                refused += run_publish(store.format(place), seed)
    assert refused


def ask_until(daemon, target, body):
    """Asks again while the log does not answer; whether it did so at once."""
    at_once = True
    while True:
        response = daemon.ask("POST", target, json.dumps(body), Content_Type="application/json")
        if response.status == 200:
            return json.loads(response.body), at_once
        assert response.status >= 500, (response.status, response.body)
        at_once = False


def run_member(store, seed):
    chance = random.Random(seed)
    with Daemon(f"fault:seed={seed},{CLAIM_FAULTS}:{store}") as daemon:
        daemon.publish("\n".join(json.dumps({"type": "a.b", "id": f"e{n}"}) for n in range(COUNT)),
                       "application/x-ndjson")
        daemon.ask("PUT", "/v1/groups/g", json.dumps({"start": "beginning"}),
                   Content_Type="application/json")
        done = set()
        while len(done) < COUNT:
            answer, _ = ask_until(daemon, "/v1/groups/g/claim",
                                  {"owner": "me", "limit": chance.randint(1, 9)})
            items = [{"seq": claim["seq"], "token": claim["token"], "verdict": "done"}
                     for claim in answer["claims"]]
            if not items:
                continue
            answer, at_once = ask_until(daemon, "/v1/groups/g/settle", {"items": items})
            for result in answer["results"]:
                assert result["status"] == "settled" or not at_once, result
                assert result["seq"] not in done
                done.add(result["seq"])
        stats = daemon.get("/v1/stats")["store"]
        assert (stats["completed"], stats["pending"], stats["processing"]) == (COUNT, 0, 0), stats


def test_L08_a_member_settles_each_event_once():
    for store in STORES:
        for seed in seeds():
            with folder() as place:
                print(f"# seed {seed}, {store}")
                run_member(store.format(place), seed)


if __name__ == "__main__":
    tap.run(globals())
