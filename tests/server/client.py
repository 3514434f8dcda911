"""A test server as a process, and a client that sends the very bytes it is told to."""

import json
import os
import select
import socket
import subprocess
import time

PROGRAM = os.environ.get("HTTP_TEST_SERVER", "")
# A bound for waits that must end; no test is made true by waiting.
PATIENCE_S = 60


class Server:
    """Options are those of struct fan__http_options; the server must exit with 0."""

    def __init__(self, prepare=None, **options):
        arguments = [f"{name}={value}" for name, value in options.items()]
        self.process = subprocess.Popen([PROGRAM, *arguments], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, preexec_fn=prepare)
        self.said = self.process.stdout.readline().strip()
        self.address = None
        if self.said.startswith("listening "):
            host, port = self.said.split()[1].rsplit(":", 1)
            self.address = (host.strip("[]"), int(port))

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            self.process.kill()
            self.process.wait()
        else:
            self.stop()

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, line):
        self.tell(line)
        return self.process.stdout.readline().strip()

    def wait(self):
        rest, _ = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, (self.process.returncode, rest)
        assert rest == "", rest

    def stop(self, timeout_ms=0):
        if self.process.poll() is None:
            self.tell(f"stop {timeout_ms}")
            self.wait()

    def connect(self, **options):
        return Client(self.address, **options)

    def counters(self):
        with self.connect() as client:
            client.send("GET /counters HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return json.loads(client.response().body)

    def until(self, condition):
        """Waits until the counters satisfy the condition, and gives them."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            counters = self.counters()
            if condition(counters):
                return counters
            assert time.monotonic() < deadline, counters


class Response:
    def __init__(self, status, fields, body):
        self.status = status
        self.fields = fields
        self.body = body

    def problem(self):
        assert self.fields["content-type"] == "application/problem+json", self.fields
        problem = json.loads(self.body)
        assert problem["status"] == self.status, problem
        assert problem["type"] == "about:blank", problem
        return problem


class Client:
    def __init__(self, address, receive_size=None):
        self.socket = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        if receive_size:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_size)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def more(self):
        """Reads once; False at the end, also when the server has reset the connection."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def ended(self):
        """Reads on to the end; true when nothing came before it."""
        while self.more():
            pass
        return self.buffer == b""

    def quiet(self, seconds=0.05):
        """Whether nothing comes for a while. Only to strengthen a test, never to make it true."""
        return not self.buffer and not select.select([self.socket], [], [], seconds)[0]

    def until(self, mark):
        while mark not in self.buffer:
            assert self.more(), (mark, self.buffer[-500:])
        head, self.buffer = self.buffer.split(mark, 1)
        return head

    def take(self, size):
        while len(self.buffer) < size:
            assert self.more(), (size, len(self.buffer))
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def head(self):
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1", lines[0]
        fields = {}
        for line in lines[1:]:
            name, value = line.split(": ", 1)
            assert name.lower() not in fields, line
            fields[name.lower()] = value
        return Response(int(status), fields, b"")

    def chunk(self):
        """One chunk of a body; empty at its end."""
        size = int(self.until(b"\r\n"), 16)
        data = self.take(size)
        assert self.take(2) == b"\r\n"
        return data

    def response(self, head_only=False):
        response = self.head()
        if response.status == 204 or response.status == 304 or response.status < 200:
            assert "content-length" not in response.fields
        elif head_only:
            pass
        elif "transfer-encoding" in response.fields:
            while data := self.chunk():
                response.body += data
        elif "content-length" in response.fields:
            response.body = self.take(int(response.fields["content-length"]))
        else:
            assert response.fields["connection"] == "close"
            while self.more():
                pass
            response.body, self.buffer = self.buffer, b""
        return response

    def get(self, path, *fields, method="GET"):
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *fields, "", ""]
        self.send("\r\n".join(lines))
        return self.response(head_only=method == "HEAD")

    def post(self, path, body, *fields):
        lines = [f"POST {path} HTTP/1.1", "Host: [::1]", f"Content-Length: {len(body)}", *fields]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)
        return self.response()
