"""Feature files of anybody: every kind is read, unusable ones are named, nothing is unpickled."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from data_pipeline.importing.files import (
    FeatureFileError,
    read_array,
    read_word_vectors,
)

VALUES = np.random.default_rng(0).normal(size=(7, 12)).astype(np.float32)


def test_every_kind_of_file_gives_the_array_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=VALUES, other=VALUES[:1])
    np.savez_compressed(tmp_path / "b.npz", features=VALUES)
    np.save(tmp_path / "c.npy", VALUES)
    torch.save(torch.from_numpy(VALUES), tmp_path / "d.pt")
    torch.save({"features": torch.from_numpy(VALUES)}, tmp_path / "e.pt")
    with h5py.File(tmp_path / "f.hdf5", "w") as file:
        file["v_1/c3d_features"] = VALUES
        file.create_dataset("packed", data=VALUES, compression="gzip", shuffle=True)
    for name in ("a.npz", "b.npz", "c.npy", "d.pt", "e.pt"):
        assert np.array_equal(read_array(tmp_path / name, ["absent", "features"]), VALUES)
    for key in ("v_1/c3d_features", "packed"):
        assert np.array_equal(read_array(tmp_path / "f.hdf5", [key]), VALUES)


def test_a_bfloat16_tensor_is_read_as_it_is(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(VALUES).bfloat16(), tmp_path / "a.pt")
    expected = torch.from_numpy(VALUES).bfloat16().float().numpy()
    assert np.array_equal(read_array(tmp_path / "a.pt"), expected)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.trace,)


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "trace")
    array = np.array([trap], dtype=object)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", features=array)
    torch.save(trap, tmp_path / "c.pt")
    torch.save(trap, tmp_path / "d.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "e.pt").write_bytes(pickle.dumps(trap))
    for name in ("a.npy", "b.npz", "c.pt", "d.pt", "e.pt"):
        with pytest.raises(FeatureFileError, match=name) as caught:
            read_array(tmp_path / name, ["features"])
        assert caught.value.kind == "unreadable"
    assert not (tmp_path / "trace").exists()


def linked(path: Path, make: Callable[[h5py.File], None]) -> Path:
    with h5py.File(path, "w") as file:
        make(file)
    return path


def test_hdf5_that_leads_to_other_files_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.hdf5"
    with h5py.File(secret, "w") as file:
        file["v"] = VALUES
    (tmp_path / "raw").write_bytes(VALUES.tobytes())

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout(VALUES.shape, VALUES.dtype)
        layout[:] = h5py.VirtualSource(str(secret), "v", VALUES.shape)
        file.create_virtual_dataset("v", layout)

    def external(file: h5py.File) -> None:
        raw = [(str(tmp_path / "raw"), 0, VALUES.nbytes)]
        file.create_dataset("v", VALUES.shape, VALUES.dtype, external=raw)

    makers: dict[str, Callable[[h5py.File], None]] = {
        "link": lambda file: file.__setitem__("v", h5py.ExternalLink(str(secret), "v")),
        "soft": lambda file: file.__setitem__("v", h5py.SoftLink("/elsewhere")),
        "virtual": virtual,
        "external": external,
    }
    for name, make in makers.items():
        with pytest.raises(FeatureFileError, match=name):
            read_array(linked(tmp_path / f"{name}.hdf5", make), ["v"])


def test_a_file_that_claims_more_than_it_holds_takes_no_memory(tmp_path: Path) -> None:
    torch.save(torch.zeros(1).expand(1 << 40), tmp_path / "view.pt")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * (300 << 20))
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        file.create_dataset("v", (1 << 16, 1 << 16), np.float32)  # nothing of it is stored
        file.create_dataset("z", (1 << 13, 1 << 13), np.float32, compression="gzip", fillvalue=1.0)
    for name, key in (("view.pt", "v"), ("bomb.pt", "v"), ("empty.hdf5", "v"), ("empty.hdf5", "z")):
        with pytest.raises(FeatureFileError, match=r"claims|unpacks") as caught:
            read_array(tmp_path / name, [key])
        assert caught.value.kind == "unreadable"


def damaged(path: Path, how: str) -> None:
    if path.suffix == ".npz":
        np.savez(path, features=VALUES)
    elif path.suffix == ".npy":
        np.save(path, VALUES)
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(VALUES), path)
    else:
        with h5py.File(path, "w") as file:
            file["features"] = VALUES
    data = path.read_bytes()
    cut = {"truncated": data[: len(data) // 2], "empty": b"", "text": b"not features\n"}
    path.write_bytes(cut[how])


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt", ".hdf5"])
@pytest.mark.parametrize("how", ["truncated", "empty", "text"])
def test_a_damaged_file_is_one_line_with_its_class(tmp_path: Path, suffix: str, how: str) -> None:
    path = tmp_path / f"v{suffix}"
    damaged(path, how)
    with pytest.raises(FeatureFileError, match=r"v\.") as caught:
        read_array(path, ["features"])
    assert caught.value.kind == "unreadable"
    assert "\n" not in str(caught.value)


def test_other_contents_are_told_from_damage(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", other=VALUES)
    torch.save({"other": torch.zeros(1)}, tmp_path / "b.pt")
    torch.save([torch.zeros(1)], tmp_path / "c.pt")
    for name in ("a.npz", "b.pt", "c.pt"):
        with pytest.raises(FeatureFileError, match=name) as caught:
            read_array(tmp_path / name, ["features"])
        assert caught.value.kind == "other contents"
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        file["v_1"] = VALUES
    with pytest.raises(FeatureFileError, match=r"v_1.* and not v_2") as caught:
        read_array(tmp_path / "d.hdf5", ["v_2"])
    assert caught.value.kind == "missing"


def test_vectors_of_words_are_read_by_name_and_others_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("the 1 2 3\ndog 4 5 6\nbroken 1 x\n")
    vectors = read_word_vectors(path, {"dog", "unknown"})
    assert {word: vector.tolist() for word, vector in vectors.items()} == {"dog": [4, 5, 6]}
    with pytest.raises(FeatureFileError, match=r"glove\.txt:3: "):
        read_word_vectors(path, {"broken"})
    with pytest.raises(FeatureFileError, match="none of the words"):
        read_word_vectors(path, {"unknown"})
    path.write_text("a " + "1 " * 100_000)
    with pytest.raises(FeatureFileError, match="too long"):
        read_word_vectors(path, {"a"})
