"""Would the API server and the operators accept every object?"""

import functools
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

kubernetes_validate = pytest.importorskip("kubernetes_validate")
models = pytest.importorskip("kubeflow_trainer_api.models")

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = "1.33"
"""The oldest version that the manifests are for."""
OPERATORS = {
    "RayJob": ("ray.io_rayjobs.yaml", "v1"),
    "TrainJob": ("trainer.kubeflow.org_trainjobs.yaml", "v1alpha1"),
    "TrainingRuntime": ("trainer.kubeflow.org_trainingruntimes.yaml", "v1alpha1"),
    "JobSet": ("jobset.x-k8s.io_jobsets.yaml", "v1alpha2"),
    "PodMonitor": ("monitoring.coreos.com_podmonitors.yaml", "v1"),
    "PrometheusRule": ("monitoring.coreos.com_prometheusrules.yaml", "v1"),
    "Workflow": ("argoproj.io_workflows.yaml", "v1alpha1"),
}
STANDING_IN = {"TrainingRuntime": "trainer.kubeflow.org_clustertrainingruntimes.yaml"}
"""What judges where a kind's own schema is not at hand; both runtimes have one specification."""
READ_BY = {
    "TrainJob": "TrainerV1alpha1TrainJob",
    "TrainingRuntime": "TrainerV1alpha1TrainingRuntime",
    "JobSet": "JobsetV1alpha2JobSet",
}


def test_kubernetes_own_objects_have_no_unknown_or_wrong_field(overlay: Any) -> None:
    for each in overlay.objects:
        if each["kind"] not in OPERATORS:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def test_pods_inside_operators_objects_are_valid_pods(overlay: Any) -> None:
    for name, pod in overlay.pods():
        spec = {key: value for key, value in pod["spec"].items() if value is not None}
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
        try:
            kubernetes_validate.validate(whole, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise AssertionError(f"{name}: {error}") from error


def test_the_trainers_own_reader_keeps_every_field(overlay: Any) -> None:
    for each in overlay.of(*READ_BY):
        read = getattr(models, READ_BY[each["kind"]]).from_dict(each)
        assert plain(read.to_dict()) == plain(each)


@pytest.mark.parametrize("kind", OPERATORS)
def test_operators_schemas_accept_their_objects(overlay: Any, kind: str) -> None:
    objects = overlay.of(kind)
    if objects:
        api, schema = operator_schema(kind)
        for each in objects:
            assert each["apiVersion"] == api
            jsonschema.Draft202012Validator(schema).validate(each)


def test_argos_own_models_keep_every_field(overlay: Any) -> None:
    argo = pytest.importorskip("hera.workflows.models", reason="needs the group `dev`")
    for each in overlay.of("Workflow"):
        read = argo.Workflow.model_validate(each)
        kept = read.model_dump(by_alias=True, exclude_none=True, mode="json")
        assert plain(kept) == plain(each)


@functools.cache
def operator_schema(kind: str) -> tuple[str, Any]:
    """The API version of a kind and its schema, from its operator's CRD."""
    file, version = OPERATORS[kind]
    names = [file, STANDING_IN.get(kind, file)]
    paths = [folder / "shared/crds" / name for name in names for folder in ROOT.parents]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        pytest.skip(f"the operator's CRD is not in ../shared/crds: {file}")
    crd = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    versions = {each["name"]: each["schema"]["openAPIV3Schema"] for each in crd["spec"]["versions"]}
    return f"{crd['spec']['group']}/{version}", closed(versions[version])


def plain(node: Any) -> Any:
    """Values as both sides write them: quantities and ports may be text or numbers."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items() if value is not None}
    if isinstance(node, list):
        return [plain(value) for value in node]
    return node if isinstance(node, bool) else str(node)


def closed(node: Any, top: bool = True) -> Any:
    """The schema with unknown fields refused: the API server would drop them silently."""
    if isinstance(node, list):
        return [closed(value, False) for value in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    result = {}
    for key, value in node.items():
        if key == "properties":
            result[key] = {name: closed(schema, False) for name, schema in value.items()}
        elif key not in ("default", "description"):
            result[key] = closed(value, False)
    opened = top or node.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in node and "additionalProperties" not in node and not opened:
        result["additionalProperties"] = False
    return result
