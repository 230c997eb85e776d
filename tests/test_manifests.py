"""The examples for Kubernetes in docs/: what their resources' schemas allow, and a stage's own command line."""

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]


def read(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """An example and its schema."""
    schema = json.loads((ROOT / "tests" / "schemas" / f"{kind}.json").read_text())
    return YAML(typ="safe").load(ROOT / "docs" / f"{kind}.yaml"), schema


@pytest.mark.parametrize("kind", ["pytorchjob", "trainjob"])
def test_examples_are_what_the_schema_allows(kind):
    manifest, schema = read(kind)
    jsonschema.validate(manifest, schema)
    for wrong in ("image", "args"):
        text = json.dumps(manifest).replace(f'"{wrong}": ', f'"{wrong}s": ')
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(text), schema)


def test_examples_train_level_2_on_32_gpus():
    trainer = read("trainjob")[0]["spec"]["trainer"]
    assert trainer["numNodes"] * trainer["numProcPerNode"] == 32
    assert shlex.split(trainer["args"][0])[-5:] == ["torchrun", "-m", "stages.train", "--level", "2"]
    replicas = read("pytorchjob")[0]["spec"]["pytorchReplicaSpecs"]
    assert sum(one["replicas"] for one in replicas.values()) == 4
    for one in replicas.values():
        (container,) = one["template"]["spec"]["containers"]
        assert container["command"] == ["torchrun"] and container["args"][-3:] == ["-m", "stages.train", "--level=2"]
        assert {"--nnodes=4", "--nproc-per-node=8"} <= set(container["args"])
