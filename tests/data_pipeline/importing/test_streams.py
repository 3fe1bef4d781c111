"""Streams of released features become the rows that the originals' loaders make of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from data_pipeline.config import StreamConfig
from data_pipeline.errors import InputError
from data_pipeline.importing.features import spread
from data_pipeline.importing.files import FeatureFileError
from data_pipeline.importing.streams import EPSILON, Names, Stream, join, resolve

GOLDEN = Path(__file__).parents[2] / "goldens" / "features_moment_detr"
RANDOM = np.random.default_rng(0)
ROWS = [json.loads(line) for line in (GOLDEN / "small" / "annotations.jsonl").open()]


def stream(folder: Path, names: list[Names], **settings: Any) -> Stream:
    found = resolve(StreamConfig.of(settings), folder, names)
    assert found is not None
    return found


@pytest.mark.parametrize("run", ["plain", "cut", "clip_first"])
def test_rows_are_those_of_moment_detr(run: str) -> None:
    of_run = json.loads((GOLDEN / "small.json").read_text())["runs"][run]
    recorded = load_file(GOLDEN / "small.safetensors")
    names = [Names(row["vid"], row["qid"], row["query"]) for row in ROWS]
    folders = ["slowfast_features", "clip_features"]
    streams = [
        stream(
            GOLDEN / "small",
            names,
            pattern=f"{folder}/{{vid}}.npz",
            key="features",
            l2=True,
            rows=of_run["max_v_l"],
        )
        for folder in (reversed(folders) if of_run.get("swap") else folders)
    ]
    text = stream(
        GOLDEN / "small",
        names,
        pattern="clip_text_features/qid{qid}.npz",
        key="last_hidden_state",
        l2=True,
        rows=of_run["max_q_l"],
    )
    for item, each in enumerate(names):
        video, _ = join(streams, each, Counter())
        expected = recorded[f"{run}.item.{item}.video_feat"][:, :-2]  # without the clips' edges
        assert video.shape == (len(expected), 1, expected.shape[1])
        assert np.abs(video[:, 0].astype(np.float32) - expected).max() < 1e-3
        tokens = text.read(each).values[:, 0]
        assert np.abs(tokens - recorded[f"{run}.item.{item}.query_feat"]).max() < 1e-6


def write(folder: Path, name: str, *shape: int, dtype: Any = np.float32) -> np.ndarray:
    values = RANDOM.normal(size=shape).astype(dtype)
    (folder / name).parent.mkdir(exist_ok=True)
    np.save(folder / name, values)
    return values


def test_what_is_cut_is_counted(tmp_path: Path) -> None:
    write(tmp_path, "a/v.npy", 9, 4)
    write(tmp_path, "b/v.npy", 7, 4)
    names = [Names("v")]
    streams = [stream(tmp_path, names, pattern=f"{n}/{{vid}}.npy", rows=5) for n in "ab"]
    counted: Counter[str] = Counter()
    video, found = join(streams, names[0], counted)
    assert (video.shape, found) == ((5, 1, 8), [9, 7])
    assert counted == {
        "videos cut to their shortest stream": 1,
        "rows beyond the shortest stream": 2,
        "videos cut to the maximum of rows": 1,
        "rows beyond the maximum": 2,
    }


def test_joined_files_are_one_stream_that_is_normalised_once(tmp_path: Path) -> None:
    rgb, flow = write(tmp_path, "v_rgb.npy", 6, 4), write(tmp_path, "v_opt.npy", 5, 4)
    both = stream(tmp_path, [Names("v")], pattern="{vid}_rgb.npy + {vid}_opt.npy", l2=True)
    joined = np.concatenate([rgb[:5], flow], axis=1)
    expected = joined / (np.linalg.norm(joined, axis=1, keepdims=True) + EPSILON)
    assert np.allclose(both.read(Names("v")).values[:, 0], expected, atol=1e-6)


def test_a_video_of_one_row_stays_one_row(tmp_path: Path) -> None:
    values = write(tmp_path, "v.npy", 1, 4)
    one, found = join([stream(tmp_path, [Names("v")], pattern="{vid}.npy")], Names("v"), Counter())
    assert found == [1]
    assert np.array_equal(one[:, 0], values.astype(np.float16))


def test_a_row_of_zeros_stays_one(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((2, 4), np.float16))
    read = stream(tmp_path, [Names("v")], pattern="{vid}.npy", l2=True).read(Names("v"))
    assert not read.values.any()


def test_axes_of_layers_and_patches_become_ours(tmp_path: Path) -> None:
    layers = write(tmp_path, "l.npy", 5, 12, 16)
    patches = write(tmp_path, "p.npy", 7, 4, 5, 8)
    single = write(tmp_path, "s.npy", 12, 16)

    def read(axes: str, name: str, **more: Any) -> np.ndarray:
        found = stream(tmp_path, [Names(name)], pattern="{vid}.npy", axes=axes)
        return Stream(found.config, found.folder, found.files, **more).read(Names(name)).values

    assert np.array_equal(read("K R D", "l"), layers.swapaxes(0, 1))
    assert np.array_equal(read("R K D", "l"), layers)
    assert np.array_equal(read("R K P D", "p"), patches[:, :, 0])
    assert np.allclose(read("R K P D", "p", pooling="average"), patches.mean(2), atol=1e-6)
    assert np.array_equal(read("R K P D", "p", pooling="none"), patches.reshape(7, 4, 40))
    assert np.array_equal(read("K R D", "s"), single[:, None])
    assert np.array_equal(read("R K D", "s"), single[:, None])


@pytest.mark.parametrize(
    "values", [np.ones(4, np.float32), np.ones((0, 4), np.float32), np.ones((2, 4), np.int64)]
)
def test_other_arrays_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "v.npy", values)
    with pytest.raises(FeatureFileError, match=r"v\.npy: an array .* expected floats") as caught:
        stream(tmp_path, [Names("v")], pattern="{vid}.npy").read(Names("v"))
    assert caught.value.kind == "other contents"


@pytest.mark.parametrize("value", [1e5, np.nan, np.inf])
def test_values_that_float16_cannot_hold_are_refused(tmp_path: Path, value: float) -> None:
    np.save(tmp_path / "v.npy", np.full((2, 4), value, np.float32))
    with pytest.raises(FeatureFileError, match=r"video v: .*float16") as caught:
        join([stream(tmp_path, [Names("v")], pattern="{vid}.npy")], Names("v"), Counter())
    assert caught.value.kind == "not finite"


def test_words_without_a_vector_are_rows_of_zeros_and_counted(tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("dog 3 4\nruns 0 2\n")
    names = Names("v", 1, "Dog xyzzy runs")
    words = stream(tmp_path, [names], pattern="glove.txt", l2=True)
    words.load_words([names.query])
    counted: Counter[str] = Counter()
    read = words.read(names, counted).values[:, 0]
    assert np.allclose(read, [[0.6, 0.8], [0, 0], [0, 1]], atol=1e-5)
    assert counted == {"words without a vector": 1}


def test_the_first_pattern_that_has_files_is_taken(tmp_path: Path) -> None:
    write(tmp_path, "s30-cam-002.npy", 3, 4)
    patterns = ["{vid}.npy", "{vid}-cam-002.npy"]
    found = stream(tmp_path, [Names("s29"), Names("s30")], pattern=patterns)
    assert (found.files, found.place) == (("{vid}-cam-002.npy",), 1)
    assert resolve(StreamConfig("{vid}.npz"), tmp_path, [Names("s30")]) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pattern": "../{vid}.npy"}, "cannot name a file"),
        ({"pattern": "/etc/{vid}.npy"}, "cannot name a file"),
        ({"pattern": "{vid.__class__}.npy"}, "only {vid} and {qid}"),
        ({"pattern": "features.npz"}, "names the same for all"),
        ({"pattern": "all.hdf5", "key": "features"}, "names the same for all"),
        ({"pattern": "{vid}.pkl"}, "ends in none of"),
        ({"pattern": "{vid}.npz", "key": "{query}"}, "only {vid} and {qid}"),
    ],
)
def test_a_pattern_that_leads_elsewhere_is_refused(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        resolve(StreamConfig.of(settings), tmp_path, [Names("v")])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patern": "x"}, "did you mean 'pattern'"),
        ({"key": "features"}, "needs a pattern"),
        ({"pattern": "{vid}.npy", "l2": "yes"}, "l2 cannot be 'yes'"),
        ({"pattern": "{vid}.npy", "rows": 0}, "at least 1"),
        ({"pattern": "{vid}.npy", "rows": True}, "rows cannot be True"),
        ({"pattern": [], "key": "features"}, "must name a file"),
        ({"pattern": "{vid}.npy", "axes": "D R"}, "axes are one of"),
    ],
)
def test_a_mistyped_stream_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        StreamConfig.of(settings)


def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot name a file"):
        Names("../v").fill("{vid}.npy")


def test_rows_that_are_spread_keep_their_mean_and_their_order() -> None:
    rows = np.arange(12, dtype=np.float16).reshape(6, 1, 2)
    assert np.allclose(spread(rows, 6.0, 2.0), rows.reshape(3, 2, 1, 2).mean(1))
    finer = spread(rows, 24.0, 2.0)  # two clips of each row
    assert np.array_equal(finer, rows.repeat(2, axis=0))
    uneven = spread(rows, 7.0, 2.0)  # the last clip is half empty
    assert len(uneven) == 4
    assert np.all(np.diff(uneven[:, 0, 0]) > 0)
