"""Does a stage take machines only when what it needs is there?"""

import re
from typing import Any

import pytest

from launch import release

STAGES = ("extraction", "training", "evaluation", "prediction")
QUEUE = "kueue.x-k8s.io/queue-name"


def later_stages(overlay: Any) -> list[dict[str, Any]]:
    jobs = [f"sdst-{stage}" for stage in ("evaluation", "prediction")]
    return [*overlay.of("TrainJob", "JobSet"), *(overlay.one("Job", name) for name in jobs)]


def test_what_needs_features_or_a_model_is_made_suspended_and_waits_in_no_pod(overlay: Any) -> None:
    for each in later_stages(overlay):
        assert each["spec"]["suspend"] is True, each["metadata"]["name"]
    for name, pod in overlay.pods():
        assert "initContainers" not in pod["spec"], name


def test_nothing_that_waits_has_a_gpu(overlay: Any) -> None:
    for job in overlay.of("Job"):
        if job["metadata"]["name"] == "sdst-order":
            [container] = job["spec"]["template"]["spec"]["containers"]
            assert "nvidia.com/gpu" not in container["resources"]["limits"]
            assert container["resources"]["requests"]["cpu"] == "10m"
            assert container["image"].endswith("-cpu")


def test_the_order_may_get_and_patch_the_later_stages_and_nothing_else(overlay: Any) -> None:
    for role in overlay.of("Role"):
        for rule in role["rules"]:
            if role["metadata"]["name"] == "sdst-order":
                assert sorted(rule["verbs"]) == ["get", "patch"]
                assert rule["resourceNames"]
            else:  # Argo's pods tell how they ended
                assert rule["resources"] == ["workflowtaskresults"]
    role = overlay.one("Role", "sdst-order")
    may = {
        (group, kind, name)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for kind in rule["resources"]
        for name in rule["resourceNames"]
    }
    for each in later_stages(overlay):
        group = each["apiVersion"].partition("/")[0]
        assert (group, f"{each['kind'].lower()}s", each["metadata"]["name"]) in may
    for binding in overlay.of("RoleBinding"):
        [subject] = binding["subjects"]
        assert (subject["kind"], subject["name"]) == ("ServiceAccount", "sdst-order")
        assert subject["namespace"] == binding["metadata"]["namespace"]
    assert not overlay.of("ClusterRole", "ClusterRoleBinding")


def test_the_order_names_what_is_there(overlay: Any) -> None:
    if overlay.of("Workflow"):
        return
    places = overlay.one("ConfigMap", "sdst-places")["data"]
    [container] = overlay.one("Job", "sdst-order")["spec"]["template"]["spec"]["containers"]
    [line] = container["args"]
    named = {places["TRAINING"], *re.findall(r"--then (\S+)", line)}
    there = {
        f"{each['apiVersion']}/{each['kind'].lower()}s/{each['metadata']['name']}"
        for each in later_stages(overlay)
    }
    assert named == there
    flags = set(re.findall(r"--[a-z]+", line))
    assert flags == {"--training", "--run", "--queue", "--then"}
    for name in named:
        assert release.path_of(name)


def test_kueue_is_asked_for_training_only_by_the_order(kueue: Any) -> None:
    [extraction] = kueue.of("RayJob")
    queue = kueue.one("ConfigMap", "sdst-places")["data"]["QUEUE"]
    assert extraction["spec"]["suspend"] is True
    assert extraction["metadata"]["labels"][QUEUE] == queue
    for each in [*later_stages(kueue), kueue.one("Job", "sdst-order")]:
        assert QUEUE not in each["metadata"]["labels"], each["metadata"]["name"]
    assert not kueue.one("Job", "sdst-order")["spec"].get("suspend")


def test_without_kueue_no_queue_is_named(gpu: Any) -> None:
    assert gpu.one("ConfigMap", "sdst-places")["data"]["QUEUE"] == ""
    assert not [each for each in gpu.objects if QUEUE in each["metadata"].get("labels", {})]


def test_argo_starts_the_stages_in_their_order(argo: Any) -> None:
    [workflow] = argo.of("Workflow")
    templates = {each["name"]: each for each in workflow["spec"]["templates"]}
    tasks = {each["name"]: each for each in templates["order"]["dag"]["tasks"]}
    assert {name: task.get("dependencies", []) for name, task in tasks.items()} == {
        "features": [],
        "training": ["features"],
        "run": ["training"],
        "evaluation": ["run"],
        "prediction": ["run"],
    }
    assert workflow["spec"]["entrypoint"] == "order"
    accounts = {each["metadata"]["name"] for each in argo.of("ServiceAccount")}
    assert workflow["spec"]["serviceAccountName"] in accounts
    context = workflow["spec"]["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    claims = {each["metadata"]["name"] for each in argo.of("PersistentVolumeClaim")}
    for volume in workflow["spec"]["volumes"]:
        assert volume.get("persistentVolumeClaim", {}).get("claimName", "sdst-data") in claims
    for task in tasks.values():
        template = templates[task["template"]]
        if "container" in template:
            container = template["container"]
            assert re.search(r"/sdst:\S+-cpu$", container["image"])
            assert "python -m launch.release" in container["args"][0]
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert "nvidia.com/gpu" not in container["resources"]["limits"]
        else:
            assert template["resource"]["action"] == "patch"
            assert "suspend: false" in template["resource"]["manifest"]
    named = {
        parameter["value"]
        for task in tasks.values()
        for parameter in task.get("arguments", {}).get("parameters", [])
    }
    assert named == {"sdst-evaluation", "sdst-prediction"}
    assert not [job for job in argo.of("Job") if job["metadata"]["name"] == "sdst-order"]


@pytest.mark.parametrize("left", STAGES)
def test_each_stage_can_be_applied_alone(copied: Any, left: str) -> None:
    for stage in STAGES:
        if stage != left:
            copied.set(f"  - ../../components/{stage}\n", "")
    rendered = copied.rendered()
    work = {
        each["metadata"]["name"]
        for each in rendered.of("RayJob", "TrainJob", "Job")
        if each["metadata"]["name"] != "sdst-order"
    }
    assert work == {"sdst" if left == "training" else f"sdst-{left}"}
