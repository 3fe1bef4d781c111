"""What the batch scripts do, with commands of Slurm that only note how they are called."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.options import SBATCH, UNTOLD

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "launch" / "slurm"
SCRIPTS = sorted([*FOLDER.glob("*.sbatch"), *FOLDER.glob("*.sh")])
BATCH = [path for path in SCRIPTS if path.suffix == ".sbatch"]
NOTING = """#!/bin/bash
printf '%s' "$(basename "$0")" >> "$NOTES"
printf ' %q' "$@" >> "$NOTES"
printf '\\n' >> "$NOTES"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a script as Slurm would; `says` is what each command does beside noting its words."""

    def start(script: str, *words: str, says: dict[str, str], **environment: str):
        for name in ("srun", "scontrol", "sbatch"):
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{NOTING}{says.get(name, '')}\n")
            path.chmod(0o755)
        path = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PET_", "RAY_"))}
        return subprocess.Popen(
            ["bash", str(FOLDER / script), *words],
            cwd=ROOT,
            env=kept
            | {"PATH": os.pathsep.join(path), "NOTES": str(tmp_path / "notes")}
            | {"SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "3", "SLURM_ARRAY_TASK_ID": "5"}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def noted(tmp_path: Path) -> Callable[[str], list[list[str]]]:
    """The words of every call of a command."""

    def read(name: str) -> list[list[str]]:
        notes = tmp_path / "notes"
        lines = notes.read_text().splitlines() if notes.exists() else []
        return [words[1:] for words in map(shlex.split, lines) if words[0] == name]

    return read


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_parses(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(script)], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_option_is_one_that_sbatch_has(script: Path) -> None:
    lines = re.findall(
        r"^##?SBATCH(.*)|\bsbatch (.*)|submit (.*)", script.read_text(), re.MULTILINE
    )
    given = set(re.findall(r"(?<=\s)--([a-z][\w-]*)", " ".join(" ".join(each) for each in lines)))
    own = {
        "config",
        "split",
        "annotations",
        "videos",
        "output",
        "name",
        "epochs",
        "dump",
        "list",
        "eval",
        "checkpoint",
    }
    assert given - own <= SBATCH, given - own - SBATCH
    assert given & SBATCH


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="Slurm is not installed")
def test_the_options_of_sbatch_are_those_that_it_tells_of(tmp_path: Path) -> None:
    (tmp_path / "slurm.conf").write_text("ClusterName=none\nSlurmctldHost=localhost\n")
    own = os.environ | {"SLURM_CONF": str(tmp_path / "slurm.conf")}
    told = subprocess.run(["sbatch", "--help"], capture_output=True, text=True, env=own).stdout
    assert set(re.findall(r"(?<=\s)--([a-z][\w-]*)", told)) >= SBATCH - UNTOLD


@pytest.mark.parametrize("script", BATCH, ids=lambda path: path.name)
def test_the_steps_get_sigterm_in_time_to_save_and_the_job_may_be_requeued(script: Path) -> None:
    flags = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", script.read_text(), re.MULTILINE)
    assert dict(flags)["signal"] == "TERM@90"
    assert {"requeue", "open-mode"} <= dict(flags).keys()


@pytest.mark.parametrize("script", [path.name for path in BATCH])
@pytest.mark.parametrize(("status", "requeued"), [(0, False), (2, False), (75, True)])
def test_the_status_says_whether_the_job_is_requeued(
    slurm, noted, script: str, status: int, requeued: bool
) -> None:
    process = slurm(script, says={"srun": f"exit {status}"})
    _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert noted("scontrol") == ([["requeue", "77"]] if requeued else [])


def test_a_fault_that_does_not_pass_is_given_up(slurm, noted) -> None:
    process = slurm("train.sbatch", says={"srun": "exit 137"}, SLURM_RESTART_COUNT="10")
    _, said = process.communicate(timeout=60)
    assert said == "error: status 137 after 10 restarts: given up\n"
    assert noted("scontrol") == []


@pytest.mark.parametrize(("script", "again"), [("train.sbatch", True), ("extract.sbatch", False)])
def test_status_1_is_an_error_in_training_and_too_many_failed_videos_in_extraction(
    slurm, noted, script: str, again: bool
) -> None:
    slurm(script, says={"srun": "exit 1"}).communicate(timeout=60)
    assert bool(noted("scontrol")) == again


def test_a_job_that_cannot_be_requeued_says_what_to_do(slurm) -> None:
    process = slurm("train.sbatch", says={"srun": "exit 75", "scontrol": "exit 1"})
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "submit the same command again" in said


def test_a_job_that_is_cancelled_stays_so(slurm, noted, tmp_path: Path) -> None:
    waiting = f"touch {tmp_path}/ready; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; exit 75"
    process = slurm("train.sbatch", says={"srun": waiting})
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # the steps are signalled, too, and save
    time.sleep(0.2)
    (tmp_path / "go").touch()
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert noted("scontrol") == []


def test_a_training_has_one_launcher_a_node_and_the_arguments_as_they_were_given(
    slurm, noted
) -> None:
    says = {"srun": 'echo "$SRUN_CPUS_PER_TASK"'}
    out, _ = slurm("train.sbatch", "--name", "a b", says=says).communicate(timeout=60)
    assert "#SBATCH --ntasks-per-node=1" in (FOLDER / "train.sbatch").read_text()
    assert noted("srun") == [["python", "-m", "launch.node", "trainer/main.py", "--name", "a b"]]
    assert out == "3\n"


def test_every_extraction_has_a_token_of_its_own(slurm, noted) -> None:
    says = {"srun": 'echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN"'}
    told = [
        slurm("extract.sbatch", "--split", "val", says=says).communicate(timeout=60)[0].split()
        for _ in range(2)
    ]
    assert all(mode == "token" and re.fullmatch("[0-9a-f]{64}", token) for mode, token in told)
    assert told[0] != told[1]
    assert noted("srun")[0][1:] == [
        "-m",
        "launch.slurm.ray_node",
        "-m",
        "launch.extract",
        "--split",
        "val",
    ]


def test_a_task_of_a_sweep_trains_the_trial_of_its_number(slurm, noted) -> None:
    slurm("sweep.sbatch", "plan.yaml", says={}).communicate(timeout=60)
    assert noted("srun") == [["python", "-m", "launch.sweep", "--trial", "5", "plan.yaml"]]


SUBMITTED = 'echo "$(wc -l < "$NOTES");cluster"'
"""What `sbatch --parsable` prints where there are several clusters; numbers count from 1."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split in ("train", "dev", "val"):
        (tmp_path / f"{split}.jsonl").touch()
    return tmp_path


def test_the_pipeline_trains_after_all_extractions_and_evaluates_after_that(
    slurm, noted, data: Path
) -> None:
    process = slurm(
        "pipeline.sh", "--epochs", "2", says={"sbatch": SUBMITTED},
        ANNOTATIONS=str(data), RUN="first", TRAIN_FLAGS="--nodes=2 --time=5",
    )  # fmt: skip
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    calls = noted("sbatch")
    scripts = [next(Path(word).name for word in call if "sbatch" in word) for call in calls]
    assert scripts == ["extract.sbatch"] * 3 + ["train.sbatch"] * 2
    assert "--dependency=afterok:1:2:3" in calls[3]
    assert "--dependency=afterok:4" in calls[4]
    assert all("--kill-on-invalid-dep=yes" in call for call in calls)
    assert {"--nodes=2", "--time=5", "--epochs"} <= set(calls[3])
    outputs = [call[call.index("--output") + 1] for call in calls[:3]]
    given = [
        calls[3][calls[3].index(f"--data.{role}") + 1] for role in ("train", "selection", "report")
    ]
    assert outputs == given == [f"{data}/features/{split}" for split in ("train", "dev", "val")]
    assert calls[4][-4:] == ["--checkpoint", "runs/first", "--eval", "--dump"]
    assert out.splitlines()[-1] == "evaluation: job 5"


def test_a_pipeline_without_its_annotations_submits_nothing(slurm, noted, data: Path) -> None:
    (data / "val.jsonl").unlink()
    process = slurm("pipeline.sh", says={"sbatch": SUBMITTED}, ANNOTATIONS=str(data))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    mend = f"set the variables at the top of {FOLDER}/pipeline.sh"
    assert said == f"error: {data}/val.jsonl: no such file; {mend}\n"
    assert noted("sbatch") == []


def test_a_pipeline_with_a_mistaken_setting_submits_nothing(slurm, noted, data: Path) -> None:
    for words in (["--epohcs", "2"], ["--data.batch_size", "0"]):
        process = slurm("pipeline.sh", *words, says={"sbatch": SUBMITTED}, ANNOTATIONS=str(data))
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    assert noted("sbatch") == []


def test_a_pipeline_stops_at_the_first_job_that_is_refused(slurm, noted, data: Path) -> None:
    process = slurm("pipeline.sh", says={"sbatch": "exit 1"}, ANNOTATIONS=str(data))
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(noted("sbatch")) == 1


def test_the_batch_script_needs_no_packages_beside_a_container(tmp_path: Path) -> None:
    words = [sys.executable, "-I", "-S", "-c", HOST, str(ROOT), "true"]
    own = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "77"}
    done = subprocess.run(words, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


HOST = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from launch.slurm.requeue import main
sys.exit(main())
"""
