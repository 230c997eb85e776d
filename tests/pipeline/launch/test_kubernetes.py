"""Manifests against golden files and the resource's published schema; kubectl's answers, played."""

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.launch.clusters import KubernetesCluster, Volume
from pipeline.launch.job import Job
from pipeline.launch.kubernetes import Kubernetes, new_lines, parse, pending_reason

HERE = Path(__file__).parent
SCHEMA = json.loads((HERE / "golden" / "pytorchjob.schema.json").read_text())
SMALL = KubernetesCluster(launcher="kubernetes", image="hvg", folder="/projects/hvg")
LARGE = KubernetesCluster(
    launcher="kubernetes",
    image="registry.example.org/hvg:1",
    folder="/projects/hvg",
    namespace="vision",
    nodes=4,
    gpus_per_node=8,
    cpus=64,
    memory="512Gi",
    volumes=(Volume(claim="work", path="/projects"), Volume(claim="videos", path="/datasets")),
    node_selector={"gpu": "a100"},
    secrets=("mlflow",),
)
JOBS = {
    "decode": (SMALL, Job(module="stages.decode", args=("--workers", "1"))),
    "train": (LARGE, Job(module="stages.train", args=("--level", "2"), workers=8, nodes=4)),
}


@pytest.mark.parametrize("name", JOBS)
def test_manifests_are_the_golden_ones(name):
    """After a wanted change: write what `shown` is into the file."""
    cluster, job = JOBS[name]
    shown = Kubernetes(cluster=cluster, root=HERE).preview(job, f"hvg-{name}")
    assert shown == (HERE / "golden" / f"{name}.pytorchjob.yaml").read_text()


@pytest.mark.parametrize("name", JOBS)
def test_manifests_are_what_the_published_schema_allows(name):
    cluster, job = JOBS[name]
    shown = Kubernetes(cluster=cluster, root=HERE).preview(job, f"hvg-{name}")
    jsonschema.validate(YAML(typ="safe").load(shown), SCHEMA)


def test_the_schema_refuses_what_is_wrong():
    cluster, job = JOBS["train"]
    manifest = Kubernetes(cluster=cluster, root=HERE).manifest(job, "x")
    for path, value in (("replicas", "4"), ("restartPolicies", "Never"), ("template", {"spec": {"containers": [{}]}})):
        wrong = json.loads(json.dumps(manifest))
        wrong["spec"]["pytorchReplicaSpecs"]["Worker"][path] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)


def test_kubernetes_replaces_nothing_in_what_it_is_given():
    job = Job(module="stages.train", args=("--level", "$(id); touch x"), env={"A": "$(PATH)"})
    shown = Kubernetes(cluster=SMALL, root=HERE).manifest(job, "x")
    container = shown["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    assert container["args"][-1] == "$$(id); touch x"
    assert {"name": "A", "value": "$$(PATH)"} in container["env"]
    assert container["args"][3] == "$(RANK)"
    assert "sh" not in container["command"]


def condition(kind: str, status: str = "True", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "message": message}


@pytest.mark.parametrize(
    ("conditions", "phase", "says"),
    [
        ([], "waiting", "not seen by the operator yet"),
        ([condition("Created")], "waiting", "Created"),
        ([condition("Created"), condition("Running")], "running", "Running"),
        ([condition("Created"), condition("Running", "False"), condition("Succeeded")], "done", "Succeeded"),
        ([condition("Running", "False"), condition("Failed", message="pod x failed")], "failed", "pod x failed"),
    ],
)
def test_states(conditions, phase, says):
    state = parse({"status": {"conditions": conditions}})
    assert (state.phase, state.says) == (phase, says)


def test_why_a_pod_does_not_begin():
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: insufficient\nnvidia.com/gpu"}
    assert pending_reason([{"status": {"conditions": [unscheduled]}}]) == "0/3 nodes: insufficient nvidia.com/gpu"
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    assert pending_reason([{"status": {"containerStatuses": [waiting]}}]) == "ImagePullBackOff no such image"
    assert pending_reason([{"status": {}}]) == ""


def test_each_line_of_a_pod_once():
    seen: dict[str, str] = {}
    first = b"2026-01-01T00:00:00.000000001Z one\n2026-01-01T00:00:00.000000002Z two 2\n"
    assert new_lines(first, "p", seen) == b"one\ntwo 2\n"
    assert new_lines(first + b"2026-01-01T00:00:01.000000000Z three\n", "p", seen) == b"three\n"
    assert new_lines(first, "q", seen) == b"one\ntwo 2\n"


def test_a_pods_line_ends_at_a_newline_only():
    bar = "p rank 0: 1%\r2%\x85\u2028 done\n".encode() + b"\xff\n"
    word = b"p rank 0: \x1eexit 2 a.b: no\n"
    moment = b"2026-01-01T00:00:0%dZ "
    shown = b"".join(moment % number + line for number, line in enumerate((bar[:-2], b"\xff\n", word)))
    seen: dict[str, str] = {}
    assert new_lines(shown + b"unable to retrieve container logs\n", "p", seen) == bar + word
    assert seen == {"p": "2026-01-01T00:00:02Z"}


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """A kubectl that notes what it is asked, and answers with the files beside it."""
    program = tmp_path / "kubectl"
    program.write_text(
        "#!/bin/sh\n"
        f"cd {tmp_path}\n"
        'echo "$*" >> asked\n'
        'case "$*" in\n'
        "  *delete*) if [ -e refused ]; then cat refused >&2; exit 1; fi;;\n"
        "  *create*) cat > created; if [ -e refused ]; then cat refused >&2; exit 1; fi;;\n"
        "  *'get pytorchjob/'*) cat job;;\n"
        "  *'get pods'*) cat pods;;\n"
        "  *logs*) cat log;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_a_job_by_kubectl(kubectl):
    cluster, job = JOBS["train"]
    scheduler = Kubernetes(cluster=cluster, root=HERE)
    (kubectl / "job").write_text(json.dumps({"status": {"conditions": [condition("Created")]}}))
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "no room"}
    (kubectl / "pods").write_text(
        json.dumps({"items": [{"metadata": {"name": "x-master-0"}, "status": {"conditions": [unscheduled]}}]})
    )
    (kubectl / "log").write_text("2026-01-01T00:00:00.000000001Z x-master-0 rank 0: one\n")
    assert scheduler.submit(job, "x") == "x"
    assert json.loads((kubectl / "created").read_text()) == scheduler.manifest(job, "x")
    assert scheduler.poll("x", "x").says == "Created (no room)"
    seen: dict[str, str] = {}
    assert scheduler.stream("x", seen) == b"x-master-0 rank 0: one\n"
    assert scheduler.stream("x", seen) == b""
    scheduler.cancel("x", now=False)
    (kubectl / "job").write_text("")
    assert scheduler.poll("x", "x").phase == "cancelled"
    assert scheduler.find("x") is None
    asked = (kubectl / "asked").read_text().splitlines()
    assert all(line.startswith("--namespace vision ") for line in asked)
    assert asked[0] == "--namespace vision create -f -"
    assert "--namespace vision delete pytorchjob/x --ignore-not-found --wait=false --cascade=foreground" in asked
    assert "logs pod/x-master-0 --timestamps --since-time 2026-01-01T00:00:00.000000001Z" in asked[6]


def test_a_refused_job_is_a_users_mistake(kubectl):
    (kubectl / "refused").write_text("error: namespaces not found\n")
    with pytest.raises(UserError, match="Kubernetes refuses the job: error: namespaces not found"):
        Kubernetes(cluster=SMALL, root=HERE).submit(JOBS["decode"][1], "x")


def test_a_cluster_out_of_reach_is_no_users_mistake(kubectl):
    (kubectl / "refused").write_text("Unable to connect to the server: dial tcp 10.0.0.1:6443: i/o timeout\n")
    with pytest.raises(OSError, match="i/o timeout"):
        Kubernetes(cluster=SMALL, root=HERE).submit(JOBS["decode"][1], "x")
    with pytest.raises(OSError, match="i/o timeout"):
        Kubernetes(cluster=SMALL, root=HERE).cancel("x", now=True)


def test_no_kubectl(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="kubectl: not on this machine"):
        Kubernetes(cluster=SMALL, root=HERE).poll("x", "x")
