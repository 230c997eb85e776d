"""Kubernetes: a job is a PyTorchJob of Kubeflow's training operator, one pod a node with a torchrun in it.

kubectl does the talking, with the configuration that it finds. Nothing reaches a shell: commands are lists, here and
in the pods. What is secret stays in the cluster's Secrets; the manifest names them.
"""

import io
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.launch.clusters import KubernetesCluster
from pipeline.launch.job import TORCHRUN, Job
from pipeline.launch.scheduler import Phase, State
from pipeline.paths import origin
from pipeline.stage import JOB, LABELLED

_ANSWER = 60.0  # seconds that kubectl may take
_GRACE = 45  # seconds from TERM to KILL in a pod: a stage takes 30
_PASSING = re.compile(r"i/o timeout|connection refused|connection reset|TLS handshake timeout|request timed out", re.I)
_MOMENT = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*")  # a time of --timestamps
_JOB = "training.kubeflow.org/job-name"  # the operator's label on pods


@dataclass(frozen=True, kw_only=True)
class Kubernetes:
    """A scheduler."""

    cluster: KubernetesCluster
    root: Path  # the project's folder here: an experiment's copy lies below it in a pod as it does here

    @property
    def poll_every(self) -> float:
        return self.cluster.poll

    @property
    def look_every(self) -> float:
        return self.cluster.poll

    def preview(self, job: Job, name: str) -> str:
        text = io.StringIO()
        yaml = YAML()
        yaml.default_flow_style = False
        yaml.width = 120
        yaml.dump(self.manifest(job, name), text)
        return text.getvalue()

    def manifest(self, job: Job, name: str) -> dict[str, Any]:
        """The PyTorchJob, as plain data."""
        spec = {"restartPolicy": "Never", "template": self._pod(job, name)}
        replicas = {"Master": {"replicas": 1, **spec}}
        if job.nodes > 1:
            replicas["Worker"] = {"replicas": job.nodes - 1, **json.loads(json.dumps(spec))}
        return {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"name": name, "namespace": self.cluster.namespace, "labels": {"app": "hvg"}},
            "spec": {
                "nprocPerNode": str(job.workers),
                "runPolicy": {"backoffLimit": 0, "cleanPodPolicy": "Running", "ttlSecondsAfterFinished": 86400},
                "pytorchReplicaSpecs": replicas,
            },
        }

    def _pod(self, job: Job, name: str) -> dict[str, Any]:
        c = self.cluster
        # The operator sets MASTER_ADDR, MASTER_PORT and RANK, here a node's; Kubernetes puts them in.
        where = ["--nnodes", str(job.nodes), "--node-rank", "$(RANK)"]
        where += ["--master-addr", "$(MASTER_ADDR)", "--master-port", "$(MASTER_PORT)"]
        where += ["--tee", "3", "--log-dir", "/tmp/torchrun"]  # noqa: S108 - the pod's own
        threads = {"OMP_NUM_THREADS": str(max(1, c.cpus // job.workers))}
        env: list[dict[str, Any]] = [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
        env.append({"name": LABELLED, "value": "$(POD) rank ${rank}: "})
        values = {**threads, **job.everywhere(), JOB: name}
        env += [{"name": key, "value": _literal(value)} for key, value in sorted(values.items())]
        resources: dict[str, Any] = {"cpu": str(c.cpus), "memory": c.memory}
        if c.gpus_per_node is not None:
            resources["nvidia.com/gpu"] = str(c.gpus_per_node)
        shared = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": c.shared_memory}}
        claims = [
            {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": volume.claim}}
            for number, volume in enumerate(c.volumes)
        ]
        mounts = [{"name": f"volume-{number}", "mountPath": volume.path} for number, volume in enumerate(c.volumes)]
        container: dict[str, Any] = {
            "name": "pytorch",  # the operator looks for this name
            "image": c.image,
            "workingDir": str(PurePosixPath(c.folder) / self.root.relative_to(origin(self.root))),
            "command": [_literal(c.python), *TORCHRUN],
            "args": [*where, *(_literal(part) for part in job.program())],
            "env": env,
            "resources": {"limits": resources, "requests": dict(resources)},
            "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, *mounts],  # noqa: S108 - for the loaders
        }
        if c.secrets:
            container["envFrom"] = [{"secretRef": {"name": secret}} for secret in c.secrets]
        pod: dict[str, Any] = {"terminationGracePeriodSeconds": _GRACE, "containers": [container]}
        pod["volumes"] = [shared, *claims]
        if c.node_selector:
            pod["nodeSelector"] = dict(c.node_selector)
        return {"metadata": {"labels": {"app": "hvg"}}, "spec": pod}

    def submit(self, job: Job, name: str) -> str:
        done = self._kubectl("create", "-f", "-", given=json.dumps(self.manifest(job, name)))
        if done.returncode and _PASSING.search(done.stderr.decode(errors="replace")):
            raise OSError(_one_line(done.stderr))
        if done.returncode:
            raise UserError(f"Kubernetes refuses the job: {_one_line(done.stderr)}")
        return name

    def find(self, name: str) -> str | None:
        done = self._kubectl("get", f"pytorchjob/{name}", "-o", "name", "--ignore-not-found")
        if done.returncode:
            raise OSError(_one_line(done.stderr))
        return name if done.stdout.strip() else None

    def poll(self, job_id: str, name: str) -> State:
        done = self._kubectl("get", f"pytorchjob/{job_id}", "-o", "json", "--ignore-not-found")
        if done.returncode:
            raise OSError(_one_line(done.stderr))
        if not done.stdout.strip():
            return State(phase="cancelled", says="deleted")
        state = parse(json.loads(done.stdout))
        if state.phase == "waiting":
            pods = self._pods(job_id)
            if reason := pending_reason(pods):
                return State(phase="waiting", says=f"{state.says} ({reason})")
        return state

    def stream(self, name: str, seen: dict[str, str]) -> bytes:
        data = b""
        for pod in self._pods(name):
            pod_name = pod["metadata"]["name"]
            since = ["--since-time", seen[pod_name]] if pod_name in seen else []
            done = self._kubectl("logs", f"pod/{pod_name}", "--timestamps", *since)
            if done.returncode == 0:  # else it has not begun
                data += new_lines(done.stdout, pod_name, seen)
        return data

    def cancel(self, job_id: str, *, now: bool) -> None:
        # In the foreground the job is there until its pods are gone, so that its end is theirs.
        how = ["--grace-period=0", "--force"] if now else ["--cascade=foreground"]
        done = self._kubectl("delete", f"pytorchjob/{job_id}", "--ignore-not-found", "--wait=false", *how)
        if done.returncode:
            raise OSError(_one_line(done.stderr))

    def log(self, name: str) -> str:
        return f"kubectl logs --namespace {self.cluster.namespace} --selector {_JOB}={name}"

    def way_out(self, job_id: str) -> str:
        return f"kubectl delete pytorchjob {job_id} --namespace {self.cluster.namespace}"

    def _pods(self, name: str) -> list[dict[str, Any]]:
        done = self._kubectl("get", "pods", "--selector", f"{_JOB}={name}", "-o", "json")
        if done.returncode:
            raise OSError(_one_line(done.stderr))
        return json.loads(done.stdout)["items"]

    def _kubectl(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[bytes]:
        command = shutil.which("kubectl")
        if command is None:
            raise UserError("kubectl: not on this machine; install it and give it the cluster's configuration")
        where = ["--namespace", self.cluster.namespace]
        where += ["--context", self.cluster.context] if self.cluster.context else []
        try:
            return subprocess.run(
                [command, *where, *arguments],
                input=given.encode(),
                capture_output=True,
                check=False,
                timeout=_ANSWER,
                process_group=0,  # the terminal's Ctrl-C is for this process, which then deletes the job
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"kubectl took more than {_ANSWER:g} s") from error


def parse(job: dict[str, Any]) -> State:
    """The state of a PyTorchJob, from its conditions: the last one that holds."""
    holding = [c for c in job.get("status", {}).get("conditions", []) if c.get("status") == "True"]
    kinds = {condition["type"]: condition for condition in holding}
    phases: dict[str, Phase] = {"Succeeded": "done", "Failed": "failed", "Running": "running"}
    for kind, phase in phases.items():
        if kind in kinds:
            return State(phase=phase, says=kinds[kind].get("message") or kind)
    return State(phase="waiting", says=holding[-1]["type"] if holding else "not seen by the operator yet")


def pending_reason(pods: list[dict[str, Any]]) -> str:
    """Why a pod does not begin: what the scheduler says of it, or its container waits for."""
    for pod in pods:
        status = pod.get("status", {})
        for condition in status.get("conditions", []):
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                return _one_line(condition.get("message") or condition.get("reason") or "")
        for container in status.get("containerStatuses", []):
            if waiting := container.get("state", {}).get("waiting"):
                return _one_line(f"{waiting.get('reason', '')} {waiting.get('message', '')}")
    return ""


def new_lines(data: bytes, pod: str, seen: dict[str, str]) -> bytes:
    """The lines of `kubectl logs --timestamps` after the last one that `seen` has of a pod, without their times."""
    lines = []
    for line in data.split(b"\n"):  # and nowhere else: a stage's lines may hold what other systems end lines with
        moment, _, rest = line.partition(b" ")
        if _MOMENT.fullmatch(moment) and moment.decode() > seen.get(pod, ""):
            lines.append(rest + b"\n")
            seen[pod] = moment.decode()
    return b"".join(lines)


def _literal(text: str) -> str:
    """Text that Kubernetes puts no variable into: $(id) stays $(id)."""
    return text.replace("$(", "$$(")


def _one_line(said: str | bytes) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return " ".join(text.split())[:500]
