"""Real servers on this machine's loopback, at free ports: PostgreSQL, MLflow's tracking server, Optuna's gRPC proxy.

Each can be killed and started again, with its data and at the same address.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from waiting import LONGEST_S

_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
_SUPERUSER = "postgres"  # of the databases and, under root, of the processes, since PostgreSQL refuses to run as root


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class _Server:
    """A process that answers on a port, with those that it starts."""

    command: list[str]
    started_as: dict[str, object]  # further arguments of `subprocess.Popen`
    kill_signal = signal.SIGKILL

    def __init__(self, folder):
        self.port, self._folder, self._process = free_port(), folder, None

    @property
    def terminal(self):
        """What the server has said."""
        return (self._folder / "terminal.txt").read_text()

    def start(self):
        """Start it, or start it again, and wait until it answers."""
        deadline = time.monotonic() + LONGEST_S
        while True:
            with (self._folder / "terminal.txt").open("a") as output:
                self._process = subprocess.Popen(
                    self.command, cwd="/", stdout=output, stderr=output, start_new_session=True, **self.started_as
                )
            while self._process.poll() is None:
                if self.answers():
                    return
                assert time.monotonic() < deadline, self.terminal
                time.sleep(0.05)
            assert time.monotonic() < deadline, self.terminal  # e.g. what was killed has not freed the port yet
            time.sleep(0.2)

    def answers(self):
        raise NotImplementedError

    def kill(self):
        """End it as a crash does, with all that it started."""
        self._end(self.kill_signal)

    def stop(self):
        """End it in order."""
        self._end(signal.SIGINT)

    def _end(self, number):
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        self._process.wait()


class Postgres(_Server):
    """PostgreSQL, which asks for a password; its log names every connection."""

    user, password = "sweeper", "pass-word"
    kill_signal = signal.SIGQUIT  # at once, without a checkpoint; after SIGKILL its own processes may outlive it

    def __init__(self, folder):
        super().__init__(folder)
        is_root = os.getuid() == 0
        self.started_as = {"user": _SUPERUSER, "group": _SUPERUSER, "extra_groups": []} if is_root else {}
        if is_root:
            shutil.chown(folder, _SUPERUSER, _SUPERUSER)
        data = folder / "data"
        how = ["--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", "-D", str(data), "-U", _SUPERUSER, *how)
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": folder}
        settings |= {"fsync": "off", "max_connections": 60, "log_connections": "on"}
        words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        self.command = [str(_BINARIES[-1] / "postgres"), "-D", str(data), *words]

    def answers(self):
        ready = ["pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run([_BINARIES[-1] / ready[0], *ready[1:]], check=False).returncode == 0

    def sql(self, *statements, database=_SUPERUSER):
        """Run statements as superuser, each by itself; give what they print."""
        words = [word for statement in statements for word in ("-c", statement)]
        where = ["-h", str(self._folder), "-p", str(self.port), "-U", _SUPERUSER, "-d", database]
        return self._run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *where, *words)

    def new_database(self, name, user=user, password=password):
        """Make a database that belongs to a user, who is made too; give its address, with the password."""
        if not self.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{user}'"):
            self.sql(f"CREATE ROLE {user} LOGIN PASSWORD '{password}'")
        self.sql(f"CREATE DATABASE {name} OWNER {user}")
        return self.address(name, user, password)

    def dump(self, database):
        """Give all that a database holds, as text."""
        return self._run("pg_dump", "-h", str(self._folder), "-p", str(self.port), "-U", _SUPERUSER, database)

    def address(self, database, user=user, password=password):
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def _run(self, name, *arguments):
        command = [str(_BINARIES[-1] / name), *arguments]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **self.started_as)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


class TrackingServer(_Server):
    """`mlflow server`, which takes artifacts too; `uri` is for `tracking.uri`."""

    def __init__(self, folder, backend_uri, artifacts, options, environment):
        super().__init__(folder)
        self.uri = f"http://127.0.0.1:{self.port}"
        self.artifacts = artifacts
        self.command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        self.command += ["--workers", "1", "--artifacts-destination", str(artifacts), *options]
        settings = {"MLFLOW_BACKEND_STORE_URI": backend_uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        inherited = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where it finds the web server's command
        self.started_as = {"env": inherited | {"PATH": path} | settings | environment}

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=30) as answer:
                return answer.status == 200
        except OSError:
            return False


class StudyProxy(_Server):
    """Optuna's gRPC proxy before a database in its folder."""

    def __init__(self, folder):
        super().__init__(folder)
        self.address = f"grpc://127.0.0.1:{self.port}"
        code = f"""if True:
            from optuna.storages import RDBStorage, run_grpc_proxy_server
            run_grpc_proxy_server(RDBStorage("sqlite:///{folder}/studies.db"), host="127.0.0.1", port={self.port})
        """
        self.command, self.started_as = [sys.executable, "-c", code], {}

    def answers(self):
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def started_study_proxy(folder):
    """Run Optuna's gRPC proxy; what it writes is in a folder."""
    with _started(server := StudyProxy(folder)):
        yield server


@contextmanager
def started_postgres():
    """Run a PostgreSQL server; skip the test where none is installed."""
    if not _BINARIES:
        pytest.skip("PostgreSQL is not installed: there is no /usr/lib/postgresql; apt-get install postgresql")
    pytest.importorskip("psycopg", reason="the extra `postgresql` is not installed")
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:  # short, for the path of a socket; others may enter it
        server = Postgres(Path(folder))
        with _started(server):
            yield server


@contextmanager
def started_tracking_server(folder, backend_uri=None, *, options=(), environment=None):
    """Run MLflow's tracking server, its artifacts in a folder of its own.

    Args:
        folder: an empty one, for what it writes.
        backend_uri: of its database; None: SQLite.
        options: further words of its command, such as `--app-name`, `basic-auth`.
        environment: further environment variables.
    """
    backend_uri = backend_uri or f"sqlite:///{folder}/server.db"
    server = TrackingServer(folder, backend_uri, folder / "artifacts", options, environment or {})
    with _started(server):
        yield server


@contextmanager
def _started(server):
    try:
        server.start()
        yield server
    finally:
        server.kill()  # which takes less time than an end in order
