"""The process: errors of a start in one line, clients that disconnect, and Ctrl-C."""

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from llm.core.errors import UserError
from llm.serve.run import bind, serve

PATIENCE = 60


def test_an_invalid_start_is_one_line(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"--host: expected 127\.0\.0\.1 or localhost, or --public beside it"):
        serve(tmp_path, "0.0.0.0", 0, 1, public=False)  # noqa: S104 (it is refused)
    with pytest.raises(UserError, match=r"no config\.json"):
        serve(tmp_path, "0.0.0.0", 0, 1, public=True)  # noqa: S104 (it is not reached)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    with pytest.raises(UserError, match=r"serve: expected the package uvicorn, it is not installed \(make extras\)"):
        serve(tmp_path, "127.0.0.1", 0, 1, public=False)


def test_a_port_in_use_is_named():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port: expected a free one on 127.0.0.1, got {port}"):
            bind("127.0.0.1", port)


def _load(port):
    """The process's load, from GET /health."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        connection.request("GET", "/health")
        return json.loads(connection.getresponse().read())


def _wait(port, condition):
    end = time.monotonic() + PATIENCE
    while not condition(load := _load(port)):
        assert time.monotonic() < end, load
        time.sleep(0.02)


def _begin(port, body, length=None):
    """A connection on which completions were asked for, to be read or closed."""
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length or len(body)}\r\n"
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    return connection


def test_a_process_outlives_disconnects_until_ctrl_c(chat_folder):
    pytest.importorskip("uvicorn")
    command = [sys.executable, "-m", "llm", "serve", str(chat_folder), "--port", "0", "--slots", "4"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environment, **pipes) as process:
        try:
            name, _, address = process.stdout.readline().partition(" on http://127.0.0.1:")
            assert name == "talker", process.stderr.read()
            port = int(address.split("/v1")[0])
            _begin(port, b"{", 100).close()
            # More than a million tokens: without cancellation the process would not be idle in time.
            asked = {"model": "talker", "prompt": ["The river"] * 16, "max_tokens": 1000, "n": 128}
            for stream in (True, False):
                with _begin(port, json.dumps(asked | {"stream": stream}).encode()) as connection:
                    assert not stream or connection.recv(100)
                    _wait(port, lambda load: load["live"] == 4)
                _wait(port, lambda load: load["live"] == load["waiting"] == 0)
            with _begin(port, json.dumps(asked | {"stream": True}).encode()) as connection:
                received = connection.recv(100)
                process.send_signal(signal.SIGINT)
                while more := connection.recv(65536):
                    received += more
            assert b"the server was stopped" in received
            assert b"[DONE]" not in received
            assert process.communicate(timeout=PATIENCE) == ("", "")
            assert process.returncode == 0
        finally:
            process.kill()
