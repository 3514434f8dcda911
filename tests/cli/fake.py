"""A server that misbehaves on purpose, and the program that is held against it.

    with Server(answer, ...) as server:      # one function for each request to come, in order
        done = run(server, "pub", "--type", "a")
    server.requests                          # what arrived

An answer is a function of (connection, request) that sends raw bytes; when it returns True the
connection goes on, else it is closed. The last answer serves all further requests.
"""

import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time

PROGRAM = os.environ["FANFARE_CLI"]
EPOCH = "0123456789abcdef"
TIMEOUT_S = 60


class Request:
    def __init__(self, method, target, headers, body, port):
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.port = port
        self.at = time.monotonic()

    def lines(self):
        return [json.loads(line) for line in self.body.splitlines()]

    def ids(self):
        return [line["id"] for line in self.lines()]


class Server:
    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.arrived = queue.Queue()
        self.lock = threading.Lock()
        self.open = set()
        self.listener = None
        self.port = 0
        self.failure = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
        if self.failure:
            raise self.failure

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def stop(self):
        """Closes everything, as a process that dies would."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for connection in self.open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def accept(self, listener):
        while True:
            try:
                connection, address = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.open.add(connection)
            threading.Thread(target=self.serve, args=(connection, address[1]), daemon=True).start()

    def serve(self, connection, port):
        try:
            file = connection.makefile("rb")
            while self.serve_one(connection, file, port):
                pass
        except OSError:
            pass
        except Exception as error:  # shown by the test
            self.failure = error
        finally:
            with self.lock:
                self.open.discard(connection)
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()

    def serve_one(self, connection, file, port):
        first = file.readline()
        if not first:
            return False
        method, target, _ = first.decode().split()
        headers = {}
        while (line := file.readline().strip()):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = file.read(int(headers.get("content-length", 0)))
        request = Request(method, target, headers, body, port)
        with self.lock:
            self.requests.append(request)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.arrived.put(request)
        return answer(connection, request)

    def wait_request(self):
        return self.arrived.get(timeout=TIMEOUT_S)


# ---- Answers ----


def head(status, type_, size=None, **headers):
    lines = [f"HTTP/1.1 {status} Words", f"Content-Type: {type_}"]
    if size is not None:
        lines.append(f"Content-Length: {size}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer(status, type_, body, **headers):
    if isinstance(body, (dict, list)):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()

    def send(connection, _):
        connection.sendall(head(status, type_, len(body), **headers) + body)
        return True
    return send


def answer_json(body, status=200):
    return answer(status, "application/json", body)


def problem(status, field=None, reason=None, **headers):
    body = {"type": "about:blank", "title": "Title", "status": status, "detail": "detail"}
    if reason:
        body |= {"field": field, "reason": reason}
    return answer(status, "application/problem+json", body, **headers)


def cut(*_):
    """No answer at all."""
    return False


class Log:
    """What a real server does with NDJSON, with hooks to fail at."""

    def __init__(self):
        self.events = {}  # id -> (seq, event)
        self.tries = 0

    def take(self, number, line):
        event = json.loads(line)
        if event.get("type") == "bad":
            return {"line": number, "error": {"field": "type", "reason": "is bad"}}
        known = event["id"] in self.events
        if not known:
            self.events[event["id"]] = (len(self.events) + 1, event)
        seq = self.events[event["id"]][0]
        result = {"line": number, "id": event["id"], "seq": seq, "cursor": f"{seq}@{EPOCH}"}
        return result | ({"duplicate": True} if known else {})

    def results(self, request):
        lines = request.body.decode().splitlines()
        results = [self.take(number, line) for number, line in enumerate(lines, 1)]
        sums = {"stored": sum("id" in r and "duplicate" not in r for r in results),
                "duplicates": sum("duplicate" in r for r in results),
                "refused": sum("error" in r for r in results)}
        return [json.dumps(result) + "\n" for result in [*results, sums]]

    def answer(self, connection, request):
        body = "".join(self.results(request)).encode()
        connection.sendall(head(200, "application/x-ndjson", len(body)) + body)
        return True

    def one(self, connection, request):
        result = self.take(1, request.body)
        status = 200 if "duplicate" in result else 201
        result.pop("line")
        return answer_json(result, status)(connection, request)

    def store_and_cut(self, connection, request):
        """Stored, and nobody is told."""
        self.results(request)
        return False

    def cut_after(self, count, rest=b""):
        """Stores all, answers for `count` lines and a piece of the next, and hangs up."""
        def send(connection, request):
            lines = self.results(request)
            body = "".join(lines).encode()
            part = "".join(lines[:count]).encode() + lines[count].encode()[:7] + rest
            connection.sendall(head(200, "application/x-ndjson", len(body)) + part)
            return False
        return send


def frame(seq, type_="a.b", data=None, epoch=EPOCH):
    data = data or json.dumps({"seq": seq, "type": type_, "payload": seq})
    return f"id: {seq}@{epoch}\nevent: {type_}\ndata: {data}\n\n"


def stream(*pieces, then=None):
    """An event stream: sends the pieces, does `then`, and hangs up."""
    def send(connection, request):
        connection.sendall(head(200, "text/event-stream"))
        for piece in pieces:
            connection.sendall(piece if isinstance(piece, bytes) else piece.encode())
        if then:
            then(connection, request)
        return False
    return send


def hold(connection, _):
    """Keeps a stream open until the client goes."""
    while connection.recv(4096):
        pass


# ---- The program ----


def command(server, *arguments):
    url = server.url if isinstance(server, Server) else server
    return [PROGRAM, *(["--url", url] if url else []), *arguments]


def environment(**more):
    env = {name: value for name, value in os.environ.items()
           if name not in ("FANFARE_URL", "NO_COLOR", "http_proxy", "HTTP_PROXY")}
    return env | {"TERM": "xterm"} | more


def run(server, *arguments, stdin=b"", env=None):
    done = subprocess.run(command(server, *arguments), input=stdin, capture_output=True,
                          timeout=TIMEOUT_S, env=environment(**(env or {})))
    done.out = done.stdout.decode()
    # What a command of `run` says comes through as it is.
    done.err = done.stderr.decode(errors="replace")
    assert "AddressSanitizer" not in done.err and "runtime error" not in done.err, done.err
    return done


def start(server, *arguments, env=None, **options):
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
               "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command(server, *arguments), env=environment(**(env or {})), **options)


def interrupt(process):
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    return (out or b"").decode(), (err or b"").decode(), process.returncode


def expect(done, code, *words):
    """The exit code, and what must stand on either output."""
    text = done.out + done.err
    assert done.returncode == code, f"exit {done.returncode}, expected {code}: {text}"
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"
