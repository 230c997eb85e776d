"""Prefect's server for a run, played: a taken port, a failed start, a secret in a URL."""

import http.server
import socket
import subprocess
import sys
import threading

import pytest

from pipeline.errors import Failed, UserError
from pipeline.launch import server
from pipeline.launch.server import prefect_server


@pytest.fixture
def healthy():
    """The URL of something that answers as Prefect's API does."""

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_port}/api"
        one.shutdown()


def process(program):
    return subprocess.Popen([sys.executable, "-c", program], process_group=0)


def test_another_s_server_on_the_port_is_not_taken_for_its_own(tmp_path, monkeypatch, healthy):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    refused = process("raise SystemExit(1)")
    refused.wait()
    monkeypatch.setattr(server, "_begin", lambda *_: (refused, healthy))
    with pytest.raises(Failed, match="has ended"), prefect_server(tmp_path):
        pass


def test_a_server_ends_with_its_block(tmp_path, monkeypatch, healthy):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    own = process("import time; time.sleep(600)")
    monkeypatch.setattr(server, "_begin", lambda *_: (own, healthy))
    with prefect_server(tmp_path) as url:
        assert url == healthy and own.poll() is None
    assert own.poll() is not None


def test_a_server_that_ends_is_told_by_its_log_and_is_no_user_s_mistake(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(server, "_begin", lambda *_: (process("raise SystemExit(3)"), "http://127.0.0.1:9/api"))
    with pytest.raises(Failed, match=r"has ended; its log, .*server\.log"), prefect_server(tmp_path):
        pass
    assert not issubclass(Failed, UserError)


ANSWERS_LATE = """if True:
    import http.server, sys, time
    time.sleep(2)
    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


def test_a_server_is_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(server, "SAY_SECONDS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    late = subprocess.Popen([sys.executable, "-c", ANSWERS_LATE, str(port)], process_group=0)
    monkeypatch.setattr(server, "_begin", lambda *_: (late, url))
    with prefect_server(tmp_path) as found:
        assert found == url
    assert capsys.readouterr().err.count("waiting for Prefect's server to start") == 1


@pytest.mark.parametrize(
    ("program", "limit", "seconds"),
    [
        ("import time; time.sleep(600)", "STILL_SECONDS", 1.0),
        ("while True: pass", "START_CPU_SECONDS", 0.5),
    ],
)
def test_one_that_does_not_work_or_does_not_end_to_start_is_given_up(tmp_path, monkeypatch, program, limit, seconds):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(server, limit, seconds)
    own = process(program)
    monkeypatch.setattr(server, "_begin", lambda *_: (own, "http://127.0.0.1:9/api"))
    with pytest.raises(Failed, match=r"does not answer after [0-9]+ s"), prefect_server(tmp_path):
        pass
    assert own.poll() is not None


def test_one_that_works_is_waited_for_however_long_it_takes(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(server, "STILL_SECONDS", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = ANSWERS_LATE.replace("time.sleep(2)", "began = time.time()\n    while time.time() < began + 3: pass")
    late = subprocess.Popen([sys.executable, "-c", program, str(port)], process_group=0)
    monkeypatch.setattr(server, "_begin", lambda *_: (late, f"http://127.0.0.1:{port}/api"))
    with prefect_server(tmp_path):
        assert late.poll() is None


@pytest.mark.parametrize(
    ("name", "value"), [("ALL_PROXY", "socks5://127.0.0.1:1"), ("ALL_PROXY", "socks://h:1"), ("NO_PROXY", "fd00::/8")]
)
def test_proxies_that_prefect_cannot_use_are_named_before_anything_runs(tmp_path, monkeypatch, name, value):
    for proxy in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        for either in (proxy, proxy.lower()):
            monkeypatch.setenv(either, "")  # to be as it was, whatever is set meanwhile
            monkeypatch.delenv(either)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="Prefect's client cannot use what is set"), prefect_server(tmp_path):
        pass


def test_a_password_in_the_url_is_not_told(tmp_path, monkeypatch, caplog, healthy):
    monkeypatch.setenv("PREFECT_API_URL", "http://somebody:hunter2@127.0.0.1:9/api")
    own = process("import time; time.sleep(600)")
    monkeypatch.setattr(server, "_begin", lambda *_: (own, healthy))
    with prefect_server(tmp_path) as url:
        assert url == healthy
    assert "127.0.0.1:9/api does not answer" in caplog.text
    assert "hunter2" not in caplog.text and "somebody" not in caplog.text


@pytest.mark.parametrize("url", ["http://localhost:port/api", "http://[::1/api", "nothing"])
def test_what_is_no_url_does_not_answer(url):
    assert not server.answers(url)
