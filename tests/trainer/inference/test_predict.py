"""Prediction is the model that was trained, on videos of any length, or one clear line."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import SentenceFeatures, VideoFeatures
from data_pipeline.features.shards import Provenance
from model.config import SDSTConfig
from model.sdst.sdst import SDST
from trainer.cli import dump_config, load_config
from trainer.inference import predict
from trainer.inference.decode import decode
from trainer.inference.postprocess import postprocess
from trainer.inference.predict import Grounder
from trainer.inference.pretrained import Export, encoder_of
from trainer.metrics import evaluate
from trainer.metrics.bootstrap import intervals
from trainer.metrics.storage import write_evaluation
from trainer.training.checkpoints import export

CLIPS, CLIP = 12, 2.0  # longest video of training, seconds of a clip
MOST_WORDS = 20  # that the encoder reads
CONFIG = SDSTConfig(
    video_width=6, text_width=5, layers=(-1, -2), width=16, heads=2, points=2, queries=7
)
PROVENANCE = Provenance(
    video_encoder="efficientnet-lite0",
    video_weights="aa",
    video_layers=(3, 4),
    text_encoder="all-minilm-l6-v2",
    text_weights="bb",
    text_layers=(1, 2),
    tokenizer="cc",
    clip_length=CLIP,
    frames_per_clip=2,
    preprocessing="none",
    arithmetic="float32",
    options={"video": {}, "text": {}},
    version="1",
)


class FakeEncoder:
    """Features from the name of the file and the letters of the sentence."""

    def __init__(self, config: Any = None) -> None:
        self.encoded = self.read = 0
        self.provenance = PROVENANCE
        self.video_shape = (2, 6)

    def encode_video(
        self, path: Path, start: float = 0, end: float | None = None, progress: Any = None
    ) -> VideoFeatures:
        self.encoded += 1
        duration = float(path.stem)
        clips = max(1, int(np.ceil(duration / CLIP - 0.01)))
        features = np.random.default_rng(clips).normal(size=(clips, 2, 6)).astype(np.float16)
        return VideoFeatures(features, duration, CLIP)

    def encode_sentences(self, sentences: list[str], together: int = 1) -> list[SentenceFeatures]:
        found = []
        self.read += len(sentences)
        for sentence in sentences:
            generator, words = np.random.default_rng(list(sentence.encode())), sentence.split()
            features = generator.normal(size=(len(words), 2, 5)).astype(np.float16)
            found.append(SentenceFeatures(features, None, max(0, len(words) - MOST_WORDS)))
        return found


def made() -> SDST:
    """A model whose scores are listed."""
    torch.manual_seed(0)
    model = SDST(CONFIG)
    torch.nn.init.zeros_(model.classify[0].bias)
    return model


def described() -> Export:
    return Export(CONFIG, encoder_of(PROVENANCE), PROVENANCE, max_clips=CLIPS)


@pytest.fixture
def grounder() -> Grounder:
    return Grounder(made(), FakeEncoder(), described(), "cpu")  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder with an exported model, whose encoder is at hand."""
    monkeypatch.setattr(predict, "FeatureEncoder", FakeEncoder)
    export(tmp_path / "model", made(), dump_config(described()))
    return tmp_path


def test_video_is_encoded_once_for_many_sentences(grounder: Grounder) -> None:
    found = grounder.predict("20.mp4", ["a dog", "a cat", "two birds"])
    assert [each.query for each in found] == ["a dog", "a cat", "two birds"]
    assert grounder.encoder.encoded == 1  # type: ignore[attr-defined]


def test_encoded_video_is_reusable(grounder: Grounder) -> None:
    video = grounder.encode("20.mp4")
    again, once = grounder.predict(video, "a dog"), grounder.predict("20.mp4", ["a dog"])
    assert again[0].windows == once[0].windows


@pytest.mark.parametrize("name", ["20.mp4", "90.mp4"])
def test_sentence_is_answered_alike_alone_and_among_others(grounder: Grounder, name: str) -> None:
    alone = grounder.predict(name, "a dog")[0]
    among = grounder.predict(name, ["two birds that fly", "a dog"])[1]
    assert alone.windows == among.windows
    assert np.array_equal(alone.saliency, among.saliency)


def test_video_of_training_length_is_predicted_as_in_evaluation(grounder: Grounder) -> None:
    video = grounder.encode("24.mp4")
    text = torch.from_numpy(grounder.encoder.encode_sentences(["a dog"])[0].features)[None].float()
    mask = torch.ones(1, CLIPS, dtype=torch.bool)
    with torch.no_grad():
        prediction = grounder.model(
            torch.from_numpy(video.features)[None].float(), mask, text, torch.ones(1, 2).bool()
        )
    decoded = decode(prediction, mask, torch.tensor([24.0]), [24.0])
    shown = postprocess(decoded.windows, [24.0], grounder.export.postprocess)[0]
    expected = shown[shown[:, 2] > 0]  # without demoted duplicates
    found = grounder.predict(video, "a dog")[0]
    assert np.array(found.windows) == pytest.approx(np.array(expected))
    assert found.saliency == pytest.approx(decoded.saliency[0])


@pytest.mark.parametrize("duration", ["0.04", "1", "23.5", "25", "3600.5"])
def test_any_duration_works(grounder: Grounder, duration: str) -> None:
    found = grounder.predict(f"{duration}.mp4", "a dog")[0]
    assert found.windows
    scores = [score for _, _, score in found.windows]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= start <= end <= float(duration) for start, end, _ in found.windows)
    assert np.isfinite(found.saliency).all()
    assert found.times.shape == (len(found.saliency), 2)
    assert found.times[-1, 1] == pytest.approx(float(duration), abs=0.03)


def test_long_video_goes_through_the_model_in_pieces(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    forward = grounder.model.forward

    def watched(video: torch.Tensor, *rest: torch.Tensor) -> Any:
        sizes.append(video.shape[:2])
        return forward(video, *rest)

    monkeypatch.setattr(grounder.model, "forward", watched)
    grounder.predict("7200.mp4", "a dog")
    assert max(batch * clips for batch, clips in sizes) <= predict.CLIPS_AT_ONCE
    assert {clips for _, clips in sizes} == {CLIPS}


def test_empty_sentence_is_an_input_error(grounder: Grounder) -> None:
    with pytest.raises(InputError, match="query 2 is empty"):
        grounder.predict("20.mp4", ["a dog", " "])


def test_no_sentence_gives_no_grounding(grounder: Grounder) -> None:
    assert grounder.predict("20.mp4", []) == []


def test_exported_model_predicts_as_before(run: Path, grounder: Grounder) -> None:
    for folder in (run, run / "model"):
        loaded = Grounder.from_pretrained(folder, "cpu")
        assert (
            loaded.predict("20.mp4", "a dog")[0].windows
            == grounder.predict("20.mp4", "a dog")[0].windows
        )


def test_kernels_of_the_training_machine_are_not_asked_for(run: Path) -> None:
    other = replace(described(), model=replace(CONFIG, deformable_kernel="triton"))
    (run / "model" / "config.yaml").write_text(dump_config(other))
    assert Grounder.from_pretrained(run, "cpu").model.config.deformable_kernel == "torch"


def test_missing_files_are_named(run: Path) -> None:
    with pytest.raises(InputError, match="no such folder; train a model first"):
        Grounder.from_pretrained(run / "nowhere")
    (run / "model" / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"config\.yaml: is missing"):
        Grounder.from_pretrained(run)
    (run / "model" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no trained model"):
        Grounder.from_pretrained(run)


def test_weights_of_another_model_are_refused(run: Path) -> None:
    other = replace(described(), model=replace(CONFIG, width=32))
    (run / "model" / "config.yaml").write_text(dump_config(other))
    with pytest.raises(InputError, match=r"model\.safetensors: made by another model"):
        Grounder.from_pretrained(run)


def test_encoder_with_other_weights_is_refused(run: Path) -> None:
    trained = replace(PROVENANCE, video_weights="dd")
    (run / "model" / "config.yaml").write_text(dump_config(replace(described(), features=trained)))
    with pytest.raises(InputError, match=r"config\.yaml: .*video_weights: aa, not dd"):
        Grounder.from_pretrained(run)


def test_imported_features_without_hashes_are_not_compared_by_hash(run: Path) -> None:
    trained = replace(PROVENANCE, video_weights=None, version="of another time")
    (run / "model" / "config.yaml").write_text(dump_config(replace(described(), features=trained)))
    Grounder.from_pretrained(run, "cpu")


def test_device_that_is_not_there_is_an_input_error(run: Path) -> None:
    with pytest.raises(InputError, match="device 'abacus' cannot be used here"):
        Grounder.from_pretrained(run, "abacus")


def test_a_saved_model_comes_back_and_predicts_the_same(run: Path, tmp_path: Path) -> None:
    first = Grounder.from_pretrained(run, "cpu")
    second = Grounder.from_pretrained(first.save_pretrained(tmp_path / "copy"), "cpu")
    assert second.export == first.export
    assert second.card == first.card
    mine, theirs = (each.predict("90.mp4", "a dog")[0] for each in (first, second))
    assert mine.windows == theirs.windows
    assert np.array_equal(mine.saliency, theirs.saliency)


def test_the_card_has_the_scores_of_the_run_with_intervals_and_its_limits(run: Path) -> None:
    annotations = [Annotation(i, "a dog", f"v{i}", 20.0, ((2.0, 8.0),)) for i in range(20)]
    rows = [{"qid": i, "pred_relevant_windows": [[2.0, 8.0 + i, 0.9]]} for i in range(20)]
    evaluation = evaluate(rows, annotations)
    write_evaluation(run / "per_query.json", evaluation)
    result = {
        "metrics": evaluation.summary,
        "baselines": {"random": {"R1@0.5": 12.5}},
        "provenance": {"report": "val", "code": "abc"},
        "trainable_parameters": 1234,
    }
    (run / "metrics.json").write_text(json.dumps(result))
    card = Grounder.from_pretrained(run, "cpu").card
    low, high = intervals(evaluation)["R1@0.5"]
    assert f"| R1@0.5 | 35.00 | {low:.2f} to {high:.2f} | 12.50 |" in card
    assert "- report: val" in card
    assert "1,234 parameters" in card
    assert f"more than {CLIPS} clips" in card
    assert card.startswith("---\nlicense: apache-2.0\n")


def test_a_model_that_was_never_scored_says_so(run: Path) -> None:
    assert "No scores were kept" in Grounder.from_pretrained(run, "cpu").card


def test_a_list_of_videos_is_answered_one_by_one_and_sentences_are_encoded_once(
    grounder: Grounder,
) -> None:
    sentences = ["a dog", "two birds"]
    found = grounder.predict(["20.mp4", Path("90.mp4"), grounder.encode("6.mp4")], sentences)
    assert [each.video for each in found] == ["20.mp4", "90.mp4", None]
    assert grounder.encoder.read == 2  # type: ignore[attr-defined]
    assert found[1][0].windows == grounder.predict("90.mp4", "a dog")[0].windows
    assert grounder.predict([], sentences) == []


def test_top_and_threshold_choose_the_windows(grounder: Grounder) -> None:
    everything = grounder.predict("90.mp4", "a dog")[0]
    scores = sorted((score for _, _, score in everything.windows), reverse=True)
    assert grounder.predict("90.mp4", "a dog", top=2)[0].windows == everything.windows[:2]
    few = grounder.predict("90.mp4", "a dog", threshold=scores[2])[0]
    assert few.windows == everything.windows[:3]
    assert grounder.predict("90.mp4", "a dog", threshold=1.1)[0].windows == ()
    with pytest.raises(InputError, match="top is 0"):
        grounder.predict("90.mp4", "a dog", top=0)


def test_what_was_found_is_a_table(grounder: Grounder) -> None:
    found = grounder.predict("20.mp4", ["a dog", "a cat"], top=2)
    table = found.to_frame()
    assert list(table.columns) == ["video", "query", "rank", "start", "end", "score"]
    assert list(table["query"]) == ["a dog", "a dog", "a cat", "a cat"]
    assert list(table["rank"]) == [1, 2, 1, 2]
    assert tuple(table.iloc[0][["start", "end", "score"]]) == found[0].windows[0]
    nothing = grounder.predict(grounder.encode("20.mp4"), "a dog", threshold=1.1)[0].to_frame()
    assert list(nothing.columns) == ["query", "rank", "start", "end", "score"]


def test_a_notebook_shows_the_sentences_as_typed_with_their_windows(grounder: Grounder) -> None:
    found = grounder.predict("20.mp4", ["<script>a dog</script>", "a cat [x] $y$"], top=1)
    page = found._repr_html_()
    assert "&lt;script&gt;a dog" in page
    assert "a cat [x] $y$" in page
    assert "<script" not in page
    assert "& {\n  --page:" in page  # the colours are this page's own
    assert page.count("Predicted window 1") == 2
    assert page.count("<polyline") == 2
    assert found[0]._repr_html_().count("<polyline") == 1


def test_an_encoded_video_is_kept_in_a_file(grounder: Grounder, tmp_path: Path) -> None:
    video = grounder.encode("20.mp4")
    path = grounder.save(video, tmp_path / "holiday.safetensors")
    again = grounder.load(path)
    assert again.features.tobytes() == video.features.tobytes()
    assert (again.duration, again.clip_length, again.joint) == (20.0, 2.0, None)
    once, twice = grounder.predict(again, "a dog")[0], grounder.predict(video, "a dog")[0]
    assert once.windows == twice.windows


def test_an_encoded_video_of_other_encoders_is_refused(grounder: Grounder, tmp_path: Path) -> None:
    path = grounder.save(grounder.encode("20.mp4"), tmp_path / "v.safetensors")
    grounder.encoder.provenance = replace(PROVENANCE, video_weights="zz")  # type: ignore[misc]
    with pytest.raises(
        InputError, match=r"v.safetensors: was encoded by other encoders \(video_weights: zz"
    ):
        grounder.load(path)


@pytest.mark.parametrize(
    "alter",
    [
        lambda data: data[:-5],
        lambda data: b"",
        lambda data: data.replace(b"20.0", b"-2.0"),
        lambda data: data.replace(b"sdst video 1", b"sdst video 9"),
        lambda data: data.replace(b"features", b"featured"),
        lambda data: data[:-8] + b"\x00\x7c" * 4,
        lambda data: data.replace(b"[10,2,6]", b"[20,2,3]"),
    ],
)
def test_a_damaged_file_of_an_encoded_video_is_one_line(
    grounder: Grounder, tmp_path: Path, alter: Any
) -> None:
    path = grounder.save(grounder.encode("20.mp4"), tmp_path / "v.safetensors")
    path.write_bytes(alter(path.read_bytes()))
    with pytest.raises(InputError, match=r"v.safetensors: .*encode the video again"):
        grounder.load(path)


def test_a_model_of_features_of_unknown_encoders_is_one_line_until_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "FeatureEncoder", FakeEncoder)
    features = replace(
        PROVENANCE,
        video_encoder="unknown",
        text_encoder="unknown",
        video_weights=None,
        text_weights=None,
        tokenizer=None,
        video_layers=(0, 1),
        text_layers=(0, 1),
        frames_per_clip=0,
        preprocessing="imported",
        arithmetic="imported",
        options={"video": {"streams": [{"name": "vid_feats", "width": 6}]}, "text": {}},
    )
    described = Export(CONFIG, encoder_of(features), features, max_clips=CLIPS)
    export(tmp_path / "model", SDST(CONFIG), dump_config(described))
    with pytest.raises(InputError, match=r"config\.yaml: which encoders made .* is not known"):
        Grounder.from_pretrained(tmp_path, "cpu")
    named = replace(described, encoder=encoder_of(PROVENANCE))
    export(tmp_path / "model", SDST(CONFIG), dump_config(named))
    grounder = Grounder.from_pretrained(tmp_path, "cpu")
    assert "an unknown number of frame(s)" in grounder.card


def weights_of(run: Path) -> Path:
    return run / "model" / "model.safetensors"


def alter(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights of a model, as somebody does who has a library for it."""
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def relabel(path: Path) -> None:
    """Say of float32 weights that they are whole numbers of as many bits."""
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"'))


def unseal(run: Path) -> None:
    """The configuration as earlier versions wrote it."""
    path = run / "model" / "config.yaml"
    values = yaml.safe_load(path.read_text())
    del values["seal"]
    path.write_text(yaml.safe_dump(values))


def test_an_export_is_sealed_by_the_hash_and_the_types_of_its_weights(run: Path) -> None:
    seal = load_config(Export, run / "model" / "config.yaml").seal
    assert seal.sha256 == hashlib.sha256(weights_of(run).read_bytes()).hexdigest()
    assert seal.dtypes == ("F32",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, "is not what config.yaml beside it was written with"),
        (relabel, "holds weights of I32 and not of F32"),
        (lambda path: alter(path, lambda w: w.update({k: v.half() for k, v in w.items()})), "F16"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "safetensors"),
    ],
)
def test_weights_that_are_not_those_of_the_export_are_refused(
    run: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(weights_of(run))
    with pytest.raises(InputError, match=rf"model\.safetensors: .*{message}"):
        Grounder.from_pretrained(run, "cpu")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: next(iter(w.values())).fill_(float("nan")), "values that are not finite"),
        (lambda w: next(iter(w.values())).view(-1)[-1:].fill_(float("-inf")), "not finite"),
        (
            lambda w: w.update({k: v.view(torch.int32) for k, v in w.items()}),
            "not of torch.float32",
        ),
    ],
)
def test_weights_that_cannot_answer_are_refused_without_a_seal_too(
    run: Path, edit: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    unseal(run)
    alter(weights_of(run), edit)
    with pytest.raises(InputError, match=rf"model\.safetensors: .*{message}"):
        Grounder.from_pretrained(run, "cpu")


def test_a_model_of_an_earlier_version_answers_with_one_warning(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unseal(run)
    old = Grounder.from_pretrained(run, "cpu")
    assert [record.message.count("before models were sealed") for record in caplog.records] == [1]
    caplog.clear()
    sealed = Grounder.from_pretrained(old.save_pretrained(run / "copy"), "cpu")
    assert not caplog.records
    assert sealed.predict("20.mp4", "a dog")[0].windows == old.predict("20.mp4", "a dog")[0].windows


@pytest.mark.parametrize("name", ["20.mp4", "90.mp4"])
def test_an_answer_that_is_not_finite_does_not_leave(grounder: Grounder, name: str) -> None:
    with torch.no_grad():
        for parameter in grounder.model.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(InputError, match="the answer is not finite"):
        grounder.predict(name, "a dog")


def test_features_that_are_not_finite_give_no_answer(grounder: Grounder) -> None:
    video = grounder.encode("20.mp4")
    video.features[3] = np.inf
    with pytest.raises(InputError, match="the answer is not finite"):
        grounder.predict(video, "a dog")
