"""Which files of a Hugging Face checkpoint make an encoder, in a folder or on the hub?

Of a checkpoint only data is read: JSON, the tokenizer and safetensors. Nothing of it is code here.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.storage import Location
from data_pipeline.untrusted import plain_name, read_json, shown

WEIGHTS, INDEX, TOKENIZER = "model.safetensors", "model.safetensors.index.json", "tokenizer.json"
PREPARATION = {"preprocessor_config.json": None, "processor_config.json": "image_processor"}
"""File -> the key under which it tells how pictures are prepared; None: all of it does."""

ON_THE_HUB = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder on this machine; methods raise InputError for what is not there.

    origin: name on the hub; None for a local folder. revision: the commit there.
    """

    folder: Path
    origin: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str | None:
        """What a record calls one on the hub: name and commit."""
        return f"{self.origin}@{self.revision}" if self.origin else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The object in config.json."""
        return self._object("config.json", "the folder of a checkpoint has one")

    @cached_property
    def preprocessor(self) -> Mapping[str, Any]:
        """How pictures are prepared."""
        for name, key in PREPARATION.items():
            if (self.folder / name).is_file():
                found = self._object(name, "")
                settings = found.get(key) if key else found
                if isinstance(settings, dict):
                    return settings
        raise InputError(
            f"{self.folder}: holds no preprocessor_config.json, which tells how pictures are "
            "prepared; copy it from where the weights came from"
        )

    @property
    def tokenizer(self) -> Path:
        """The tokenizer.json."""
        return self._file(TOKENIZER, "save the fast tokenizer beside the weights")

    @cached_property
    def weights(self) -> tuple[Path, ...]:
        """The safetensors files, in order of their names."""
        if not (self.folder / WEIGHTS).is_file() and (self.folder / INDEX).is_file():
            index = self._object(INDEX, "")
            files = index.get("weight_map")
            if not isinstance(files, dict) or not files:
                raise InputError(f"{self.folder / INDEX}: names no files under 'weight_map'")
            where = self.folder / INDEX
            names = sorted(
                {plain_name(name, "a file of weights", where) for name in files.values()}
            )
            return tuple(self._file(name, f"{INDEX} names it") for name in names)
        return (self._file(WEIGHTS, "pickled weights are not read; save it as safetensors"),)

    @cached_property
    def sha256(self) -> str:
        """Of the weights; of several files, that of their hashes in order."""
        hashes = [Location(path).sha256() for path in self.weights]
        if len(hashes) == 1:
            return hashes[0]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def _file(self, name: str, mend: str) -> Path:
        if not (self.folder / name).is_file():
            raise InputError(f"{self.folder / name}: no such file; {mend}")
        return self.folder / name

    def _object(self, name: str, mend: str) -> dict[str, Any]:
        value = read_json(self._file(name, mend))
        if not isinstance(value, dict):
            raise InputError(f"{self.folder / name}: holds {shown(value)} and no settings")
        return value


def find_checkpoint(name: str, revision: str | None) -> Checkpoint:
    """The checkpoint in a local folder, or of that name on the hub, which is then downloaded.

    `revision` is a branch, tag or commit on the hub, by default its main branch. Raises InputError
    for what is neither, and where the hub does not answer.
    """
    folder = Path(name)
    if name and folder.is_dir():
        if revision is not None:
            raise InputError(
                f"{folder}: is a local folder, which has no revisions; leave out encoder.revision"
            )
        return Checkpoint(folder)
    if not name or folder.exists() or not ON_THE_HUB.fullmatch(name):
        raise InputError(f"{name}: no such folder; set encoder.checkpoint to a checkpoint's folder")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InputError(
            f"{name}: no such folder, and to download it needs: pip install 'sdst[clip]'"
        ) from error
    wanted = ["config.json", *PREPARATION, TOKENIZER, "*.safetensors", INDEX]
    try:
        got = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # of the hub, the network or the cache: there are a hundred kinds
        raise InputError(
            f"{name}: no such folder, and not to be had from the hub ({shown(error)}); download it "
            "where there is a network, and set encoder.checkpoint to its folder"
        ) from error
    return Checkpoint(got, name, got.name)
