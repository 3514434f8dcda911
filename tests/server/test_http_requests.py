"""The HTTP layer: what is a request and what is none, byte by byte."""

import random
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
sys.dont_write_bytecode = True

import tap  # noqa: E402
from client import Server  # noqa: E402

SERVER = Server(loop_count=2)

GET = "GET /hello HTTP/1.1\r\nHost: test\r\n\r\n"


def refusal(data, status, field=None):
    """Sends what must be refused, with the connection closed after it."""
    with SERVER.connect() as client:
        client.send(data)
        response = client.response()
        assert response.status == status, (data, response.status, response.body)
        problem = response.problem()
        assert problem.get("field") == field, (data, problem)
        assert response.fields["connection"] == "close", (data, response.fields)
        assert client.ended(), (data, client.buffer)


def accepted(data, body=b"hello world"):
    with SERVER.connect() as client:
        client.send(data)
        response = client.response()
        assert (response.status, response.body) == (200, body), (data, response.status)


def test_keep_alive_answers_many_requests_on_one_connection():
    with SERVER.connect() as client:
        for i in range(50):
            response = client.get(f"/hello?name={i}")
            assert response.body == f"hello {i}".encode()
            assert "connection" not in response.fields
            assert client.post("/echo", b"x" * i).body == b"x" * i


def test_connection_close_is_obeyed():
    with SERVER.connect() as client:
        response = client.get("/hello", "Connection: close")
        assert response.fields["connection"] == "close"
        assert client.ended()


def test_http_1_0_closes_unless_asked_to_stay():
    with SERVER.connect() as client:
        client.send("GET /hello HTTP/1.0\r\n\r\n")
        assert client.response().fields["connection"] == "close"
        assert client.ended()
    with SERVER.connect() as client:
        for _ in range(2):
            client.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            response = client.response()
            assert response.fields["connection"] == "keep-alive"
            assert response.body == b"hello world"


def test_pipelined_requests_are_answered_in_order():
    with SERVER.connect() as client:
        count = 2000
        client.send("".join(f"GET /hello?name={i} HTTP/1.1\r\nHost: localhost\r\n\r\n"
                            for i in range(count)))
        for i in range(count):
            assert client.response().body == f"hello {i}".encode()


def test_pipelined_requests_wait_for_a_late_answer():
    with SERVER.connect() as client:
        client.send("GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20 + GET)
        for _ in range(20):
            assert client.response().body.startswith(b"late on fan-http-")
        assert client.response().body == b"hello world"


MIXED = (b"GET /hello?name=one HTTP/1.1\r\nHost: localhost\r\n\r\n"
         b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nGET /"
         b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
         b"3;name=value\r\nabc\r\n0a\r\n0\r\n\r\n45678\r\n0\r\nTrailer: x\r\n\r\n"
         b"GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n"
         b"POST /lines HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\na\nb\nc\n"
         b"POST /lines?pause=1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
         b"2\r\na\n\r\n2\r\nb\n\r\n0\r\n\r\n"
         b"\r\nPOST /nope HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nskip"
         b"HEAD /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
         b"GET /stream?count=3&size=2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
         b"GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


def check_mixed(client):
    assert client.response().body == b"hello one"
    assert client.response().body == b"GET /"
    assert client.response().body == b"abc0\r\n\r\n45678"
    assert client.response().body.startswith(b"late on ")
    assert client.response().body == b"6 bytes, 3 lines"
    assert client.response().body == b"4 bytes, 2 lines"
    assert client.response().status == 404
    response = client.response(head_only=True)
    assert (response.status, response.fields["content-length"]) == (200, "11")
    assert client.response().body == b"xxxxxx"
    assert client.response().body == b"hello world"
    assert client.ended()


def test_requests_split_at_every_byte():
    for at in range(1, len(MIXED)):
        with SERVER.connect() as client:
            client.send(MIXED[:at])
            client.send(MIXED[at:])
            check_mixed(client)


def test_requests_sent_byte_by_byte():
    with SERVER.connect() as client:
        for i in range(len(MIXED)):
            client.send(MIXED[i:i + 1])
        check_mixed(client)


def test_requests_split_at_random():
    source = random.Random(7)
    for _ in range(200):
        with SERVER.connect() as client:
            at = 0
            while at < len(MIXED):
                size = source.choice([1, 2, 3, 10, 50, 200])
                client.send(MIXED[at:at + size])
                at += size
            check_mixed(client)


def test_chunked_bodies_of_any_chunk_size():
    source = random.Random(11)
    for _ in range(30):
        body = source.randbytes(source.randint(0, 200000))
        data = b""
        at = 0
        while at < len(body):
            size = source.randint(1, 20000)
            piece = body[at:at + size]
            form = source.choice(["x", "X", "06x"])
            data += f"{len(piece):{form}}\r\n".encode() + piece + b"\r\n"
            at += size
        accepted(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: Chunked\r\n\r\n"
                 + data + b"000\r\nA: b\r\nC: d\r\n\r\n", body)


def test_head_answers_like_get_without_the_body():
    with SERVER.connect() as client:
        get = client.get("/hello?name=x")
        head = client.get("/hello?name=x", method="HEAD")
        del get.fields["date"], head.fields["date"]
        assert (head.status, head.fields) == (200, get.fields)
        assert client.get("/nope", method="HEAD").status == 404
        stream = client.get("/stream?count=3", method="HEAD")
        assert stream.fields["transfer-encoding"] == "chunked"
        assert client.get("/hello").body == b"hello world"


def test_absolute_targets_and_a_leading_empty_line_are_taken():
    accepted("GET http://other.example:80/hello?name=x HTTP/1.1\r\nHost: localhost\r\n"
             "\r\n", b"hello x")
    accepted("\r\n" + GET)
    accepted("GET /hello HTTP/1.7\r\nHost: localhost\r\n\r\n")


def test_header_fields_are_found_whatever_their_case_and_space():
    for line in ("X-Echo: v", "x-echo:v", "X-ECHO: \t v\t  "):
        with SERVER.connect() as client:
            assert client.get("/hello", line).fields["x-echo"] == "v"
    with SERVER.connect() as client:
        assert client.get("/hello", "X-Echo:").fields["x-echo"] == ""


def test_upgrades_are_ignored():
    with SERVER.connect() as client:
        for _ in range(2):
            response = client.get("/hello", "Connection: Upgrade, HTTP2-Settings",
                                  "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
            assert response.body == b"hello world"
        assert client.post("/echo", b"GET / x", "Connection: upgrade",
                           "Upgrade: websocket").body == b"GET / x"


def test_unknown_paths_and_methods():
    with SERVER.connect() as client:
        for path in ("/", "/hell", "/hello/", "/hello/x", "//hello", "/things", "/things/",
                     "/things/1/part", "/things/1/parts/", "*", "/HELLO"):
            response = client.get(path)
            assert response.status == 404 and response.problem()["title"] == "Not Found", path
        response = client.get("/echo")
        assert (response.status, response.fields["allow"]) == (405, "POST, PUT")
        response = client.get("/hello", method="DELETE")
        assert (response.status, response.fields["allow"]) == (405, "GET, HEAD")
        assert client.get("/echo", method="HEAD").status == 405
        response = client.get("/hello", method="OPTIONS")
        assert (response.status, response.fields["allow"]) == (204, "GET, HEAD")
        assert client.get("/hello").status == 200
    for method in ("BREW", "get", "GETS", "G"):
        refusal(f"{method} /hello HTTP/1.1\r\nHost: localhost\r\n\r\n", 501)
    refusal("CONNECT other.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 501)
    refusal("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)


def test_path_segments_are_decoded_after_the_split():
    with SERVER.connect() as client:
        for raw, plain in (("abc", b"abc"), ("a%2Fb", b"a/b"), ("a+b", b"a+b"),
                           ("%e2%82%ac", b"\xe2\x82\xac"),
                           ("%41%5a", b"AZ"), ("a:b@c;d=e", b"a:b@c;d=e")):
            assert client.get("/things/" + raw).body == plain, raw
            assert client.get(f"/things/{raw}/parts").body == plain, raw
        assert client.get("/%68ello").body == b"hello world"
        assert client.get("/things%2Fa").status == 404
        for raw in ("%", "%4", "%zz", "%00", "a%"):
            response = client.get("/things/" + raw)
            assert (response.status, response.problem()["field"]) == (400, "id"), raw


def test_query_parameters_are_strict():
    with SERVER.connect() as client:
        for query, body in (("name=a+b%2B%26", b"hello a b+&"), ("name=", b"hello "),
                            ("", b"hello world"), ("&&name=x&", b"hello x"),
                            ("name=a=b", b"hello a=b"), ("n%61me=x", b"hello x"),
                            ("greeting=hi&name=%C3%A4", b"hi \xc3\xa4"), ("name", b"hello ")):
            assert client.get("/hello?" + query).body == body, query
        for query, field in (("name=%", "name"), ("name=%4", "name"),
                             ("greeting=x&name=%xy", "name"),
                             ("name=%00", "name"), ("name=1&name=1", "name"), ("nam=1", "nam"),
                             ("%=1", "query"), ("=1", ""), ("%ff=1", "\ufffd")):
            response = client.get("/hello?" + query)
            assert response.status == 400, query
            problem = response.problem()
            assert problem["field"] == field, (query, problem)
            assert problem["detail"] == f"{field}: {problem['reason']}", problem
        assert client.get("/things/1?any=%").status == 200


def test_response_fields_cannot_be_forged():
    with SERVER.connect() as client:
        response = client.get("/hello?name=a%0D%0ASet-Cookie:%20b")
        assert response.fields["x-name"] == "a  Set-Cookie: b"
        assert "set-cookie" not in response.fields
        assert response.body == b"hello a\r\nSet-Cookie: b"


def test_lines_must_end_in_crlf():
    refusal("GET /hello HTTP/1.1\nHost: t\n\n", 400)
    refusal("GET /hello HTTP/1.1\r\nHost: t\n\r\n", 400)
    refusal("GET /hello HTTP/1.1\r\nHost: localhost\r\n\n", 400)
    refusal("\nGET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n", 400)
    refusal("\r\n\r\nGET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n", 400)
    refusal("\r\r\n\r\n", 400)
    refusal("\rGET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n", 400)
    refusal("GET /hello HTTP/1.1\r\r\nHost: localhost\r\n\r\n", 400)
    refusal("GET /hello HTTP/1.1\r\nHost: t\rX: y\r\n\r\n", 400)


def test_request_lines_are_strict():
    for line in ("GET /hello", "GET", "GET /hello HTTP/1", "GET /hello HXXX/1.1",
                 "GET  /hello HTTP/1.1",
                 "GET /hello  HTTP/1.1", "GET /hello HTTP/1.1 ", " GET /hello HTTP/1.1",
                 "GET\t/hello HTTP/1.1",
                 "GET /hello http/1.1", "GET /hello HTTP/1.10", "GET hello HTTP/1.1",
                 "G@T /hello HTTP/1.1",
                 "GET /hel\tlo HTTP/1.1", "GET /hello#x HTTP/1.1", "GET ftp://t/hello HTTP/1.1",
                 "GET http:///hello HTTP/1.1", "GET http://t HTTP/1.1"):
        refusal(f"{line}\r\nHost: localhost\r\n\r\n", 400)
    refusal(b"GET /h\xc3\xa4 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400)
    refusal(b"GET /h\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400)
    refusal(b"GET /h\x7f HTTP/1.1\r\nHost: localhost\r\n\r\n", 400)
    refusal("GET /hello HTTP/2.0\r\nHost: localhost\r\n\r\n", 505)
    refusal("GET /hello HTTP/0.9\r\nHost: localhost\r\n\r\n", 505)
    refusal(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400)


def test_header_fields_are_strict():
    for line in ("X : a", "X\t: a", " X: a", ": a", "X", "X y: a", "X\x00: a", "X: a\r\n b",
                 "X: a\r\n\tb",
                 "X: a\x00b", "X: a\x01", "X: a\x7f", "(X): a", "X: a\r\n "):
        refusal(f"GET /hello HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n", 400)
    refusal(b"GET /hello HTTP/1.1\r\nHost: localhost\r\nX\xc3\xa4: a\r\n\r\n", 400)


def test_host_is_required_once():
    refusal("GET /hello HTTP/1.1\r\n\r\n", 400, "Host")
    refusal("GET /hello HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "Host")
    refusal("GET /hello HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "Host")
    refusal("GET /hello HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "Host")
    refusal("GET /hello HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, "Host")
    accepted("GET /hello HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n")


def test_fields_that_mean_one_thing_come_once():
    for name in ("Content-Type", "Last-Event-ID"):
        twice = f"{name}: a/b\r\n{name.lower()}: c/d\r\n"
        refusal(f"GET /hello HTTP/1.1\r\nHost: localhost\r\n{twice}\r\n", 400, name)


def test_framing_that_could_be_read_in_two_ways_is_refused():
    post = "POST /echo HTTP/1.1\r\nHost: localhost\r\n"
    smuggled = "0\r\n\r\nGET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for lines, status, field in (
            ("Content-Length: 4\r\nTransfer-Encoding: chunked", 400, "Transfer-Encoding"),
            ("Transfer-Encoding: chunked\r\nContent-Length: 4", 400, "Transfer-Encoding"),
            ("Content-Length: 4\r\nContent-Length: 4", 400, "Content-Length"),
            ("Content-Length: 4\r\nContent-Length: 5", 400, "Content-Length"),
            ("Content-Length: 4, 4", 400, "Content-Length"),
            ("Content-Length: +4", 400, "Content-Length"),
            ("Content-Length: -4", 400, "Content-Length"),
            ("Content-Length: 0x4", 400, "Content-Length"),
            ("Content-Length: 4 4", 400, "Content-Length"),
            ("Content-Length: 4.0", 400, "Content-Length"),
            ("Content-Length:", 400, "Content-Length"),
            ("Content-Length: 18446744073709551620", 400, "Content-Length"),
            ("Content-Length: 1000000000000000000", 400, "Content-Length"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400, "Transfer-Encoding"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400, "Transfer-Encoding"),
            ("Transfer-Encoding: gzip, chunked", 501, "Transfer-Encoding"),
            ("Transfer-Encoding: chunked, gzip", 501, "Transfer-Encoding"),
            ("Transfer-Encoding: chunked, chunked", 501, "Transfer-Encoding"),
            ("Transfer-Encoding: xchunked", 501, "Transfer-Encoding"),
            ("Transfer-Encoding: identity", 501, "Transfer-Encoding"),
            ("Transfer-Encoding: \"chunked\"", 501, "Transfer-Encoding"),
            ("Transfer-Encoding:", 501, "Transfer-Encoding")):
        with SERVER.connect() as client:
            client.send(f"{post}{lines}\r\n\r\n{smuggled}")
            response = client.response()
            problem = response.problem()
            assert response.status == status, (lines, problem)
            assert problem["field"] == field, (lines, problem)
            assert client.ended(), lines
    refusal(f"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{smuggled}", 400,
            "Transfer-Encoding")
    refusal(f"{post}Transfer-Encoding : chunked\r\n\r\n{smuggled}", 400)
    refusal(f"{post}Content-Length: 4\r\nTransfer-Encoding\r\n : chunked\r\n\r\n{smuggled}", 400)


def test_chunks_are_strict():
    head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    for body in ("5\r\nhelloXX0\r\n\r\n", "5\rXhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n",
                 "5\r\nhello\n0\r\n\r\n", "5\r\nhello\r\r0\r\n\r\n", "\r\n5\r\nhello\r\n0\r\n\r\n",
                 "-5\r\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n",
                 "0x5\r\nhello\r\n0\r\n\r\n",
                 " 5\r\nhello\r\n0\r\n\r\n", "g\r\nhello\r\n0\r\n\r\n", "5\r\nhello6\r\n0\r\n\r\n",
                 "ffffffffffffffff\r\nhello", "10000000000000005\r\nhello\r\n0\r\n\r\n",
                 "5;a\nb\r\nhello\r\n0\r\n\r\n", "5;a\x00\r\nhello\r\n0\r\n\r\n",
                 "5\r\nhello\r\n0\r\n\n", "5\r\nhello\r\n0\r\nA: b\n\r\n",
                 "5\r\nhello\r\n0\r\n A: b\r\n\r\n",
                 "5\r\nhello\r\n0\r\n: b\r\n\r\n", "5\r\nhello\r\n0\r\nA\x00: b\r\n\r\n",
                 "5;" + "x" * 300 + "\r\nhello\r\n0\r\n\r\n",
                 "0\r\n" + "A: b\r\n" * 1000 + "\r\n"):
        refusal(head + body, 400, "body")


def test_a_body_that_ends_early_is_no_body():
    for body in ("Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel"):
        with SERVER.connect() as client:
            client.send(f"POST /echo HTTP/1.1\r\nHost: localhost\r\n{body}")
            client.socket.shutdown(1)
            assert client.ended()


def test_a_client_that_sends_no_more_is_answered():
    with SERVER.connect() as client:
        client.send(GET)
        client.socket.shutdown(1)
        assert client.response().body == b"hello world"
        assert client.ended()
    with SERVER.connect() as client:
        client.send("GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.socket.shutdown(1)
        assert client.response().body.startswith(b"late on")


def test_noise_never_breaks_the_server():
    source = random.Random(5)
    for _ in range(300):
        data = bytearray(MIXED)
        for _ in range(source.randint(1, 5)):
            at = source.randrange(len(data))
            kind = source.randrange(3)
            if kind == 0:
                data[at] = source.randrange(256)
            elif kind == 1:
                del data[at:at + source.randint(1, 20)]
            else:
                data[at:at] = source.randbytes(source.randint(1, 4))
        with SERVER.connect() as client:
            try:
                client.send(bytes(data))
                client.socket.shutdown(1)
            except (BrokenPipeError, ConnectionResetError, OSError):
                pass
            while client.more():
                pass
    accepted(GET)


def test_the_server_is_well_and_nothing_is_left():
    counters = SERVER.until(lambda now: now["connections"] == 1)
    assert counters["streams"] == 0 and counters["responses"][5] > 0
    SERVER.stop()


if __name__ == "__main__":
    tap.run(globals())
