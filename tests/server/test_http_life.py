"""The HTTP layer: addresses, starting, stopping, and the manners of a library."""

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from client import Server  # noqa: E402

GET = "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"


def fails(words, **options):
    server = Server(**options)
    server.process.stdin.close()
    assert server.process.wait() == 3, server.said
    for word in words:
        assert word in server.said, server.said


def test_a_port_in_use_is_named():
    with Server(loop_count=2) as server:
        address = f"127.0.0.1:{server.address[1]}"
        for loops in (1, 4):
            fails(["FAN_EXISTS", "address", address, "in use"], address=address, loop_count=loops)
        with server.connect() as client:
            assert client.get("/hello").status == 200
    with Server(address=address, loop_count=2) as server, server.connect() as client:
        assert client.get("/hello").status == 200


def test_bad_addresses_are_named():
    for address in ("127.0.0.1", ":80", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536",
                    "127.0.0.1:-1", "::1:80", "[]:80", "127.0.0.1:999999999999"):
        fails(["FAN_INVALID", "address", f'"{address}"'], address=address)
    fails(["FAN_INVALID", "address", "host.invalid"], address="host.invalid:80")
    fails(["FAN_IO", "address", "192.0.2.1:0"], address="192.0.2.1:0")
    fails(["FAN_INVALID", "head_size_max"], head_size_max=100000)
    fails(["FAN_INVALID", "loop_count"], loop_count=100)


def test_only_loopback_when_asked():
    for address in ("0.0.0.0:0", "[::]:0"):
        fails(["FAN_DENIED", address, "loopback"], address=address, loopback_only=1)
    for address in ("127.0.0.1:0", "127.1.2.3:0", "localhost:0"):
        with Server(address=address, loopback_only=1) as server, server.connect() as client:
            assert client.get("/hello").status == 200


def test_a_stranger_s_name_is_refused_on_loopback():
    with Server(address="127.0.0.1:0", loopback_only=1) as server:
        for host, status in (("localhost", 200), ("LOCALHOST:8080", 200), ("127.0.0.1:1", 200),
                             ("127.9.9.9", 200), ("[::1]:80", 200), ("evil.example", 421),
                             ("localhost.evil.example", 421), ("128.0.0.1", 421), ("[::2]", 421),
                             ("127.0.0.1.evil.example:80", 421), ("", 421)):
            with server.connect() as client:
                client.send(f"GET /hello HTTP/1.1\r\nHost: {host}\r\n\r\n")
                answer = client.response()
                assert answer.status == status, (host, answer.status)


def test_ipv6():
    if not Path("/proc/net/if_inet6").exists() or not Path("/proc/net/if_inet6").read_text():
        raise tap.Skip("no IPv6 here")
    with Server(address="[::1]:0", loopback_only=1) as server:
        assert server.said.startswith("listening [::1]:"), server.said
        with server.connect() as client:
            assert client.get("/hello").status == 200


def test_every_loop_takes_connections():
    with Server(loop_count=3) as server:
        loops = set()
        deadline = time.monotonic() + 60
        while loops != {0, 1, 2} and time.monotonic() < deadline:
            loops.add(server.counters()["loop"])
        assert loops == {0, 1, 2}


def test_stop_closes_what_is_idle_and_ends_at_once():
    server = Server(loop_count=2)
    clients = [server.connect() for _ in range(20)]
    for client in clients[:10]:
        assert client.get("/hello").status == 200
    started = time.monotonic()
    server.tell("stop 30000")
    for client in clients:
        assert client.ended()
    server.wait()
    assert time.monotonic() - started < 15
    try:
        server.connect()
    except ConnectionRefusedError:
        pass
    else:
        raise AssertionError("it still listens")


def test_stop_lets_requests_in_flight_end():
    server = Server(loop_count=2)
    held = server.connect()
    held.send("GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
    body = server.connect()
    body.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nhi")
    head = server.connect()
    head.send("GET /hel")
    release = server.connect()
    release.send("POST /release HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n")
    server.until(lambda now: now["requests"] >= 4 and now["connections"] == 5)
    idle = server.connect()
    assert idle.get("/hello").status == 200
    server.tell("stop 30000")
    # Once the idle one is closed, the stop has begun.
    assert idle.ended()
    body.send("ho")
    response = body.response()
    assert (response.body, response.fields["connection"]) == (b"hiho", "close")
    head.send("lo HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert head.response().fields["connection"] == "close"
    release.send("x")
    assert release.response().status == 200
    response = held.response()
    assert (response.body, response.fields["connection"]) == (b"released", "close")
    server.wait()


def test_stop_answers_what_is_in_the_sockets_already():
    server = Server(loop_count=2)
    clients = [server.connect() for _ in range(20)]
    for client in clients:
        assert client.get("/hello").status == 200
    # Requests, connections and the stop all come while the server is held.
    server.process.send_signal(signal.SIGSTOP)
    clients += [server.connect() for _ in range(20)]
    for client in clients:
        client.send(GET)
    server.tell("stop 30000")
    server.process.send_signal(signal.SIGCONT)
    for client in clients:
        assert client.response().body == b"hello world"
        assert client.ended()
    server.wait()


def test_stop_cuts_off_what_does_not_end_in_time():
    server = Server(loop_count=2)
    held = server.connect()
    held.send("GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
    body = server.connect()
    body.send("POST /lines HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nhi")
    unread = server.connect(receive_size=4096)
    unread.send("GET /big?size=30000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    server.until(lambda now: now["requests"] >= 4)
    started = time.monotonic()
    server.tell("stop 300")
    assert held.ended() and body.ended()
    server.wait()
    assert 0.25 < time.monotonic() - started < 20


def listener(server, manner):
    client = server.connect()
    client.send(f"GET /listen?manner={manner} HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert client.head().status == 200
    return client


def test_stop_ends_streams_within_a_second():
    server = Server(loop_count=2)
    plain, polite = listener(server, "plain"), listener(server, "polite")
    stubborn = listener(server, "stubborn")
    started = time.monotonic()
    server.tell("stop 60000")
    assert plain.chunk() == b"" and plain.ended()
    assert polite.chunk() == b"goodbye\n" and polite.chunk() == b"" and polite.ended()
    assert stubborn.ended()
    server.wait()
    assert 0.9 < time.monotonic() - started < 30


def test_stop_with_late_answers_on_their_way():
    for _ in range(10):
        server = Server(loop_count=2)
        clients = [server.connect() for _ in range(20)]
        for client in clients:
            client.send("GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5)
        server.stop(0)


def test_R03_threads_are_named_and_take_no_signals():
    with Server(loop_count=2) as server:
        found = []
        for task in Path(f"/proc/{server.process.pid}/task").iterdir():
            name = (task / "comm").read_text().strip()
            if name.startswith("fan-http-"):
                found.append(name)
                lines = (task / "status").read_text().splitlines()
                blocked = next(line for line in lines if line.startswith("SigBlk:"))
                # SIGINT, SIGPIPE, SIGTERM and the rest; libc keeps 32 and 33 for itself.
                assert int(blocked.split()[1], 16) | 1 << 31 | 1 << 32 | 1 << 8 | 1 << 18 \
                    == (1 << 64) - 1, blocked
        assert sorted(found) == ["fan-http-0", "fan-http-1"]


def test_R03_a_fork_is_told_so():
    with Server(loop_count=2) as server:
        assert server.ask("fork") == "child 0"
        with server.connect() as client:
            assert client.get("/hello").status == 200


def test_failing_memory_costs_a_connection_and_no_more():
    requests = (GET, "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
                "4\r\nabcd\r\n0\r\n\r\n", "GET /nope HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET /stream?count=20&size=5 HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET /late HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he", "GET  /\r\n")
    with Server(loop_count=1) as server:
        for request in requests:
            for number in range(1, 15):
                assert server.ask(f"fail {number}") == "ok"
                with server.connect() as client:
                    try:
                        client.send(request)
                        client.socket.shutdown(1)
                    except OSError:
                        pass
                    while client.more():
                        pass
                    if client.buffer:
                        assert client.buffer.startswith(b"HTTP/1.1 "), client.buffer
                assert server.ask("fail 0") == "ok"
        with server.connect() as client:
            assert client.get("/hello").status == 200
        server.until(lambda now: now["connections"] == 1 and now["streams"] == 0)


def test_failing_memory_at_the_start_is_an_error():
    for number in range(1, 12):
        server = Server(loop_count=2, fail_after=number)
        if server.address:
            server.stop()
            assert number > 5, number
        else:
            assert "FAN_NO_MEMORY" in server.said, server.said
            server.process.stdin.close()
            assert server.process.wait() == 3


CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def set_loopback(up):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP if up else 0))


def established(port):
    """How many connections the kernel holds open at a port of ours."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[1].endswith(f":{port:04X}") and line[3] == "01" for line in lines)


def lose_the_host():
    """In a network of this process alone, whose one link goes down under open connections."""
    set_loopback(True)
    with Server(lost_timeout_ms=1000) as server:
        port = server.address[1]
        silent, stream, sending = (server.connect() for _ in range(3))
        stream.send("GET /listen HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stream.head()
        sending.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf")
        server.until(lambda now: now["connections"] == 4)
        set_loopback(False)
        # No other deadline of the server would end them before 30 s.
        deadline = time.monotonic() + 25
        while established(port) > 0:
            assert time.monotonic() < deadline, "the connections were never given up"
            select.select([], [], [], 0.05)
        set_loopback(True)
        server.until(lambda now: now["connections"] == 1 and now["streams"] == 0)
        for client in (silent, stream, sending):
            client.close()


def test_R01_a_host_that_vanishes_is_noticed():
    if (child := os.fork()) == 0:
        code = 1
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET) != 0 and libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
                code = 77
            else:
                lose_the_host()
                code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 77:
        raise tap.Skip("no network of its own is allowed here")
    assert code == 0, code


if __name__ == "__main__":
    tap.run(globals())
