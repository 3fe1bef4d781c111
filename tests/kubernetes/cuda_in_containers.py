"""What can be known of the CUDA image and of the `gpu` overlay's training without a GPU?

That everything in it loads, that Triton compiles with what is there, and that the training's own
command, DeepSpeed by the standard launcher, runs on two nodes: on their processors, for which
DeepSpeed builds a part of itself, so that this needs a compiler on top of the image.
"""

import json
import shutil
import subprocess
from typing import Any

from tests.kubernetes.containers import Cluster, Object, rendered
from tests.kubernetes.tracking_in_containers import compare_with_mlflow
from tests.kubernetes.training_in_containers import train

LOADS = """
import json, os, pathlib, re, subprocess, tempfile
import deepspeed, torch, triton, xformers
from model.layers.attention import check_backend
from triton.backends.nvidia import driver

check_backend("xformers")

# A driver that is not there: a library with the names that Triton's binding asks for.
folder = tempfile.mkdtemp()
binding = pathlib.Path(driver.__file__).with_name("driver.c").read_text()
names = set(re.findall(r"\\b(cu[A-Z]\\w*)\\(", binding))
source = pathlib.Path(folder, "stub.c")
source.write_text("".join(f"void *{name}(void) {{ return 0; }}\\n" for name in names))
library = f"{folder}/libcuda.so.1"
subprocess.run(["tcc", "-shared", "-soname", "libcuda.so.1", "-o", library, source], check=True)
os.environ["TRITON_LIBCUDA_PATH"] = folder
import ctypes
ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
driver.CudaUtils()
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda,
                  "triton": triton.__version__, "xformers": xformers.__version__,
                  "deepspeed": deepspeed.__version__}))
"""

BUILDS = """
FROM {image}
USER root
RUN apt-get update && apt-get install --yes --no-install-recommends g++ python3-dev
USER 1000:1000
"""


def without_a_gpu(cluster: Cluster, image: str, limit: float) -> dict[str, Any]:
    """The image loads; then the overlay's training, undisturbed and with a node preempted."""
    words = [
        *("podman", "run", "--rm", "--network", "none", "--read-only", "--read-only-tmpfs=false"),
        *("--tmpfs", "/tmp:rw,mode=1777,exec", "--cap-drop", "all", "--env", "DS_ACCELERATOR=cpu"),
        *(image, "python", "-c", LOADS),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{image}: {done.stderr}")
    told: dict[str, Any] = {"loads": json.loads(done.stdout.splitlines()[-1])}
    builder, nothing = f"{image}-builds", cluster.work / "nothing"
    nothing.mkdir(exist_ok=True)
    subprocess.run(
        [
            "buildah",
            "bud",
            "--isolation",
            "chroot",
            "--layers",
            "--tag",
            builder,
            "-f",
            "-",
            nothing,
        ],
        input=BUILDS.format(image=image).encode(),
        capture_output=True,
        check=True,
    )
    ours = Cluster(
        {"sdst": builder},
        cluster.work,
        cluster.network,
        on_processors(rendered("gpu")),
        cluster.secrets,
    )
    weights = set()
    for how in ("undisturbed", "preempted"):
        run = f"deepspeed-{how}"
        shutil.rmtree(cluster.claim("sdst-runs") / run, ignore_errors=True)
        told[run] = train(ours, run, how, nodes=2, limit=limit)
        weights.add(told[run]["weights"])
        compare_with_mlflow(cluster, cluster.claim("sdst-runs") / run)
    if len(weights) > 1:
        raise SystemExit(f"the weights differ: {told}")
    return told


def on_processors(objects: list[Object]) -> list[Object]:
    """The `gpu` overlay with the quick start's experiment and nodes of this machine's size."""
    configs = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"}
    configs["sdst-experiment"]["experiment.yaml"] = next(
        o["data"]["experiment.yaml"]
        for o in rendered("dev")
        if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "sdst-experiment"
    )
    configs["sdst-places"] |= {"FEATURES": "/data/features", "SPLITS": "train dev val"}
    configs["sdst-launch"] |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    configs["sdst-launch"]["TORCH_EXTENSIONS_DIR"] = "/runs/extensions"  # built once for both nodes
    [runtime] = [o for o in objects if o["kind"] == "TrainingRuntime"]
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    container["resources"]["limits"] |= {"cpu": "2", "memory": "4Gi"}
    for volume in job["template"]["spec"]["volumes"]:
        if volume["name"] == "shm":
            volume["emptyDir"]["sizeLimit"] = "1Gi"
    return objects
