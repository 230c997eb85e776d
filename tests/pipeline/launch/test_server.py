"""Prefect's server for a run, played: a taken port, a failed start, a secret in a URL."""

import http.server
import subprocess
import sys
import threading

import pytest

from pipeline.errors import UserError
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
    refused, own = process("raise SystemExit(1)"), process("import time; time.sleep(600)")
    refused.wait()
    begun = [(refused, healthy), (own, healthy)]
    monkeypatch.setattr(server, "_begin", lambda *_: begun.pop(0))
    with prefect_server(tmp_path):
        assert begun == []
        assert own.poll() is None
    assert own.poll() is not None


def test_a_server_that_cannot_start_is_told_with_its_log(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    failing = process("raise SystemExit(1)")
    monkeypatch.setattr(server, "_begin", lambda *_: (failing, "http://127.0.0.1:9/api"))
    with pytest.raises(UserError, match=r"did not start: see .*server\.log"), prefect_server(tmp_path):
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
