"""What becomes of a job's lines where nobody sees them."""

import sys

from pipeline.launch.output import Output


class Gone:
    """A standard output whose reader has gone."""

    def __init__(self):
        self.buffer = self

    def write(self, data):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError


def test_a_closed_terminal_costs_the_log_no_line(tmp_path, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(sys, "stdout", Gone())
    output = Output(lines.append, tmp_path / "log")
    output.feed(b"saving\nsav")
    output.feed(b"ed\n")
    output.close()
    assert lines == ["saving", "saved"]
    assert (tmp_path / "log").read_bytes() == b"saving\nsaved\n"
