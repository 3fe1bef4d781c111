"""Do monitors, alerts and dashboard name what is really there?"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from tests.kubernetes.watching import (
    COMPONENT,
    GPU_ONLY,
    alert_queries,
    alert_rules,
    dashboard_queries,
    watch,
)
from trainer.tracking.prometheus import ExtractionMetrics, TrainingMetrics

ADDED_BY_OPERATORS = {"ray.io/node-type", "batch.kubernetes.io/job-completion-index"}

SERIES = {
    "SdstTrainingStalled": ("sdst_training_last_step_timestamp_seconds", "0x100", "_time"),
    "SdstTrainingWaitsForData": ("sdst_training_data_wait_ratio", "0.9x100", "0.1x100"),
    "SdstTrainingNotFinite": ("sdst_training_steps_skipped", "0+1x100", "2x100"),
    "SdstTrainingReadsDamagedData": ("sdst_training_pairs_replaced_total", "0+1x100", "2x100"),
    "SdstCheckpointOld": ("sdst_training_checkpoint_timestamp_seconds", "0x200", "_time"),
    "SdstExtractionStalled": ("sdst_extraction_last_video_timestamp_seconds", "0x100", "_time"),
    "SdstExtractionFails": ("sdst_extraction_videos_failed", "6x100", "4x100"),
    "SdstEncodersIdle": ("sdst_extraction_encoder_utilisation_ratio", "0.1x100", "0.9x100"),
    "SdstMlflowFails": ('mlflow_http_request_total{status="500"}', "0+1x100", "0x100"),
    "SdstRayNodeFull": ("ray_node_disk_utilization_percentage", "95x100", "50x100"),
}
"""Of each alert a series with which it must fire, and one with which it must not, a minute apart;
`_time` is a clock that goes on."""


def exported() -> set[str]:
    """Every name of a series that training and extraction offer."""
    registries: list[CollectorRegistry] = [
        TrainingMetrics("first", 1).registry,
        ExtractionMetrics("train").registry,
    ]
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for registry in registries
        for family in registry.collect()
    }


def test_every_name_that_is_asked_for_is_one_that_the_code_exports() -> None:
    variables = json.loads((COMPONENT / "dashboard.json").read_text())["templating"]["list"]
    asked = [variable["query"]["query"] for variable in variables if variable["type"] == "query"]
    asked += [*dashboard_queries(), *alert_queries()]
    names = {name for query in asked for name in re.findall(r"\bsdst_\w+", query)}
    assert len(names) > 20
    assert names <= exported()


def test_everything_that_is_exported_is_shown() -> None:
    shown = {name for query in dashboard_queries() for name in re.findall(r"\bsdst_\w+", query)}
    assert exported() <= shown


def test_each_monitor_finds_a_pod_with_the_port_that_it_names(copied: Any) -> None:
    copied.uncomment("watching")
    rendered = copied.rendered()
    metrics = rendered.one("ConfigMap", "sdst-places")["data"]["METRICS"]
    cluster = rendered.one("RayJob", "sdst-extraction")["spec"]["rayClusterSpec"]
    starts = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    [rays] = {group["rayStartParams"]["metrics-export-port"] for group in starts}
    expected = {
        "sdst-training": metrics.rpartition(":")[2],
        "sdst-extraction": metrics.rpartition(":")[2],
        "sdst-ray": rays,
        "sdst-mlflow": "5000",
    }
    monitors = {each["metadata"]["name"]: each["spec"] for each in rendered.of("PodMonitor")}
    assert monitors.keys() == expected.keys()
    [ingress] = rendered.one("NetworkPolicy", "prometheus")["spec"]["ingress"]
    let_through = {str(each["port"]) for each in ingress["ports"]}
    for name, spec in monitors.items():
        labels = spec["selector"]["matchLabels"].items()
        wanted = {pair for pair in labels if pair[0] not in ADDED_BY_OPERATORS}
        [endpoint] = spec["podMetricsEndpoints"]
        found = {
            str(port["containerPort"])
            for _, pod in rendered.pods()
            if wanted <= pod["metadata"].get("labels", {}).items()
            for container in pod["spec"]["containers"]
            for port in container.get("ports", [])
            if port["name"] == endpoint["port"]
        }
        assert found == {expected[name]}, name
        assert expected[name] in let_through


def test_training_and_extraction_offer_numbers_only_where_they_are_watched(
    gpu: Any, copied: Any
) -> None:
    copied.uncomment("watching")
    for rendered, address in ((gpu, ""), (copied.rendered(), "0.0.0.0:9400")):
        assert rendered.one("ConfigMap", "sdst-places")["data"]["METRICS"] == address
        [job] = rendered.training()["replicatedJobs"]
        [node] = job["template"]["spec"]["template"]["spec"]["containers"]
        assert "--tracking.prometheus=$(METRICS)" in node["args"]
    script = gpu.one("ConfigMap", "sdst-experiment")["data"]["extract.sh"]
    assert '${METRICS:+--tracking.prometheus "$METRICS"}' in script


def test_the_dashboard_is_found_by_grafana_and_its_panels_do_not_overlap(copied: Any) -> None:
    copied.uncomment("watching")
    config = copied.rendered().one("ConfigMap", "sdst-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    panels = json.loads(config["data"]["dashboard.json"])["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_each_alert_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    rules = alert_rules()
    assert SERIES.keys() == {rule["alert"] for rule in rules}
    (tmp_path / "alerts.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "sdst", "rules": rules}]})
    )
    tests = []
    for rule in rules:
        name, bad, good = SERIES[rule["alert"]]
        for values, fires in ((bad, True), (good, False)):
            clock = "0+60x200"  # a timestamp that is always now
            series = [{"series": name, "values": clock if values == "_time" else values}]
            if rule["alert"] == "SdstExtractionFails":
                series.append({"series": "sdst_extraction_videos_done", "values": "100x100"})
            # By the query, which names each label: what is said of an alert is not judged here.
            query = f'count(ALERTS{{alertname="{rule["alert"]}", alertstate="firing"}})'
            samples = [{"labels": "{}", "value": 1}] if fires else []
            at = "190m" if rule["alert"] == "SdstCheckpointOld" else "95m"
            tests.append(
                {
                    "interval": "1m",
                    "input_series": series,
                    "promql_expr_test": [{"expr": query, "eval_time": at, "exp_samples": samples}],
                }
            )
    (tmp_path / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": ["alerts.yaml"], "evaluation_interval": "1m", "tests": tests})
    )
    command = ["promtool", "test", "rules", str(tmp_path / "tests.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_prometheus_gets_an_answer_to_every_query(tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    returned = watch(tmp_path, without={"mlflow"})
    assert [query for query, series in returned.items() if not series] == []
    assert not [query for query in returned if GPU_ONLY in query]
