"""The manifests as `kubectl apply -k` would send them, rendered once for all tests."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ("dev", "gpu", "gpu-jobset", "kueue", "argo", "gpu with all")
"""The last is `gpu` with every line that is there as a comment."""


@dataclass(frozen=True)
class Rendered:
    """One overlay's objects."""

    name: str
    objects: tuple[dict[str, Any], ...]

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [each for each in self.objects if each["kind"] in kinds]

    def one(self, kind: str, name: str) -> dict[str, Any]:
        [found] = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        return found

    def pods(self) -> list[tuple[str, dict[str, Any]]]:
        """Every pod template, wherever it stands, with a name for messages."""
        return [(name, pod) for each in self.objects for name, pod in pods_in(each, each["kind"])]

    @staticmethod
    def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
        """Its containers, those that run first included."""
        return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]

    def training(self) -> dict[str, Any]:
        """The training's replicated job, of a runtime or of a JobSet."""
        for runtime in self.of("TrainingRuntime"):
            return runtime["spec"]["template"]["spec"]
        [jobset] = self.of("JobSet")
        return jobset["spec"]


def pods_in(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pod templates below `node`: mappings with labels and a list of containers."""
    if isinstance(node, dict):
        spec = node.get("spec")
        if isinstance(spec, dict) and "containers" in spec:
            yield path, node
        for key, value in node.items():
            yield from pods_in(value, f"{path}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from pods_in(value, f"{path}[{number}]")


def render(overlay: str, manifests: Path = ROOT / "kubernetes") -> Rendered:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; it renders the manifests")
    done = subprocess.run(
        ["kubectl", "kustomize", str(manifests / "overlays" / overlay)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Rendered(overlay, tuple(yaml.safe_load_all(done.stdout)))


class Copied:
    """A team's copy of the manifests, to set what it likes."""

    def __init__(self, folder: Path) -> None:
        self._manifests = folder / "kubernetes"
        shutil.copytree(ROOT / "kubernetes", self._manifests)

    def set(self, was: str, now: str, file: str = "overlays/gpu/kustomization.yaml") -> None:
        """Replace the text `was`, which must be there."""
        path = self._manifests / file
        text = path.read_text()
        assert was in text, f"{file}: {was}"
        path.write_text(text.replace(was, now))

    def uncomment(self, *named: str) -> None:
        """Turn on the lines of `gpu` that name these files; without any, all of them."""
        path = self._manifests / "overlays/gpu/kustomization.yaml"
        lines = []
        for line in path.read_text().splitlines():
            found = re.fullmatch(r"  # (- (?:path: )?(?:patches|\.\.)/\S+.*)", line)
            on = found and (not named or any(name in line for name in named))
            lines.append(f"  {found[1]}" if found and on else line)
        path.write_text("\n".join(lines) + "\n")

    def rendered(self, overlay: str = "gpu") -> Rendered:
        return render(overlay, self._manifests)


@pytest.fixture
def copied(tmp_path: Path) -> Copied:
    return Copied(tmp_path)


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    if request.param != "gpu with all":
        return render(request.param)
    team = Copied(tmp_path_factory.mktemp("team"))
    team.uncomment()
    return team.rendered()


@pytest.fixture(scope="session")
def gpu() -> Rendered:
    return render("gpu")


@pytest.fixture
def gpu_jobset() -> Rendered:
    return render("gpu-jobset")


@pytest.fixture(scope="session")
def kueue() -> Rendered:
    return render("kueue")


@pytest.fixture(scope="session")
def argo() -> Rendered:
    return render("argo")
