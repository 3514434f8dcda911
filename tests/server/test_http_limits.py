"""The HTTP layer: bounds of sizes, of time, of connections and of memory (L12)."""

import resource
import select
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from client import Server  # noqa: E402

SERVER = Server(loop_count=2)
POST = "POST {} HTTP/1.1\r\nHost: localhost\r\n"


def refused(client, status, field=None):
    response = client.response()
    assert response.status == status, (response.status, response.body)
    problem = response.problem()
    assert problem.get("field") == field, problem
    assert response.fields["connection"] == "close"
    assert client.ended()
    return response


def head_of(size):
    start, end = "GET /hello HTTP/1.1\r\nHost: localhost\r\n", "\r\n\r\n"
    lines = ""
    while len(start) + len(lines) + len(end) < size:
        left = size - len(start) - len(lines) - len(end)
        lines += ("X: " + "y" * 5000)[:left] if left < 5000 else "X: " + "y" * 4000 + "\r\n"
    return start + lines + end


def test_L12_a_head_of_16_kib_is_taken_and_one_byte_more_is_not():
    with SERVER.connect() as client:
        client.send(head_of(16384))
        assert client.response().status == 200
        client.send(head_of(16385))
        refused(client, 431)


def test_L12_a_head_of_a_megabyte_is_refused_before_it_ends():
    before = SERVER.counters()["allocated"]
    clients = [SERVER.connect() for _ in range(20)]
    for client in clients:
        client.send("GET /hello HTTP/1.1\r\nHost: localhost\r\nX: " + "y" * 16000)
    # All are held, none complete: what is kept of each is bounded.
    now = SERVER.until(lambda now: now["received"] > 20 * 16000)
    assert now["allocated"] - before < 20 * 40000, (before, now)
    for client in clients:
        try:
            client.send("y" * 1000000)
        except (BrokenPipeError, ConnectionResetError):
            pass
        refused(client, 431)
        client.close()


def test_L12_a_request_line_that_is_too_long_is_414():
    with SERVER.connect() as client:
        client.send("GET /" + "a" * 20000)
        refused(client, 414)
    with SERVER.connect() as client:
        client.send("GET /" + "a" * 9000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n")
        refused(client, 414)
    with SERVER.connect() as client:
        assert client.get("/things/" + "a" * 8000).body == b"a" * 8000


def test_L12_too_many_fields_are_431():
    with SERVER.connect() as client:
        assert client.get("/hello", *["X: y"] * 127).status == 200
        client.send("GET /hello HTTP/1.1\r\nHost: localhost\r\n" + "X: y\r\n" * 128 + "\r\n")
        refused(client, 431)


def test_L12_a_body_of_100_mb_is_refused_by_its_length():
    before = SERVER.counters()["allocated"]
    with SERVER.connect() as client:
        client.send(POST.format("/echo") + "Content-Length: 100000000\r\n\r\n")
        # Nothing of it has been sent, and the answer is there.
        response = client.response()
        assert (response.status, response.problem()["field"]) == (413, "body")
        assert response.fields["connection"] == "close"
        try:
            for _ in range(100):
                client.send(bytes(1000000))
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert SERVER.counters()["allocated"] - before < 100000


def test_L12_a_chunked_body_of_100_mb_is_refused_at_the_limit():
    with SERVER.connect() as client:
        client.send(POST.format("/echo") + "Transfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + bytes(65536) + b"\r\n"
        sent = 0
        try:
            while sent < 100000000 and not select.select([client.socket], [], [], 0)[0]:
                client.send(piece)
                sent += 65536
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert (1 << 20) <= sent < 100000000, sent
        refused(client, 413, "body")
    with SERVER.connect() as client:
        client.send(POST.format("/echo") + "Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(16):
            client.send(piece)
        client.send("0\r\n\r\n")
        assert client.response().body == bytes(1 << 20)


def test_bodies_where_none_is_taken():
    with SERVER.connect() as client:
        client.send("GET /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
        assert client.response().status == 413
        # A short rest is skipped, and the connection lives on.
        assert client.get("/hello").body == b"hello world"
        client.send("GET /hello HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        refused(client, 413, "body")


def test_expect_100_continue():
    with SERVER.connect() as client:
        client.send(POST.format("/echo") + "Content-Length: 5\r\nExpect: 100-Continue\r\n\r\n")
        assert client.response().status == 100
        client.send("hello")
        assert client.response().body == b"hello"
        client.send(POST.format("/lines") + "Transfer-Encoding: chunked\r\n"
                    "Expect: 100-continue\r\n\r\n")
        assert client.response().status == 100
        client.send("2\r\na\n\r\n0\r\n\r\n")
        assert client.response().body == b"2 bytes, 1 lines"
        # Without a body there is nothing to continue.
        assert client.get("/hello", "Expect: 100-continue").status == 200


def test_expect_100_continue_is_refused_before_the_body():
    for path, fields, status, field in (
            ("/echo", "Content-Length: 100000000\r\nExpect: 100-continue", 413, "body"),
            ("/checked", "Content-Length: 9\r\nExpect: 100-continue", 415, "Content-Type"),
            ("/echo", "Content-Length: 5\r\nExpect: tea", 417, "Expect"),
            ("/nope", "Content-Length: 5\r\nExpect: 100-continue", 404, None)):
        with SERVER.connect() as client:
            client.send(POST.format(path) + fields + "\r\n\r\n")
            response = client.response()
            assert response.status == status, (path, fields, response.status)
            assert response.problem().get("field") == field
            if "100-continue" in fields:
                assert response.fields["connection"] == "close"
    with SERVER.connect() as client:
        client.send("POST /echo HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi")
        assert client.response().body == b"hi"


def test_a_check_refuses_before_the_body_and_lets_others_pass():
    with SERVER.connect() as client:
        assert client.post("/checked", b"{}", "Content-Type: text/plain").status == 415
        assert client.post("/checked", b"{}", "Content-Type: application/json").body == b"{}"
        client.send(POST.format("/checked") + "Content-Length: 9000000\r\n\r\n")
        refused(client, 415, "Content-Type")


def test_pieces_arrive_as_they_come_and_may_be_paused():
    body = b"a line\n" * 300000
    for query in ("", "?pause=1"):
        with SERVER.connect() as client:
            response = client.post("/lines" + query, body)
            assert response.body == b"2100000 bytes, 300000 lines", response.body
            assert client.get("/hello").status == 200


def test_an_early_answer_to_pieces_ends_the_request():
    with SERVER.connect() as client:
        response = client.post("/lines?stop_at=5", b"0123456789")
        assert (response.status, response.body) == (422, b"10 bytes, 0 lines, stopped")
        assert client.get("/hello").status == 200
        client.send(POST.format("/lines?stop_at=5") + "Content-Length: 10000000\r\n\r\n01234")
        response = client.response()
        assert (response.status, response.fields["connection"]) == (422, "close")


def test_a_head_of_a_byte_at_a_time_is_cut_off():
    with Server(head_timeout_ms=300) as server, server.connect() as client:
        started = time.monotonic()
        head = b"GET /hello HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1000
        sent = 0
        while not select.select([client.socket], [], [], 0.02)[0]:
            client.send(head[sent:sent + 1])
            sent += 1
            assert sent < len(head), "it was let in"
        assert time.monotonic() - started >= 0.28
        refused(client, 408)
        assert server.counters()["timeouts"] == 1


def test_a_second_head_has_its_own_time():
    with Server(head_timeout_ms=300) as server, server.connect() as client:
        client.send("GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hel")
        assert client.response().status == 200
        refused(client, 408)


def test_half_a_body_then_silence_is_cut_off():
    with Server(body_timeout_ms=200) as server:
        for rest in ("Transfer-Encoding: chunked\r\n\r\n10\r\nhalf",
                     "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
                     "Content-Length: 10\r\n\r\nhalf", "Content-Length: 10\r\n\r\n"):
            for path in ("/echo", "/lines"):
                with server.connect() as client:
                    client.send(POST.format(path) + rest)
                    refused(client, 408, "body")
        assert server.counters()["gone"] == 4
        # A body that is skipped after its answer is not waited for either.
        with server.connect() as client:
            client.send(POST.format("/nope") + "Content-Length: 10\r\n\r\nhalf")
            assert client.response().status == 404
            assert client.ended()


def trickle(client, size):
    """A byte now and then, until there is an answer; gives how many."""
    for sent in range(size):
        if select.select([client.socket], [], [], 0.02)[0]:
            return sent
        client.send("x")
    return size


def test_L12_a_body_that_trickles_is_cut_off():
    with Server(body_timeout_ms=300, body_progress_size=1000) as server:
        for path in ("/echo", "/lines", "/feed", "/nope"):
            with server.connect() as client:
                client.send(POST.format(path) + "Content-Length: 100000\r\n\r\n")
                if path == "/nope":
                    assert client.response().status == 404
                assert trickle(client, 2000) < 2000
                if path == "/nope":
                    assert client.ended()
                else:
                    refused(client, 408, "body")


def test_a_body_that_makes_progress_is_waited_for():
    # Paced by the client's own clock: the whole takes longer than the time-out.
    for path, enough in (("/echo", 100), ("/lines", 100), ("/feed", 100000)):
        with Server(body_timeout_ms=1000, body_progress_size=enough) as server:
            with server.connect() as client:
                client.send(POST.format(path) + "Content-Length: 800\r\n\r\n")
                started = time.monotonic()
                for _ in range(8):
                    select.select([client.socket], [], [], 0.25)
                    client.send("x" * 99 + "\n")
                assert time.monotonic() - started > 1
                assert client.response().status == 200


def test_idle_connections_are_closed_and_streams_are_not():
    with Server(idle_timeout_ms=200) as server:
        stream = server.connect()
        stream.send("GET /listen HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stream.head().status == 200
        held = server.connect()
        held.send("GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with server.connect() as fresh, server.connect() as used:
            assert used.get("/hello").status == 200
            assert fresh.ended() and used.ended()
        with server.connect() as later:
            assert later.ended()
        assert stream.quiet() and held.quiet()
        with server.connect() as client:
            assert client.post("/release", b"").status == 200
            assert client.post("/broadcast", b"still here").status == 200
        assert held.response().body == b"released"
        assert stream.chunk() == b"still here"
        stream.close()
        held.close()


def test_L12_a_client_that_takes_nothing_is_cut_off():
    with Server(write_timeout_ms=300) as server, server.connect(receive_size=4096) as client:
        client.send("GET /big?size=30000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        now = server.until(lambda now: now["timeouts"] >= 1)
        assert now["allocated"] < 1000000, now


def test_L12_pipelined_answers_that_nobody_takes_are_bounded():
    count = 300
    with SERVER.connect(receive_size=4096) as client:
        before = SERVER.counters()["allocated"]
        client.send("GET /big?size=200000 HTTP/1.1\r\nHost: localhost\r\n\r\n" * count)
        seen = 0
        for _ in range(50):
            seen = max(seen, SERVER.counters()["allocated"] - before)
        assert seen < 500000, seen
        for _ in range(count):
            assert len(client.response().body) == 200000


def test_L12_a_stream_that_nobody_takes_is_bounded_and_complete():
    count = 20000
    with SERVER.connect(receive_size=4096) as client:
        before = SERVER.counters()["allocated"]
        client.send(f"GET /stream?count={count}&size=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.head().status == 200
        seen = 0
        for _ in range(50):
            seen = max(seen, SERVER.counters()["allocated"] - before)
        assert seen < 600000, seen
        size = 0
        while chunk := client.chunk():
            assert chunk == b"x" * 1000
            size += len(chunk)
        assert size == count * 1000
        assert client.get("/hello").status == 200


def test_L12_whole_bodies_have_a_budget():
    with Server(loop_count=1, body_total_size_max=1500000) as server:
        with server.connect() as first, server.connect() as second, server.connect() as third:
            first.send(POST.format("/echo") + "Content-Length: 1000000\r\n\r\n" + "x" * 999999)
            server.until(lambda now: now["received"] > 999999)
            second.close()
            times = set()
            for _ in range(40):
                with server.connect() as client:
                    client.send(POST.format("/echo") + "Content-Length: 1000000\r\n\r\n")
                    response = client.response()
                    assert response.status == 503
                    times.add(int(response.fields["retry-after"]))
            # R05: those that are sent away together do not come back together.
            assert len(times) > 1 and times <= {1, 2, 3, 4}, times
            third.send(POST.format("/echo") + "Transfer-Encoding: chunked\r\n\r\n80000\r\n"
                       + "x" * 0x80000 + "\r\n")
            assert third.response().status == 503
            first.send("x")
            assert len(first.response().body) == 1000000
            assert len(first.post("/echo", bytes(1000000)).body) == 1000000


def test_L12_large_answers_have_a_budget():
    """Clients that ask for much and do not read hold a bounded part of memory, and no more."""
    size = 5 << 20
    with Server(loop_count=1, answer_total_size_max=12 << 20) as server:
        slow = [server.connect(receive_size=65536) for _ in range(10)]
        for client in slow:
            client.send(f"GET /big?size={size} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with server.connect() as other:
            assert other.get("/hello").status == 200
            response = other.get(f"/big?size={size}")
            assert response.status == 503 and "large answers" in response.problem()["detail"]
            assert 1 <= int(response.fields["retry-after"]) <= 4
            # What is small passes; what was answered is a part of the budget until it is sent.
            assert len(other.get("/big?size=200000").body) == 200000
            assert server.counters()["allocated"] < 12 << 20
            served = [client for client in slow if client.response().status == 200]
            assert len(served) == 2
            assert len(other.get(f"/big?size={size}").body) == size
            # One that goes gives its part back, too.
            for client in served:
                client.send(f"GET /big?size={size} HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.until(lambda now: now["allocated"] > 2 * size)
            assert other.get(f"/big?size={size}").status == 503
            for client in slow:
                client.close()
            server.until(lambda now: now["allocated"] < size)
            assert len(other.get(f"/big?size={size}").body) == size


def test_L12_connections_above_the_limit_are_told_so():
    with Server(connection_count_max=5, loop_count=2) as server:
        inside = [server.connect() for _ in range(5)]
        for client in inside:
            assert client.get("/hello").status == 200
        for _ in range(3):
            with server.connect() as client:
                response = refused(client, 503)
                assert 1 <= int(response.fields["retry-after"]) <= 4
        with server.connect() as client:
            client.send("GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.response().status == 503
        for client in inside:
            assert client.get("/hello").status == 200
        inside.pop().close()
        deadline = time.monotonic() + 60
        while len(inside) < 5:
            client = server.connect()
            client.send("GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if client.response().status == 200:
                inside.append(client)
            else:
                client.close()
            assert time.monotonic() < deadline
        # A crowd that is refused and does not leave is cut off without a word.
        crowd = [server.connect() for _ in range(200)]
        assert inside[0].get("/hello").status == 200
        told = sum(1 for client in crowd if client.more() and client.buffer)
        assert 60 <= told < 200, told
        for client in crowd + inside:
            client.close()


def test_L12_an_idle_connection_costs_little():
    clients = [SERVER.connect() for _ in range(500)]
    before = SERVER.until(lambda now: now["connections"] == 501)["allocated"]
    for client in clients:
        client.send("GET /things/a HTTP/1.1\r\nHost: localhost\r\n\r\nGET /thi")
        assert client.response().status == 200
        client.send("ngs/b HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.response().body == b"b"
    after = SERVER.counters()
    # Buffers of the first requests are gone; what stays was there before them.
    assert abs(after["allocated"] - before) < 500 * 80, (before, after)
    for client in clients:
        client.close()
    last = SERVER.until(lambda now: now["connections"] == 1)
    each = (after["allocated"] - last["allocated"]) / 500
    print(f"# {each:.0f} bytes an idle connection")
    assert each < 1000


def test_running_out_of_descriptors_is_survived():
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))

    with Server(prepare=few, loop_count=1) as server:
        clients = [server.connect() for _ in range(100)]
        served = [client for client in clients[:20] if client.get("/hello").status == 200]
        assert len(served) == 20
        for client in clients[:80]:
            client.close()
        # Those who had to wait are let in.
        for client in clients[80:]:
            assert client.get("/hello").status == 200
            client.close()


def test_silent_clients_are_noticed():
    with Server(lost_timeout_ms=500) as server, server.connect(receive_size=4096) as client:
        client.send("GET /stream?count=100000&size=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.head().status == 200
        # It is there, but takes nothing: its system answers that there is no room.
        server.until(lambda now: now["gone"] == 1)


def test_the_server_is_well_and_nothing_is_left():
    SERVER.until(lambda now: now["connections"] == 1)
    SERVER.stop()


if __name__ == "__main__":
    tap.run(globals())
