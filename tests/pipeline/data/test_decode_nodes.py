"""Several nodes share one project: each decodes its own shards, and the pyramid is that of one node."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.data.decode import decode
from pipeline.paths import Paths
from pipeline.workers import Workers
from tests.pipeline.data.test_decode import PROJECT, params, tree
from tests.pipeline.data.test_decode_restart import begin, notes, stage

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def two(folder: Path) -> tuple[Paths, Paths]:
    """A project that one node has decoded, and a copy of it from before."""
    whole, again = begin(folder / "whole", 9), Paths(folder / "again")
    shutil.copytree(whole.root, again.root)
    decode(params(max_failed=0.5), whole, 1)
    return whole, again


def test_each_node_decodes_its_own_shards(tmp_path, monkeypatch):
    """Ten files are five shards. Node 1 goes first here, and does not wait; node 0 brings it all together."""
    whole, again = two(tmp_path)
    monkeypatch.setattr(Workers, "any", lambda self, flag: flag)  # one after the other: nobody to ask
    decode(params(max_failed=0.5), again, 1, Workers(rank=1, count=2))
    assert notes(again).keys() == {"00000002.json", "00000006.json"}
    assert not again.pyramid.exists()
    theirs = notes(again)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.data.decode.publish", None)
        with pytest.raises(TypeError):
            decode(params(max_failed=0.5), again, 1, Workers(rank=0, count=2))
    assert theirs.items() <= notes(again).items()
    decode(params(max_failed=0.5), again, 1, Workers(rank=0, count=2))
    assert tree(again.pyramid) == tree(whole.pyramid)


@pytest.mark.slow
def test_two_nodes_at_once_make_the_same_pyramid(tmp_path):
    whole, again = two(tmp_path)
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    nodes = [stage(again, workers=1, RANK=str(rank), **group) for rank in range(2)]
    assert [node.wait(120) for node in nodes] == [0, 0]
    assert tree(again.pyramid) == tree(whole.pyramid)


@pytest.mark.slow
def test_torchrun(tmp_path):
    whole, again = two(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [*TORCHRUN, "--nproc-per-node", "2", "-m", "stages.decode", "--workers", "1"]
    subprocess.run(command, cwd=again.root, env=environment, check=True, timeout=120)
    assert tree(again.pyramid) == tree(whole.pyramid)


@pytest.mark.slow
def test_a_node_that_fails_ends_the_others(tmp_path):
    """Two machines with a torchrun each. Node 0 has decoded its part and waits for the other, which ends."""
    _, again = two(tmp_path)
    script = tmp_path / "node.py"
    script.write_text(
        "import sys\n"
        "from pipeline.data import decode\n"
        "from pipeline.system.stage import run_stage\n"
        "from stages.decode import main\n"
        "if __name__ == '__main__':\n"  # the decoding processes import it again
        "    if sys.argv[1] == '1':\n"
        "        decode.decode_shards = lambda *_: sys.exit(3)\n"
        "    run_stage(lambda: main(['--workers', '1']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    where = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    machines = [
        subprocess.Popen(
            [*TORCHRUN, *where, "--node-rank", str(rank), str(script), str(rank)], cwd=again.root, env=environment
        )
        for rank in range(2)
    ]
    assert all(machine.wait(120) == 1 for machine in machines)
    assert not again.pyramid.exists()
