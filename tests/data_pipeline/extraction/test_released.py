"""Released feature files: their axes become ours; unusable ones are named, nothing is unpickled."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.extraction.released import FeatureFileError, find_features, read_text, read_video

RANDOM = np.random.default_rng(0)


def test_sdst_files_keep_video_axes_and_get_text_layers_second(tmp_path: Path) -> None:
    video = RANDOM.normal(size=(75, 5, 768)).astype(np.float16)
    text = RANDOM.normal(size=(5, 12, 1024)).astype(np.float32)
    np.savez(tmp_path / "v.npz", visual_feats_interm_pooled=video)
    np.savez_compressed(tmp_path / "7.npz", text_feats=text)
    assert np.array_equal(read_video(find_features(tmp_path, "v"), "cls"), video)
    read = read_text(find_features(tmp_path, 7))
    assert read.dtype == np.float16
    assert np.array_equal(read, text.transpose(1, 0, 2).astype(np.float16))


def test_the_single_layer_variant_gets_a_layer_axis(tmp_path: Path) -> None:
    video = RANDOM.normal(size=(75, 768)).astype(np.float32)
    np.savez(tmp_path / "v.npz", visual_feats_pooled=video)
    np.savez(tmp_path / "t.npz", text_feats=video[:9])
    assert np.array_equal(read_video(tmp_path / "v.npz", "cls")[:, 0], video.astype(np.float16))
    assert read_text(tmp_path / "t.npz").shape == (9, 1, 768)


def test_r2_tuning_files_are_pooled_over_their_patches(tmp_path: Path) -> None:
    video = RANDOM.normal(size=(75, 4, 50, 32)).astype(np.float16)
    text = RANDOM.normal(size=(12, 4, 16)).astype(np.float16)
    np.save(tmp_path / "v.npy", video)
    np.save(tmp_path / "t.npy", text)
    assert np.array_equal(read_video(tmp_path / "v.npy", "cls"), video[:, :, 0])
    average = video.astype(np.float32).mean(2)
    assert np.allclose(read_video(tmp_path / "v.npy", "average"), average, atol=1e-3)
    assert np.array_equal(read_text(tmp_path / "t.npy"), text)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.trace,)


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "trace")], dtype=object)
    np.save(tmp_path / "a.npy", trap)
    np.savez(tmp_path / "b.npz", visual_feats_interm_pooled=trap)
    for name in ("a.npy", "b.npz"):
        with pytest.raises(FeatureFileError, match=name) as caught:
            read_video(tmp_path / name, "cls")
        assert caught.value.kind == "unreadable"
    assert not (tmp_path / "trace").exists()


def damaged(path: Path, name: str) -> None:
    good = np.ones((4, 2, 8), np.float32)
    with open(path, "wb") as file:  # not under a name that numpy would add to
        if name == "other key":
            np.savez(file, features=good)
        elif name == "integers":
            np.savez(file, visual_feats_interm_pooled=good.astype(np.int64))
        elif name == "too large":
            np.savez(file, visual_feats_interm_pooled=good * 1e5)
        elif name == "not a number":
            np.savez(file, visual_feats_interm_pooled=good * np.nan)
        elif name in ("truncated", "flipped"):
            np.savez(file, visual_feats_interm_pooled=good)
    if name == "truncated":
        path.write_bytes(path.read_bytes()[:300])
    elif name == "flipped":
        data = bytearray(path.read_bytes())
        data[250] ^= 1
        path.write_bytes(data)
    elif name == "text":
        path.write_text("not features")
    elif name == "not npy":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("visual_feats_interm_pooled.npy", b"x")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("other key", "other contents"),
        ("integers", "other contents"),
        ("too large", "not finite"),
        ("not a number", "not finite"),
        ("truncated", "unreadable"),
        ("flipped", "unreadable"),
        ("text", "unreadable"),
        ("empty", "unreadable"),
        ("not npy", "unreadable"),
    ],
)
def test_an_unusable_file_is_one_line_with_its_class(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "v.npz"
    damaged(path, name)
    with pytest.raises(FeatureFileError, match=r"v\.npz") as caught:
        read_video(path, "cls")
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FeatureFileError, match=r"nowhere\.npz.*no such feature file") as caught:
        find_features(tmp_path, "nowhere")
    assert caught.value.kind == "missing"
