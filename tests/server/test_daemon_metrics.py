"""/metrics for who reads it: promtool, a Prometheus of its own, and counts alike everywhere."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from client import PATIENCE_S  # noqa: E402
from daemon import Daemon, folder  # noqa: E402
from exposition import prometheus_text  # noqa: E402

COUNTERS = os.environ.get("FANFARE_COUNTERS", "")
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
NAMES = ("eventbroker_events_published_total", "eventbroker_events_processed_total",
         "eventbroker_event_processing_duration_seconds_bucket", "eventbroker_queue_size",
         "eventbroker_workers_active")


def post(daemon, target, body):
    response = daemon.ask("POST", target, json.dumps(body), Content_Type="application/json")
    assert response.status == 200, response.body
    return json.loads(response.body)


def make_group(daemon):
    response = daemon.ask("PUT", "/v1/groups/mail", "{}", Content_Type="application/json")
    assert response.status == 201, response.body


def work(daemon, verdict_of, count):
    """Settles what is due, until so many verdicts were given."""
    while count > 0:
        claims = post(daemon, "/v1/groups/mail/claim",
                      {"owner": "me", "limit": 100, "wait_ms": 1000})["claims"]
        items = [{"seq": claim["seq"], "token": claim["token"], **verdict_of(claim)}
                 for claim in claims]
        if items:
            answer = post(daemon, "/v1/groups/mail/settle", {"items": items})
            assert answer["settled"] == len(items), answer
        count -= len(items)


def traffic(daemon):
    make_group(daemon)
    answer = daemon.publish([{"type": f"shop.orders.{name}", "source": "system"}
                             for name in ("create", "update", "delete") * 5]
                            + [{"type": 'q"\\uote'}, {"type": "naïve"}])
    assert answer["stored"] == 17, answer
    work(daemon, lambda claim: {"verdict": "done" if claim["seq"] % 3 else "fail"}, 17)


def text_of(daemon):
    response = daemon.ask("GET", "/metrics")
    assert response.fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return response.body.decode()


# ---- Tools ----


def test_H14_promtool_has_nothing_to_say():
    with folder() as place, Daemon(f"sqlite:{place}/log.db") as daemon:
        traffic(daemon)
        text = text_of(daemon)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True,
                          text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done


def test_H14_openmetrics_for_who_asks():
    with Daemon() as daemon:
        traffic(daemon)
        response = daemon.ask("GET", "/metrics", Accept="application/openmetrics-text")
        assert response.fields["content-type"] == OPENMETRICS
        lines = response.body.decode().splitlines()
        plain = prometheus_text(text_of(daemon))
    assert lines[-1] == "# EOF" and lines.count("# EOF") == 1
    families = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert len(families) == len(set(families)), sorted(families)
    assert not [name for name in families if name.endswith("_total")]
    series = {line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")}
    assert series == set(plain), series ^ set(plain)


def test_H14_the_page_lists_every_family():
    """With its type and its labels, and nothing else; relays and captures run elsewhere."""
    page = (Path(__file__).resolve().parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
    row = re.compile(r"^\| `(\w+)` \| (\w+) \| ([a-z, ]*)\| [^|]+ \|$", re.M)
    told = {name: (kind, tuple(re.findall(r"\w+", labels)))
            for name, kind, labels in row.findall(page)
            if not name.startswith(("eventbroker_relay_", "eventbroker_capture_"))}
    with Daemon() as daemon:
        traffic(daemon)
        daemon.publish({"type": "late", "source": "system"})
        work(daemon, lambda claim: {"verdict": "retry", "delay_ms": 60000}, 1)
        response = daemon.ask("GET", "/metrics", Accept="application/openmetrics-text")
    suffixes = {"counter": "_total", "info": "_info", "gauge": "", "histogram": ""}
    found, kind, name = {}, None, None
    for line in response.body.decode().splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
        elif not line.startswith("#"):
            labels = tuple(re.findall(r'[{,](\w+)="', line))
            labels = tuple(label for label in labels if label != "le")
            found.setdefault(name + suffixes[kind], (kind, labels))
    assert found == told, set(found.items()) ^ set(told.items())


class Prometheus:
    """A Prometheus that scrapes one address, in a folder and on a port of its own."""

    def __init__(self, place, address):
        config = Path(place) / "prometheus.yml"
        config.write_text("global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
                          "scrape_configs:\n"
                          "- job_name: fanfare\n"
                          "  static_configs: [{targets: ['%s:%d']}]\n" % address)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = open(Path(place) / "prometheus.log", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={place}/tsdb",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, cwd=place)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.process.kill()
        self.process.wait()
        self.log.seek(0)
        for line in self.log if kind else []:
            print("# prometheus:", line.rstrip())
        self.log.close()

    def get(self, path, **query):
        """The data of an answer; None while there is no answer."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(query)}",
                                        timeout=PATIENCE_S) as answer:
                return json.load(answer)["data"]
        except (urllib.error.URLError, ConnectionError):
            return None

    def until(self, path, condition, **query):
        deadline = time.monotonic() + PATIENCE_S
        while True:
            data = self.get(path, **query)
            if data and condition(data):
                return data
            assert time.monotonic() < deadline, data
            try:
                self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError("prometheus has ended")

    def value(self, expression):
        """What an expression gives, as soon as it gives something."""
        data = self.until("/api/v1/query", lambda data: data["result"], query=expression)
        return float(data["result"][0]["value"][1])


def test_H14_a_prometheus_scrapes_it_and_knows_the_names():
    with folder() as place, Daemon(f"sqlite:{place}/log.db") as daemon:
        traffic(daemon)
        with Prometheus(place, daemon.address) as prometheus:
            for name in NAMES:
                prometheus.value(name)
            assert prometheus.value('eventbroker_events_published_total'
                                    '{source="system",type="shop.orders.create"}') == 5
            assert prometheus.value('sum(eventbroker_events_published_total)') == 17
            assert prometheus.value('sum(eventbroker_events_processed_total)') == 17
            assert prometheus.value(
                'sum(eventbroker_events_processed_total{status="failed"})') == 5
            assert prometheus.value(
                r'''eventbroker_events_published_total{type="q\"\\uote"}''') == 1
            assert prometheus.value('eventbroker_events_published_total{type="naïve"}') == 1
            assert prometheus.value('eventbroker_group_dead_letters{group="mail"}') == 5
            assert prometheus.value("histogram_quantile(0.99, sum by (le) "
                                    "(eventbroker_append_duration_seconds_bucket))") > 0
            targets = prometheus.get("/api/v1/targets")["activeTargets"]
            assert [(one["health"], one["lastError"]) for one in targets] == [("up", "")], targets
            # It asked for OpenMetrics: the other format tells no units.
            about = prometheus.until("/api/v1/metadata", bool,
                                     metric="eventbroker_append_duration_seconds")
            about = about["eventbroker_append_duration_seconds"][0]
            assert about["type"] == "histogram" and about["unit"] == "seconds", about


# ---- The same counts in every mode ----


def in_process(mode):
    done = subprocess.run([COUNTERS, mode], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done
    return done.stdout


def verdict_of(claim):
    """As tests/broker/counters.h: one retry, and a worn out event is a dead letter."""
    kind = claim["event"]["type"]
    if kind == "a.fail":
        return {"verdict": "fail"}
    if claim["attempt"] == 1 and kind in ("a.retry", "a.worn"):
        return {"verdict": "retry", "delay_ms": 1}
    if kind == "a.worn":
        return {"verdict": "fail", "reason": "retries"}
    return {"verdict": "done"}


def remote(store):
    with Daemon(store) as daemon:
        make_group(daemon)
        types = ["a.done"] * 4 + ["a.retry"] * 3 + ["a.fail"] * 2
        daemon.publish([{"type": one, "source": "internal"} for one in types])
        for _ in range(2):
            daemon.publish({"type": "a.worn", "source": "internal", "id": "twice"})
        work(daemon, verdict_of, 14)
        return text_of(daemon), daemon.get("/v1/stats")["broker"]


def test_L13_counts_are_alike_in_sync_and_async_in_process_and_remote():
    wanted = in_process("async")
    assert 'type="a.worn",status="failed"} 1\n' in wanted, wanted
    assert in_process("sync") == wanted
    assert in_process("stepped") == wanted
    with folder() as place:
        for store in ("memory:", f"sqlite:{place}/log.db"):
            text, stats = remote(store)
            lines = text.splitlines()
            for line in wanted.splitlines():
                name, value = line.rsplit(" ", 1)
                if name in stats:
                    assert stats[name] == int(value), (name, stats)
                else:
                    assert line in lines, (line, text)


def test_P16_stats_tell_how_far_a_copy_is():
    events = "\n".join(json.dumps({"type": "a.b", "id": f"e{n}"}) for n in range(3))
    with Daemon("tee:memory:|memory:") as daemon:
        daemon.publish(events, "application/x-ndjson")
        copy = daemon.until(lambda stats: stats["copy"]["copied_seq"] == 3)["copy"]
        assert (copy["lag"], copy["copied"], copy["status"], copy["words"]) == (0, 3, "ok", "")
    with Daemon("tee:memory:|fault:append.no_space=100%:memory:") as daemon:
        daemon.publish(events, "application/x-ndjson")
        copy = daemon.until(lambda stats: stats["copy"]["failures"] > 0)["copy"]
        assert (copy["lag"], copy["copied"], copy["status"]) == (3, 0, "no space left"), copy
        assert copy["words"]
    with Daemon() as daemon:
        assert "copy" not in daemon.get("/v1/stats")


def test_L13_a_lost_claim_and_a_hand_back_count_as_in_process():
    with Daemon() as daemon:
        make_group(daemon)
        daemon.publish([{"type": "a"}] * 2)
        claims = post(daemon, "/v1/groups/mail/claim", {"owner": "me", "limit": 2})["claims"]
        items = [{"seq": claim["seq"], "token": claim["token"]} for claim in claims]
        post(daemon, "/v1/groups/mail/settle",
             {"items": [{**items[0], "verdict": "done"}, {**items[1], "verdict": "hand_back"}]})
        answer = post(daemon, "/v1/groups/mail/settle",
                      {"items": [{**item, "verdict": "done"} for item in items]})
        assert answer["lost"] == 2, answer
        stats = daemon.get("/v1/stats")["broker"]
        assert (stats["processed"], stats["lost"], stats["failed"]) == (1, 2, 0), stats
        samples = prometheus_text(text_of(daemon))
        name = 'eventbroker_events_processed_total{source="frontend",type="a",status="completed"}'
        assert samples[name] == 1
        assert samples["eventbroker_verdicts_lost_total"] == 2


def test_L13_what_lapses_three_times_counts_as_failed_as_in_process():
    with folder() as place:
        for store in ("memory:", f"sqlite:{place}/log.db"):
            with Daemon(store) as daemon:
                make_group(daemon)
                daemon.publish([{"type": "a", "source": "system"}] * 2)
                asked = {"owner": "me", "lease_ms": 100, "wait_ms": 60000}
                for _ in range(6):
                    (_,) = post(daemon, "/v1/groups/mail/claim", asked)["claims"]
                while len(daemon.get("/v1/dead")["dead"]) < 2:
                    answer = post(daemon, "/v1/groups/mail/claim", {**asked, "wait_ms": 200})
                    assert answer["claims"] == [], answer
                stats = daemon.get("/v1/stats")["broker"]
                assert stats["dead"] == 2, stats
                assert (stats["failed"], stats["processed"], stats["lost"]) == (2, 2, 0), stats
                samples = prometheus_text(text_of(daemon))
            name = 'eventbroker_events_processed_total{source="system",type="a",status="failed"}'
            assert samples[name] == 2, samples


def test_H17_stats_tell_instance_mode_and_provider():
    with folder() as place:
        config = Path(place) / "fanfare.yaml"
        config.write_text("event_broker: {instance_id: node-7, mode: sync}\n")
        with Daemon(f"sqlite:{place}/log.db", "--config", str(config)) as daemon:
            stats = daemon.get("/v1/stats")
    assert stats["instance_id"] == "node-7", stats
    assert stats["broker"]["mode"] == "sync" and stats["broker"]["workers"] == 10, stats
    assert stats["store"]["kind"] == "sqlite", stats
    for name in ("processed", "failed", "subscriptions", "queued", "workers_active"):
        assert isinstance(stats["broker"][name], int), stats


if __name__ == "__main__":
    tap.run(globals())
