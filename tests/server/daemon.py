"""fanfared as a process on a port and a log of its own, and what a client of its API needs."""

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote

from client import PATIENCE_S, Client

PROGRAM = os.environ.get("FANFARED", "")
# A sanitizer's own memory says nothing about ours.
MEMORY_TELLS = os.environ.get("FANFARED_SANITIZE", "none") == "none"
SAYS = re.compile(r"fanfared listens on http://(.*):(\d+) and keeps its log in (.*) "
                  r"\(epoch ([0-9a-f]{16})\)\.\n")


def folder():
    return tempfile.TemporaryDirectory(prefix="fanfare-")


def run(*arguments, **options):
    """Runs fanfared to an end that should come by itself."""
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True,
                          timeout=PATIENCE_S, **options)


class Daemon:
    """`with Daemon(store) as daemon`: it must start, and end with 0 on SIGTERM."""

    def __init__(self, store="memory:", *arguments, loops=2, prefix=()):
        self.process = subprocess.Popen(
            [*prefix, PROGRAM, "--listen", "127.0.0.1:0", "--store", store, "--loops", str(loops),
             *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said = self.process.stdout.readline()
        match = SAYS.fullmatch(self.said)
        if not match:
            self.process.kill()
            raise AssertionError((self.said, self.process.communicate()))
        self.address = (match[1], int(match[2]))
        self.store = match[3]
        self.epoch = match[4]

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            self.process.kill()
            _, errors = self.process.communicate()
            for line in errors.splitlines():
                print("# fanfared:", line)
        elif self.process.poll() is None:
            self.stop()

    def stop(self, number=signal.SIGTERM):
        """Ends it as an operator does; gives what it said on standard error."""
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, (self.process.returncode, errors)
        assert output == f"fanfared stops on {signal.Signals(number).name}.\n", output
        return errors

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def connect(self, **options):
        return Client(self.address, **options)

    def ask(self, method, target, body=b"", **fields):
        """One request on a connection of its own; header names with _ for -."""
        with self.connect() as client:
            return request(client, method, target, body, **fields)

    def get(self, target, status=200):
        response = self.ask("GET", target)
        assert response.status == status, (response.status, response.body)
        return response.problem() if status >= 400 else json.loads(response.body)

    def publish(self, body, content_type="application/json", status=None, **fields):
        """Gives the answer of one publish, parsed; any success, unless a status is wanted."""
        if not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        response = self.ask("POST", "/v1/events", body, Content_Type=content_type, **fields)
        wanted = [status] if status else [200, 201]
        assert response.status in wanted, (response.status, response.body)
        return response.problem() if response.status >= 400 else json.loads(response.body)

    def until(self, condition, target="/v1/stats"):
        """Waits until what a GET gives satisfies the condition."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self.get(target)
            if condition(answer):
                return answer
            assert time.monotonic() < deadline, answer

    def stream(self, receive_size=None, last_event_id=None, **query):
        return Stream(self, receive_size, last_event_id, query)

    def memory_peak(self):
        """The most memory that it ever held, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def check_memory_peak(self, bound, before=0):
        if MEMORY_TELLS:
            grown = self.memory_peak() - before
            assert grown < bound, grown


def request(client, method, target, body=b"", **fields):
    body = body.encode() if isinstance(body, str) else body
    head = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    head += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    if body or method == "POST":
        head.append(f"Content-Length: {len(body)}")
    client.send("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    return client.response()


class Frame:
    def __init__(self, text):
        self.id = self.event = self.retry = None
        self.comment = False
        data = []
        for line in re.split(r"\r\n|\r|\n", text):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "id":
                self.id = value
            elif name == "event":
                self.event = value
            elif name == "data":
                data.append(value)
            elif name == "retry":
                self.retry = int(value)
            elif line.startswith(":"):
                self.comment = True
        self.data = "\n".join(data) if data else None

    @property
    def seq(self):
        return int(self.id.split("@")[0])

    def json(self):
        return json.loads(self.data)


class Stream:
    """An event stream. Iterating gives frames that hold an event or a gap, to its end."""

    def __init__(self, daemon, receive_size, last_event_id, query):
        self.client = daemon.connect(receive_size=receive_size)
        self.text = b""
        self.last_id = last_event_id
        parameters = "&".join(f"{name}={quote(str(value), safe='')}"
                              for name, value in query.items())
        head = f"GET /v1/stream{'?' if query else ''}{parameters} HTTP/1.1\r\nHost: localhost\r\n"
        if last_event_id:
            head += f"Last-Event-ID: {last_event_id}\r\n"
        self.client.send(head + "\r\n")
        self.response = self.client.head()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.client.close()

    def frame(self):
        """The next frame of whatever kind, None at the end of the stream."""
        while b"\n\n" not in self.text:
            chunk = self.client.chunk()
            if not chunk:
                return None
            self.text += chunk
        text, self.text = self.text.split(b"\n\n", 1)
        frame = Frame(text.decode())
        if frame.id is not None:
            self.last_id = frame.id
        return frame

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            frame = self.frame()
            if frame is None:
                raise StopIteration
            if frame.data is not None:
                return frame

    def take(self, count):
        return [next(self) for _ in range(count)]


def together(*calls):
    """Runs calls on threads of their own, and raises what one of them raised."""
    failures = []

    def guarded(call):
        try:
            call()
        except BaseException as failure:  # noqa: BLE001: it is raised again below
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=[call], daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
