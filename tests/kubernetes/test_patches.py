"""Does each patch of `gpu` do what it says, and nothing else? Do two teams keep apart?"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

MANIFESTS = Path(__file__).resolve().parents[2] / "kubernetes"


def groups(rendered: Any) -> dict[str, Any]:
    cluster = rendered.one("RayJob", "sdst-extraction")["spec"]["rayClusterSpec"]
    return {"head": cluster["headGroupSpec"]} | {
        each["groupName"]: each for each in cluster["workerGroupSpecs"]
    }


def node(rendered: Any) -> dict[str, Any]:
    [job] = rendered.training()["replicatedJobs"]
    return dict(job["template"]["spec"]["template"]["spec"])


def keys(pod: dict[str, Any]) -> set[str]:
    return {each["key"] for each in pod.get("tolerations", [])}


def test_gpu_types_and_taints_are_those_of_what_computes(copied: Any) -> None:
    copied.uncomment("gpu-type.yaml")
    rendered = copied.rendered()
    label = "nvidia.com/gpu.product"
    encode, decode = (groups(rendered)[name]["template"]["spec"] for name in ("encode", "decode"))
    [prediction] = [rendered.one("Job", "sdst-prediction")["spec"]["template"]["spec"]]
    for pod in (node(rendered), encode, prediction):
        assert label in pod["nodeSelector"]
        assert "nvidia.com/gpu" in keys(pod)
    assert "nodeSelector" not in decode
    assert "node.kubernetes.io/unreachable" in keys(node(rendered))  # what was there stays


def test_spot_machines_get_what_can_be_taken_away(copied: Any) -> None:
    copied.uncomment("spot.yaml", "gpu-type.yaml")
    rendered = copied.rendered()
    taint = "cloud.google.com/gke-spot"
    for pod in (node(rendered), *(groups(rendered)[n]["template"]["spec"] for n in WORKERS)):
        assert taint in pod["nodeSelector"]
        assert taint in keys(pod)
    assert {taint, "nvidia.com/gpu"} <= keys(node(rendered))  # both patches hold
    assert "nodeSelector" not in groups(rendered)["head"]["template"]["spec"]
    for kind, name in (("Deployment", "mlflow"), ("StatefulSet", "postgres")):
        assert "nodeSelector" not in rendered.one(kind, name)["spec"]["template"]["spec"]


WORKERS = ("encode", "decode")


def test_priorities_are_set_on_every_stage(copied: Any) -> None:
    copied.uncomment("priority.yaml")
    rendered = copied.rendered()
    jobs = [rendered.one("Job", f"sdst-{name}") for name in ("evaluation", "prediction")]
    pods = [job["spec"]["template"]["spec"] for job in jobs]
    pods += [group["template"]["spec"] for group in groups(rendered).values()]
    for pod in [*pods, node(rendered)]:
        assert pod["priorityClassName"]


def test_storage_classes_are_set_and_modes_stay(copied: Any) -> None:
    copied.uncomment("storage-class.yaml")
    for claim in copied.rendered().of("PersistentVolumeClaim"):
        assert claim["spec"]["storageClassName"]
        shared = claim["metadata"]["name"].startswith("sdst-")
        assert claim["spec"]["accessModes"] == ["ReadWriteMany" if shared else "ReadWriteOnce"]


def test_every_account_pulls_with_the_secret(copied: Any) -> None:
    copied.uncomment("pull-secret.yaml")
    rendered = copied.rendered()
    used = {pod["spec"]["serviceAccountName"] for _, pod in rendered.pods()}
    for account in rendered.of("ServiceAccount"):
        if account["metadata"]["name"] in used:
            assert account["imagePullSecrets"] == [{"name": "registry"}]


def test_a_cluster_that_grows_is_asked_for_what_it_may_become(copied: Any) -> None:
    copied.uncomment("autoscaling")
    rendered = copied.rendered()
    spec = rendered.one("RayJob", "sdst-extraction")["spec"]["rayClusterSpec"]
    assert spec["enableInTreeAutoscaling"] is True
    head = groups(rendered)["head"]["template"]["spec"]
    assert head["serviceAccountName"] == "sdst-ray"
    assert head["automountServiceAccountToken"] is True
    places = rendered.one("ConfigMap", "sdst-places")["data"]
    encode, decode = (groups(rendered)[name] for name in WORKERS)
    assert int(places["ENCODERS"]) == encode["maxReplicas"] > encode["minReplicas"]
    processors = sum(
        group["maxReplicas"]
        * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        for group in (encode, decode)
    )
    encoders = int(places["ENCODERS"])
    assert encoders * (int(places["DECODERS"]) + 1) <= processors
    for group in WORKERS:
        pod = groups(rendered)[group]["template"]["spec"]
        assert pod["serviceAccountName"] == "sdst-work"
        assert pod["automountServiceAccountToken"] is False


def test_a_pod_to_copy_with_mounts_the_data_and_ends_by_itself(copied: Any) -> None:
    copied.uncomment("copy-data.yaml")
    pod = copied.rendered().one("Pod", "sdst-copy")["spec"]
    assert [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]] == [
        "/data",
        "/tmp",
    ]
    assert pod["activeDeadlineSeconds"] > 0


def test_a_quota_leaves_room_for_what_gpu_asks(copied: Any) -> None:
    copied.uncomment("quota.yaml")
    rendered = copied.rendered()
    hard = rendered.one("ResourceQuota", "sdst")["spec"]["hard"]
    [train] = rendered.of("TrainJob")
    [container] = node(rendered)["containers"]
    gpus = int(container["resources"]["requests"]["nvidia.com/gpu"])
    assert int(hard["requests.nvidia.com/gpu"]) >= train["spec"]["trainer"]["numNodes"] * gpus


def test_everything_of_a_team_follows_from_its_namespace(copied: Any) -> None:
    copied.uncomment()
    ours = copied.rendered()
    copied.set("namespace: sdst", "namespace: team-b")
    theirs = copied.rendered()

    def identities(rendered: Any) -> set[tuple[str, str | None, str]]:
        return {
            (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
            for each in rendered.objects
        }

    assert not identities(ours) & identities(theirs)
    spaces = {space for _, space, _ in identities(theirs)}
    assert spaces == {"team-b", None}
    outside = {kind for kind, space, _ in identities(theirs) if space is None}
    assert outside == {"Namespace"}
    theirs.one("Namespace", "team-b")
    [train] = theirs.of("TrainJob")
    runtime = theirs.one("TrainingRuntime", train["spec"]["runtimeRef"]["name"])
    assert runtime["metadata"]["namespace"] == "team-b"
    for binding in theirs.of("RoleBinding"):
        assert {each["namespace"] for each in binding["subjects"]} == {"team-b"}


@pytest.mark.parametrize("overlay", ["gpu-jobset", "kueue", "argo"])
def test_what_stands_on_gpu_takes_another_namespace_too(copied: Any, overlay: str) -> None:
    copied.set("namespace: sdst", "namespace: team-b", f"overlays/{overlay}/kustomization.yaml")
    spaces = {each["metadata"].get("namespace") for each in copied.rendered(overlay).objects}
    assert spaces == {"team-b", None}


def test_no_patch_counts_positions() -> None:
    for path in [*MANIFESTS.rglob("*.yaml")]:
        text = path.read_text()
        assert not re.search(r"^\s*-?\s*(op|path): /?.*/\d+(/|$)", text, re.M), path
        assert not re.search(r"\bop: (add|replace|remove)\b", text), path


def test_every_patch_is_offered_as_one_commented_line_and_explains_itself() -> None:
    offered = (MANIFESTS / "overlays/gpu/kustomization.yaml").read_text()
    for path in (MANIFESTS / "overlays/gpu/patches").iterdir():
        lines = [line for line in offered.splitlines() if f"patches/{path.name}" in line]
        assert [line.startswith("  # - ") for line in lines[:1]] == [True], path.name
        text = path.read_text()
        assert text.startswith("# "), path.name
        for each in yaml.safe_load_all(text):
            assert each["metadata"]["name"], path.name
