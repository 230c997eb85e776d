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


def test_a_closed_terminal_costs_no_line(tmp_path, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(sys, "stdout", Gone())
    output = Output(tmp_path / "log", lines.append)
    with (tmp_path / "log").open("ab", buffering=0) as log:
        for data in (b"saving\nsav", b"ed\nthe ", b"rest"):
            log.write(data)
            output.show()
    output.close()
    assert lines == ["saving", "saved", "the rest"]
