"""Do the manifests keep the rules that no schema knows: the operators' and our own?"""

import re
from pathlib import Path
from typing import Any

from data_pipeline.config import ExtractionConfig
from trainer.cli import parse_config
from trainer.config import Config

ROOT = Path(__file__).resolve().parents[2]


def test_every_image_has_a_version(overlay: Any) -> None:
    for name, pod in overlay.pods():
        for container in overlay.containers(pod):
            _, _, tag = container["image"].rpartition("/")[2].partition(":")
            assert tag, f"{name}: {container['image']}"
            assert tag != "latest", f"{name}: {container['image']}"


def test_every_image_has_what_runs_in_it(overlay: Any) -> None:
    stages = re.findall(r"AS packages-(\w+)\nARG EXTRAS=(\S+)", (ROOT / "Dockerfile").read_text())
    extras = {target: set(names.split(",")) for target, names in stages}
    assert set(extras) == {"cpu", "cuda"}
    for name, pod in overlay.pods():
        for container in overlay.containers(pod):
            if "sdst" not in container["image"]:
                continue
            target = container["image"].rpartition("-")[2]
            words = [*container.get("command", []), *container.get("args", [])]
            needed = (
                {"mlflow-server"} if "mlflow" in words else {"internvideo2", "quickstart", "s3"}
            )
            if "--use_deepspeed" in words:
                needed.add("deepspeed")
            assert needed <= extras[target], f"{name}: {container['image']}"
            if "nvidia.com/gpu" in container["resources"]["limits"]:
                assert target == "cuda", f"{name}: {container['image']}"


def test_no_secret_is_in_a_manifest(overlay: Any) -> None:
    assert not overlay.of("Secret")
    for name, pod in overlay.pods():
        for container in overlay.containers(pod):
            for variable in container.get("env", []):
                if re.search("PASSWORD|SECRET|TOKEN|_KEY", variable["name"]):
                    assert "secretKeyRef" in variable.get("valueFrom", {}), f"{name}: {variable}"
    for config in overlay.of("ConfigMap"):
        for key, value in config["data"].items():
            assert not re.search("password|secret|access_key", key + value.split("#")[0], re.I) or (
                key == "basic_auth.ini" and "admin_password" not in value
            ), f"{config['metadata']['name']}: {key}"
            assert not re.search(r"://[^/\s]*:[^/\s]*@", value), f"{key}: a password in a URL"


def test_pods_keep_the_restricted_level(overlay: Any) -> None:
    [namespace] = overlay.of("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    kinds = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected"}
    for name, pod in overlay.pods():
        spec, context = pod["spec"], pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= kinds, f"{name}: {volume}"
        for container in overlay.containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert "hostPort" not in str(container.get("ports")), name


TOKENS = {"sdst-order", "sdst-ray"}
"""Accounts that something is patched by: the order, and Ray's autoscaler where that is chosen."""


def test_no_pod_but_those_that_patch_gets_a_token_for_the_api(overlay: Any) -> None:
    accounts = {each["metadata"]["name"] for each in overlay.of("ServiceAccount")}
    for account in overlay.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for name, pod in overlay.pods():
        own = pod["spec"]["serviceAccountName"]
        assert own in accounts, name
        assert pod["spec"]["automountServiceAccountToken"] is (own in TOKENS), name


def test_every_container_says_what_it_needs_and_may_take(overlay: Any) -> None:
    for name, pod in overlay.pods():
        for container in overlay.containers(pod):
            for part in ("requests", "limits"):
                assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"][
                    part
                ].keys(), f"{name}: {container['name']}"


def test_whatever_a_pod_names_is_there(overlay: Any) -> None:
    configs = {each["metadata"]["name"]: each["data"] for each in overlay.of("ConfigMap")}
    claims = {each["metadata"]["name"] for each in overlay.of("PersistentVolumeClaim")}
    for name, pod in overlay.pods():
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configs, name
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, name
        for container in overlay.containers(pod):
            known = {variable["name"] for variable in container.get("env", [])}
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    known |= configs[source["configMapRef"]["name"]].keys()
            words = [*container.get("command", []), *container.get("args", [])]
            for variable in re.findall(r"\$\(?([A-Z_]+)", " ".join(words)):
                assert variable in known, f"{name}: {variable}"
            for word in re.findall(r"/etc/sdst/([\w.]+)", " ".join(words)):
                assert word in configs["sdst-experiment"], f"{name}: {word}"
            for word in re.findall(r"/opt/sdst/([\w./]+)", " ".join(words)):
                assert (ROOT / word).is_file(), f"{name}: {word}"


def test_what_several_nodes_mount_is_for_several_nodes(gpu: Any) -> None:
    for name in ("sdst-data", "sdst-runs"):
        claim = gpu.one("PersistentVolumeClaim", name)
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_nothing_is_let_through_that_no_policy_names(overlay: Any) -> None:
    everything = overlay.one("NetworkPolicy", "deny-all")["spec"]
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    label = "app.kubernetes.io/component"
    components = {pod["metadata"]["labels"][label] for _, pod in overlay.pods()}
    components |= {each["spec"]["podMetadata"]["labels"][label] for each in overlay.of("Workflow")}
    for policy in overlay.of("NetworkPolicy"):
        named = set(re.findall(rf"{label}': '(\w+)'", str(policy)))
        for values in re.findall(r"'values': \[(.*?)\]", str(policy)):
            named |= set(re.findall(r"\w+", values))
        assert named <= components, policy["metadata"]["name"]


def test_ray_head_does_no_work_and_its_groups_are_fixed_unless_it_may_grow(overlay: Any) -> None:
    job = overlay.one("RayJob", "sdst-extraction")
    assert len(job["metadata"]["name"]) <= 47
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True  # ttlSecondsAfterFinished asks for it
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        least, most = group["minReplicas"], group["maxReplicas"]
        assert least <= group["replicas"] <= most
        assert (least < most) is cluster["enableInTreeAutoscaling"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        for container in group["template"]["spec"]["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]
    installed = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()[1:]
    )
    assert cluster["rayVersion"] == installed["ray"]


def test_the_trainer_finds_the_node_that_it_fills_in(overlay: Any) -> None:
    [job] = overlay.training()["replicatedJobs"]
    template = job["template"]
    assert job["name"] == "node"
    label = "trainer.kubeflow.org/trainjob-ancestor-step"
    assert template["metadata"]["labels"][label] == "trainer"
    [container] = template["spec"]["template"]["spec"]["containers"]
    assert container["name"] == "node"
    if overlay.of("TrainJob"):
        [train] = overlay.of("TrainJob")
        runtime = overlay.one("TrainingRuntime", train["spec"]["runtimeRef"]["name"])
        assert runtime["metadata"]["namespace"] == train["metadata"]["namespace"]
        assert train["spec"]["runtimeRef"]["kind"] == "TrainingRuntime"
        assert list(runtime["spec"]["mlPolicy"]) == ["numNodes", "torch"]
        assert isinstance(train["spec"]["trainer"]["numProcPerNode"], int)  # not "auto"
        names = {variable["name"] for variable in container["env"]}
        assert not {name for name in names if name.startswith("PET_")}


def test_process_one_of_a_training_is_the_launcher(overlay: Any) -> None:
    [job] = overlay.training()["replicatedJobs"]
    [container] = job["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "launch.node"]
    if "--use_deepspeed" in container["args"]:
        assert "--deepspeed_multinode_launcher=standard" in container["args"]


def test_a_preempted_training_restarts_whole_and_a_wrong_one_does_not(overlay: Any) -> None:
    spec = overlay.training()
    [job] = spec["replicatedJobs"]
    job_spec = job["template"]["spec"]
    assert job_spec["backoffLimit"] == 0  # a rank that comes back alone finds no others
    assert job_spec["completionMode"] == "Indexed"
    assert job_spec["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    policy = job_spec["podFailurePolicy"]["rules"]
    assert {rule["action"] for rule in policy} == {"FailJob"}
    codes = [rule["onExitCodes"]["values"] for rule in policy if "onExitCodes" in rule]
    assert codes == [[2], [75]]
    assert any("DisruptionTarget" in str(rule.get("onPodConditions")) for rule in policy)
    wrong, preempted = spec["failurePolicy"]["rules"]
    assert all(
        re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
        for rule in (wrong, preempted)
    )
    # What the Job controller says when a rule of a podFailurePolicy fails a job:
    said = (
        "Container node for pod sdst/sdst-node-0-0 failed with exit code {} matching FailJob rule"
    )
    lost = "Pod sdst/sdst-node-0-0 has condition DisruptionTarget matching FailJob rule at index 1"
    patterns = wrong["onJobFailureMessagePatterns"]
    assert wrong["action"] == "FailJobSet"
    assert any(re.search(pattern, said.format(2)) for pattern in patterns)
    for other in (said.format(75), said.format(25), lost):
        assert not any(re.search(pattern, other) for pattern in patterns)
    assert preempted["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert preempted["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert spec["failurePolicy"]["maxRestarts"] > 0


def test_there_is_time_to_save_before_the_pod_is_killed(overlay: Any) -> None:
    [job] = overlay.training()["replicatedJobs"]
    grace = job["template"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    launch = overlay.one("ConfigMap", "sdst-launch")["data"]
    assert grace > int(launch["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) > Config().grace


def test_jobs_do_not_retry_a_wrong_command_nor_count_preemptions(overlay: Any) -> None:
    for name in ("evaluation", "prediction"):
        job = overlay.one("Job", f"sdst-{name}")["spec"]
        wrong, preempted = job["podFailurePolicy"]["rules"]
        assert job["template"]["spec"]["restartPolicy"] == "Never"
        assert wrong["action"] == "FailJob"
        assert wrong["onExitCodes"]["values"] == [2]
        assert preempted["action"] == "Ignore"


def test_loaders_and_ray_have_shared_memory(overlay: Any) -> None:
    [job] = overlay.training()["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    [shm] = [volume for volume in pod["volumes"] if volume["name"] == "shm"]
    assert shm["emptyDir"]["medium"] == "Memory"
    assert any(m["mountPath"] == "/dev/shm" for m in pod["containers"][0]["volumeMounts"])


def test_jobset_trains_as_the_trainer_would(gpu: Any, gpu_jobset: Any) -> None:
    assert not gpu_jobset.of("TrainJob", "TrainingRuntime")
    [train] = gpu.of("TrainJob")
    width = train["spec"]["trainer"]
    [theirs] = gpu.training()["replicatedJobs"]
    [ours] = gpu_jobset.training()["replicatedJobs"]
    job = ours["template"]["spec"]
    assert job.pop("parallelism") == job.pop("completions") == width["numNodes"]
    [container] = job["template"]["spec"]["containers"]
    given = {
        variable["name"]: variable.get("value")
        for variable in container["env"]
        if variable["name"].startswith("PET_")
    }
    assert given == {
        "PET_NNODES": str(width["numNodes"]),
        "PET_NPROC_PER_NODE": str(width["numProcPerNode"]),
        "PET_NODE_RANK": None,
        "PET_MASTER_ADDR": "sdst-node-0-0.sdst",
        "PET_MASTER_PORT": "29400",
    }
    container["env"] = [v for v in container["env"] if not v["name"].startswith("PET_")]
    container["ports"] = [each for each in container["ports"] if each["name"] != "rendezvous"]
    assert ours["template"] == theirs["template"]


def test_experiments_and_extraction_are_configurations_that_the_programs_accept(
    overlay: Any, tmp_path: Path
) -> None:
    data = overlay.one("ConfigMap", "sdst-experiment")["data"]
    for key in ("experiment.yaml", "extraction.yaml"):
        (tmp_path / key).write_text(data[key])
    [job] = overlay.training()["replicatedJobs"]
    words = job["template"]["spec"]["template"]["spec"]["containers"][0]["args"]
    files = [word for word in words if word.startswith("--config=")]
    places = {"/opt/sdst": str(ROOT), "/etc/sdst": str(tmp_path)}
    for there, here in places.items():
        files = [word.replace(there, here) for word in files]
    config = parse_config(Config, files)
    asked = ["--config", str(tmp_path / "extraction.yaml"), "--annotations", "a", "--videos", "v"]
    parse_config(ExtractionConfig, [*asked, "--output", "o", "--split", "s"])
    places = overlay.one("ConfigMap", "sdst-places")["data"]
    extracted = {f"{places['FEATURES']}/{split}" for split in places["SPLITS"].split()}
    assert {config.data.train, config.data.selection, config.data.report} == extracted
    processes = 16 if overlay.name != "dev" else 2
    assert config.data.batch_size % processes == 0
