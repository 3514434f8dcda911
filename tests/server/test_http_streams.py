"""The HTTP layer: streams, late answers, and clients that go."""

import socket
import struct
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from client import Server  # noqa: E402

SERVER = Server(loop_count=2)


def listener(manner="", version="1.1", server=SERVER, **options):
    client = server.connect(**options)
    client.send(f"GET /listen?manner={manner} HTTP/{version}\r\nHost: localhost\r\n\r\n")
    response = client.head()
    assert response.status == 200 and response.fields["content-type"] == "text/event-stream"
    return client


def reset(client):
    """Closes so that the server's system is told by RST."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def broadcast(body, server=SERVER):
    with server.connect() as client:
        assert client.post("/broadcast", body).status == 200


def test_a_chunk_reaches_every_stream_of_every_loop_in_order():
    clients = [listener() for _ in range(50)]
    old = [listener(version="1.0") for _ in range(5)]
    bodies = [f"message {i}\n".encode() * (i + 1) for i in range(100)]
    for body in bodies:
        broadcast(body)
    for client in clients:
        for body in bodies:
            assert client.chunk() == body
        client.close()
    # Without chunks, the bytes alone, as they are.
    for client in old:
        assert client.take(sum(map(len, bodies))) == b"".join(bodies)
        client.close()
    assert SERVER.until(lambda now: now["streams"] == 0)["gone"] == 55


def test_a_stream_that_ends_leaves_the_connection_usable():
    with SERVER.connect() as client:
        for count in (1, 3, 1000):
            response = client.get(f"/stream?count={count}&size=10")
            assert response.body == b"x" * 10 * count
    with SERVER.connect() as client:
        client.send("GET /stream?count=3&size=2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        response = client.response()
        assert "transfer-encoding" not in response.fields
        assert response.fields["connection"] == "close" and response.body == b"xxxxxx"


def test_chunks_larger_than_the_bound_go_alone():
    with SERVER.connect() as client:
        assert client.get("/stream?count=5&size=1000000").body == b"x" * 5000000


def test_tiny_chunks_are_bounded_by_their_cost():
    with SERVER.connect(receive_size=4096) as client:
        before = SERVER.counters()["allocated"]
        client.send("GET /stream?count=1000000&size=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.head()
        seen = max(SERVER.counters()["allocated"] - before for _ in range(50))
        assert seen < 600000, seen
        size = 0
        while chunk := client.chunk():
            size += len(chunk)
        assert size == 1000000


def test_a_slow_stream_does_not_hold_up_the_others():
    slow, fast = listener(receive_size=4096), listener()
    body = bytes(range(256)) * 1000
    with SERVER.connect() as client:
        for _ in range(100):
            assert client.post("/broadcast", body).status == 200
            assert fast.chunk() == body
    got = 0
    broadcast(b"end of the flood")
    # The slow one has lost what did not fit, but what it got is whole.
    slow.socket.settimeout(0.5)
    try:
        while slow.chunk() == body:
            got += 1
    except TimeoutError:
        pass
    assert 0 < got < 100, got
    slow.close()
    fast.close()


def test_clients_that_go_are_told_to_the_route():
    gone = SERVER.until(lambda now: now["streams"] == 0)["gone"]
    closed, resetting, half = listener(), listener(), listener()
    closed.close()
    reset(resetting)
    half.socket.shutdown(socket.SHUT_WR)
    assert half.ended()
    SERVER.until(lambda now: now["gone"] == gone + 3 and now["streams"] == 0)
    half.close()


def test_a_client_that_goes_while_pieces_come_is_told_to_the_route():
    gone = SERVER.counters()["gone"]
    for query in ("", "?pause=1"):
        with SERVER.connect() as client:
            client.send(f"POST /lines{query} HTTP/1.1\r\nHost: localhost\r\n"
                        f"Content-Length: 99\r\n\r\nabc")
            SERVER.until(lambda now: now["connections"] == 2)
        gone += 1
        SERVER.until(lambda now: now["gone"] == gone)


def test_input_during_a_stream_is_left_alone():
    gone = SERVER.counters()["gone"]
    client = listener()
    client.send("GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
    broadcast(b"one")
    assert client.chunk() == b"one"
    client.close()
    SERVER.until(lambda now: now["gone"] == gone + 1)


def test_late_answers_come_from_the_loop_of_the_request():
    with SERVER.connect() as client:
        for _ in range(200):
            body = client.get("/late").body
            assert body in (b"late on fan-http-0", b"late on fan-http-1"), body


def test_a_request_outlives_its_client():
    gone = SERVER.counters()["gone"]
    clients = [SERVER.connect() for _ in range(20)]
    for client in clients:
        client.send("GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.send("GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
    SERVER.until(lambda now: now["connections"] == 21)
    for client in clients[:10]:
        reset(client)
    with SERVER.connect() as client:
        # Without events of its own a reset is seen when it is written to, or read from.
        SERVER.until(lambda now: now["gone"] == gone + 10)
        assert client.post("/release", b"").status == 200
    for client in clients[10:]:
        assert client.response().body == b"released"
        assert client.response().body == b"hello world"
        client.close()
    for _ in range(100):
        with SERVER.connect() as client:
            client.send("GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n")
            reset(client)
    SERVER.until(lambda now: now["connections"] == 1)


def test_a_dropped_request_closes_its_connection():
    with SERVER.connect() as client:
        client.send("GET /hello HTTP/1.1\r\nHost: localhost\r\n"
                    "\r\nGET /drop HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.response().body == b"hello world"
        assert client.ended()


def test_a_client_that_goes_raises_no_signal():
    for _ in range(30):
        with SERVER.connect() as client:
            client.send("GET /stream?count=100000&size=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.head()
            reset(client)
    SERVER.until(lambda now: now["streams"] == 0)
    assert SERVER.process.poll() is None


def test_counters_add_up():
    with Server(loop_count=2) as server:
        with server.connect() as client:
            for _ in range(10):
                client.get("/hello")
            for _ in range(5):
                client.get("/nope")
            # The request that asks is not counted before the end of its own turn.
            now = server.counters()
            assert (now["requests"], now["accepted"], now["connections"]) == (15, 2, 2), now
            assert now["responses"][2] == 10 and now["responses"][4] == 5, now
            assert now["received"] > 15 * 30 and now["sent"] > 15 * 100, now


def test_the_server_is_well_and_nothing_is_left():
    SERVER.until(lambda now: now["connections"] == 1 and now["streams"] == 0)
    SERVER.stop()


if __name__ == "__main__":
    tap.run(globals())
