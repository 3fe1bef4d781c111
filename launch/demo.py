"""A page to try a trained model on: choose or upload a video, write sentences, see where it is.

    python -m launch.demo --model runs/quickstart
    python -m launch.demo --index index
    python -m launch.demo --model zero-shot --encoder configs/extract/clip_b32.yaml

It is served to this machine only, unless --host says otherwise (0.0.0.0: to everyone who can reach
it, without a password). Uploads are deleted when nobody used them for --keep minutes, when newer
ones push them out, and at the end. Needs no network; install with: pip install 'sdst[demo]'.
"""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import InputError
from launch.answers.batch import is_zero_shot
from launch.page.videos import Videos, find_examples, find_tries
from launch.predict import add_encoder, check_encoder, load, spare_threads
from trainer.cli import command, make_parser, parse
from trainer.pictures.pages import fill

if TYPE_CHECKING:
    from trainer.archive.archive import Archive
    from trainer.inference.predict import VideoGrounder

PREFIX = "sdst-demo-"
SWEEP = 30.0  # seconds between two looks for what is to be deleted


@command
def main(args: list[str] | None = None) -> None:
    """Read the command line, load the model and serve until Ctrl-C."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--model",
        type=Path | None,
        help="folder of a run or its model, by default that of --index, or runs/quickstart; "
        "zero-shot: none, the encoders alone answer",
    )
    parser.add_argument(
        "--index", type=Path | None, help="folder of launch.index: its whole archive is searched"
    )
    add_encoder(parser)
    parser.add_argument(
        "--device", type=str | None, help="PyTorch device; a GPU where there is one"
    )
    parser.add_argument("--host", type=str, default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")
    parser.add_argument("--max-upload", type=float, default=2000, help="megabytes of an upload")
    parser.add_argument("--videos", type=int, default=16, help="videos kept, encoded, at a time")
    parser.add_argument("--keep", type=float, default=60, help="minutes that an unused one is kept")
    parser.add_argument(
        "--threshold", type=float, default=0.1, help="windows of a lower score are folded away"
    )
    parser.add_argument(
        "--root-path",
        type=str,
        default="",
        help="path at which a proxy shows the page, such as /grounding; the proxy takes it off and "
        "asks by the Host that this server listens on",
    )
    options = parse(parser, args)
    if options.root_path and not re.fullmatch(r"(/[\w.~-]+)+", options.root_path):
        raise InputError(f"--root-path {options.root_path}: write it as /grounding")
    if options.max_upload <= 0 or options.keep <= 0 or options.videos < 1:
        raise InputError("--max-upload, --keep and --videos must be positive")
    from trainer.archive.index import read_manifest
    from trainer.inference.pretrained import find_model

    if options.model is None:
        indexed = None if options.index is None else Path(read_manifest(options.index).model)
        options.model = indexed or Path("runs/quickstart")
    check_encoder(options)
    if options.index is not None and is_zero_shot(options.model):
        raise InputError("--index: an archive answers by the model that it was indexed with")
    zero_shot = is_zero_shot(options.model)
    # Before the model is loaded, which takes a while.
    run = options.model if zero_shot else find_model(options.model).parent
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing is left behind
    with own_folder() as temporary:
        archive = None if options.index is None else open_archive(options)
        grounder = load(options) if archive is None else archive.grounder
        grounder.encoder.load()  # so that the first answer does not wait for it
        serve(grounder, run, temporary, options, archive)


def open_archive(options: Any) -> "Archive":
    """The archive that is searched; a package that its encoders lack is one line."""
    import torch

    from trainer.archive.archive import Archive

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(spare_threads())
    try:
        return Archive.open(options.index, options.model, options.device)
    except ImportError as error:
        raise InputError(str(error)) from error


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder, gone afterwards; those of servers that were killed go now.

    Whoever serves holds a lock in theirs.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), open(_lock_of(path), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it is serving
            shutil.rmtree(path)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, open(_lock_of(name), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _lock_of(folder: str | Path) -> Path:
    path = Path(folder)
    if path.is_symlink() or path.stat().st_uid != os.getuid():
        raise PermissionError(f"{path}: is not ours")
    return path / ".lock"


def serve(
    grounder: "VideoGrounder",
    run: Path,
    temporary: Path,
    options: Any,
    archive: "Archive | None" = None,
) -> None:
    """Serve the page until an interrupt; what it writes lies in `temporary`.

    Raises InputError where Gradio is not installed or the address cannot be listened on.
    """
    # Gradio reads them when it is imported: where it writes, and that it reports nothing home.
    os.environ |= {"GRADIO_TEMP_DIR": str(temporary / "gradio"), "GRADIO_ANALYTICS_ENABLED": "0"}
    # It asks its own address whether it is there, and no other: a proxy would not know it.
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for spelling in (name, name.upper()):
            os.environ.pop(spelling, None)
    try:
        from launch.page import content, server
    except ModuleNotFoundError as error:
        raise InputError(f"{error}; install it with: pip install 'sdst[demo]'") from error
    (temporary / "videos").mkdir()
    videos = Videos(temporary / "videos", options.videos, 60 * options.keep)
    page = content.Page(
        grounder, videos, find_examples(run), options.threshold, find_tries(run), archive
    )
    most = round(1e6 * options.max_upload)
    blocks = content.build(page, run.resolve().name, most)
    calls = {number: len(function.inputs) for number, function in blocks.fns.items()}
    try:
        _, address, _ = blocks.launch(
            server_name=options.host,
            server_port=options.port,
            root_path=options.root_path or None,
            app_kwargs=server.app_options(options.host, videos, most, calls),
            theme=content.theme(),
            head=f"<style>{fill('demo.css')}</style><script>{fill('demo.js')}</script>"
            '<script src="charts.js" defer></script>',
            footer_links=[],
            share=False, run_history=False, ssr_mode=False, pwa=False, mcp_server=False,
            enable_monitoring=False, prevent_thread_lock=True, quiet=True,
        )  # fmt: skip
    except OSError as error:
        where = f"{options.host}:{options.port}"
        raise InputError(f"{where}: cannot be listened on; name another --port") from error
    print(f"Open {address} (Ctrl-C ends it)", flush=True)
    try:
        while True:
            time.sleep(SWEEP)
            videos.forget_unused()
    finally:
        page.stopping.set()
        # A browser may take a video as slowly as it plays: that is cut off, and is no error.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        blocks.server.config.timeout_graceful_shutdown = 1
        blocks.close(verbose=False)


if __name__ == "__main__":
    sys.exit(main())
