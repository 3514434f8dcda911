#!/usr/bin/env python3
"""A real PostgreSQL for tests: on a free port of 127.0.0.1 and a socket in a folder of its own.

    postgres.py [NAME=VALUE ...]     settings of the server, beside those below

It prints `ready FOLDER PORT` once the server answers, and then obeys its standard input, a word a
line, each answered by `done`: `kill` (SIGKILL for all of the server), `start`, `stop` (SIGSTOP),
`cont`, `cut` (ends every client's session), `down` (a clean end), `standby` (it comes back as one,
and takes no writes), `promote` (it is none any more), `recover` (it is killed, and comes back in
a recovery that lasts), `recovered` (until now). At the end of its input all is
killed and the folder removed, also when who started it was killed.

The servers of one run of all tests are copies of the first, which FANFARE_SHARED keeps: a folder
that lives as long as the run, beside those of the tests.

Role `fan` with the password `geheim` owns the database `fan`; by the socket everybody is trusted,
also `postgres`, who may do all.
"""
import contextlib
import ctypes
import fcntl
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
IPC_RMID = 0
SETTINGS = {
    "listen_addresses": "127.0.0.1", "fsync": "off", "shared_buffers": "64MB",
    "max_connections": "80", "wal_level": "logical", "max_replication_slots": "8",
    "max_wal_senders": "8", "log_min_messages": "fatal", "max_wal_size": "512MB",
    "autovacuum_naptime": "10s",
    # In the data folder, which goes with the server however it ends.
    "dynamic_shared_memory_type": "mmap",
}
HBA = """local all all trust
local replication all trust
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""
SHARED = os.environ.get("FANFARE_SHARED")
ROLES = "CREATE ROLE fan LOGIN REPLICATION PASSWORD 'geheim'"


def program(name):
    """The newest of Debian's folders, else what the PATH has."""
    def version(path):
        return [int(part) for part in path.split("/")[4].split(".") if part.isdigit()]
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=version)
    return found[-1] if found else shutil.which(name) or sys.exit(f"there is no {name}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, settings):
        self.libc = ctypes.CDLL(None)
        self.libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.folder = tempfile.mkdtemp(prefix="fanfare-pg-")
        self.port = free_port()
        self.data = os.path.join(self.folder, "data")
        # The server refuses to be root.
        self.user = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            self.user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self.settings = SETTINGS | {"port": str(self.port),
                                    "unix_socket_directories": self.folder} | settings
        self.postmaster = None

    def run(self, *command):
        done = subprocess.run(command, cwd=self.folder, stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, check=False, **self.user)
        if done.returncode:
            sys.exit(f"{command[0]} failed: {done.stderr}")

    def make(self):
        """A cluster that runs."""
        if not SHARED:
            self.create()
            return
        template = os.path.join(SHARED, "postgres")
        with open(template + ".lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(template):
                self.create()
                self.down()
                os.rename(self.data, template)
        self.run("cp", "-a", template, self.data)
        self.start()

    def create(self):
        self.run(program("initdb"), "-D", self.data, "-A", "trust", "-U", "postgres", "-E", "UTF8",
                 "--locale=C", "--no-sync")
        with open(os.path.join(self.data, "pg_hba.conf"), "w", encoding="utf-8") as file:
            file.write(HBA)
        self.start()
        for sql in (ROLES, "CREATE DATABASE fan OWNER fan"):
            self.run(program("psql"), "-h", self.folder, "-p", str(self.port), "-U", "postgres",
                     "-Xqc", sql)

    def die_along(self):
        """In the child, as who it is then: should this process be killed, too, all ends."""
        self.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def launch(self, **more):
        options = [f"-c{name}={value}" for name, value in (self.settings | more).items()]
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.postmaster = subprocess.Popen(
                [program("postgres"), "-D", self.data, *options], cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=self.die_along,
                **self.user)

    def wait(self, answer):
        """Until it says 0, that it takes clients, or 1, that it is there and takes none."""
        ready = [program("pg_isready"), "-q", "-h", self.folder, "-p", str(self.port)]
        until = time.monotonic() + 60
        while subprocess.run(ready, check=False).returncode != answer:
            if self.postmaster.poll() is not None or time.monotonic() > until:
                with open(os.path.join(self.folder, "log"), encoding="utf-8") as log:
                    sys.exit(f"the server did not start: {log.read()[-2000:]}")
            # tidy: it asks again and again whether the server answers.
            time.sleep(0.02)

    def start(self):
        self.launch()
        self.wait(0)

    def members(self):
        """Every process below this one: the server's, and those that lost their parent."""
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                    parents[int(entry)] = int(fields[1])
        found, fresh = [], [os.getpid()]
        while fresh:
            fresh = [pid for pid, parent in parents.items() if parent in fresh]
            found += fresh
        return found

    def signal_all(self, number):
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def reap(self, options=0):
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, options)[0]:
                continue

    def kill(self):
        while self.members():
            # One that was begun meanwhile is met in the next round: nobody waits for it here.
            self.signal_all(signal.SIGKILL)
            self.reap(os.WNOHANG)
        # What a killed server leaves behind: a file that may name another's process by now, and a
        # small piece of the system's shared memory, by its key and number in the seventh line.
        lock = os.path.join(self.data, "postmaster.pid")
        with contextlib.suppress(FileNotFoundError), open(lock, encoding="utf-8") as file:
            for line in file.readlines()[6:7]:
                self.libc.shmctl(int(line.split()[1]), IPC_RMID, None)
            os.remove(lock)

    def stop(self):
        self.signal_all(signal.SIGSTOP)

    def cont(self):
        self.signal_all(signal.SIGCONT)

    def cut(self):
        self.run(program("psql"), "-h", self.folder, "-p", str(self.port), "-U", "postgres", "-Xqc",
                 "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                 "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")

    def down(self):
        self.postmaster.send_signal(signal.SIGINT)
        self.reap()

    def standby(self):
        self.down()
        with open(os.path.join(self.data, "standby.signal"), "w", encoding="utf-8") as file:
            os.chmod(file.fileno(), 0o644)
        self.start()

    def promote(self):
        self.run(program("pg_ctl"), "-D", self.data, "-w", "promote")

    def recover(self):
        """Recovery asks for a segment, and is answered when the file is gone."""
        self.kill()
        held = os.path.join(self.folder, "held")
        for path in (held, os.path.join(self.data, "recovery.signal")):
            with open(path, "w", encoding="utf-8") as file:
                os.chmod(file.fileno(), 0o644)
        self.launch(hot_standby="off",
                    restore_command=f"while [ -e {held} ]; do sleep 0.02; done; false")
        self.wait(1)

    def recovered(self):
        os.remove(os.path.join(self.folder, "held"))
        self.wait(0)

    def end(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Started:
    """`with Started() as server`: this script as a process, for tests in Python."""

    def __init__(self, *settings):
        self.process = subprocess.Popen([sys.executable, "-B", __file__, *settings], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        ready = self.process.stdout.readline().split()
        assert ready and ready[0] == "ready", "there is no PostgreSQL"
        self.folder, self.port = ready[1], int(ready[2])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def tell(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n", word

    def uri(self, options="", database="fan"):
        return (f"postgres://fan@/{database}?host={self.folder}&port={self.port}"
                f"{'&' if options else ''}{options}")

    def tcp(self, user="fan", password="geheim", database="fan", options=""):
        return (f"postgres://{user}{':' if password else ''}{password}@127.0.0.1:{self.port}/"
                f"{database}{'?' if options else ''}{options}")

    def sql(self, text, database="fan", user="postgres"):
        """What psql prints: a line a row, columns with | between them."""
        done = subprocess.run(
            [program("psql"), "-h", self.folder, "-p", str(self.port), "-U", user, "-XAtqc", text,
             "-v", "ON_ERROR_STOP=1", database], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


def main():
    # Whoever kills the test's process group is not to kill who cleans up behind it.
    if os.getpid() != os.getpgid(0):
        os.setsid()
    server = Server(dict(setting.split("=", 1) for setting in sys.argv[1:]))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        server.make()
        print("ready", server.folder, server.port, flush=True)
        for line in sys.stdin:
            word = line.strip()
            if word not in ("kill", "start", "stop", "cont", "cut", "down", "standby",
                            "promote", "recover", "recovered"):
                sys.exit(f"no such word: {word}")
            getattr(server, word)()
            print("done", flush=True)
    except BrokenPipeError:
        pass
    finally:
        server.end()


if __name__ == "__main__":
    main()
