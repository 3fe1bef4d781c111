"""Whether a video shows at all what a sentence says: for every kind of model alike."""

import math

import pytest
import torch

from model.interface import Prediction, Sentences
from model.kinds import KINDS, build, build_objective
from model.layers.existence import ExistenceHead, existence_logits
from model.objective.existence import OTHERS, existence_loss
from tests.model.test_kinds import CLIPS, SMALL, WORDS, close, draw, padded, small, targets


@pytest.fixture(params=list(SMALL))
def name(request) -> str:
    return request.param


def sentences(present, text, own=None) -> Sentences:
    text = torch.tensor(text)
    own = text[:, None] if own is None else torch.tensor(own)
    return Sentences(torch.tensor(present, dtype=torch.int8), text, own)


def test_off_changes_no_weight_and_on_only_adds_some(name):
    values = {"video_width": 12, "text_width": 10, "width": 32, "heads": 4} | SMALL[name]
    weights = []
    for existence in (False, True):
        torch.manual_seed(3)
        config = KINDS[values["kind"]].config(**values, existence=existence)
        weights.append(build(config).state_dict())
    off, on = weights
    assert all(torch.equal(on[key], off[key]) for key in off)
    added = on.keys() - off.keys()
    assert added
    assert all(key.startswith("existence.") for key in added)


def test_without_the_head_nothing_is_said_of_existence(name):
    prediction = small(name).eval()(*draw(CLIPS, WORDS))
    assert prediction.existence is None
    assert prediction.clip_evidence is None


def test_before_it_has_learnt_only_clips_that_are_like_the_sentence_count_for_it():
    model, inputs = small("sdst", existence=True).eval(), draw([1], [3])
    torch.nn.init.constant_(model.existence.scale, ExistenceHead(model.config).scale.item())
    torch.nn.init.constant_(model.existence.bias, ExistenceHead(model.config).bias.item())
    prediction = model(*inputs)
    clip, sentence = prediction.clip_evidence[0, 0, :-1], prediction.sentence_evidence[0, :-1]
    alike = torch.cosine_similarity(clip, sentence, dim=0)
    torch.testing.assert_close(prediction.existence[0], 10 * alike - 5)


def test_existence_depends_on_the_pair_alone(name):
    model, inputs = small(name, existence=True).eval(), draw(CLIPS, WORDS)
    together = model(*inputs)
    close(model(*padded(inputs, 3, 2)).existence, together.existence)
    for row, (clips, words) in enumerate(zip(CLIPS, WORDS, strict=True)):
        video, video_mask, text, text_mask = (x[[row]] for x in inputs)
        alone = model(
            video[:, :clips], video_mask[:, :clips], text[:, :words], text_mask[:, :words]
        )
        close(alone.existence[0], together.existence[row])
    assert together.existence.unique().numel() == len(CLIPS)


def test_any_clips_are_held_against_any_sentence_as_if_they_were_a_pair(name):
    model, inputs = small(name, existence=True).eval(), draw(CLIPS, WORDS)
    found, mask = model(*inputs), inputs[1]
    every = found.sentence_evidence.expand(3, -1, -1)
    logits = existence_logits(found.clip_evidence, mask, every)
    close(logits.diagonal(), found.existence)
    other = model(*inputs[:2], *(x.roll(-1, 0) for x in inputs[2:])).existence
    close(torch.stack([logits[0, 1], logits[1, 2], logits[2, 0]]), other)


def test_every_part_of_it_learns_and_what_finds_moments_learns_as_without(name):
    inputs = draw(CLIPS, WORDS)
    gradients = []
    for existence in (False, True):
        model = small(name, existence=existence).train()
        model.load_state_dict(small(name).state_dict(), strict=False)
        criterion = build_objective(model.config, KINDS[model.config.kind].loss())
        told = {"sentences": sentences([1, 0, -1], [1, 2, 3])} if existence else {}
        total, losses = criterion(model(*inputs), **targets(inputs[1]), **told)
        assert ("existence" in losses) == existence
        total.backward()
        gradients.append({key: p.grad for key, p in model.named_parameters()})
    off, on = gradients
    for key, gradient in on.items():
        if key.startswith("existence."):
            assert gradient.abs().sum() > 0, key
        else:
            close(gradient, off[key])


def prediction_of(clips, said, scale=1.0) -> Prediction:
    empty = torch.zeros(1)
    return Prediction(
        empty, empty, empty, empty, clip_evidence=clips * scale, sentence_evidence=said
    )


def slowly(clips, mask, said, told: Sentences) -> float:
    """Pair by pair."""

    def logit(video, sentence):
        real = [clip for clip, is_real in zip(clips[video], mask[video], strict=True) if is_real]
        return math.log(sum(math.exp(float(clip @ said[sentence])) for clip in real))

    def contrast(own, others):
        return math.log(sum(math.exp(other) for other in [own, *others])) - own

    count = len(said)
    right, wrong, told_apart = [], [], []
    others = [
        [
            step
            for step in range(1, min(count, OTHERS + 1))
            if int(told.text[(video + step) % count]) not in told.own[video].tolist()
        ]
        for video in range(count)
    ]
    for video in range(count):
        own, present = logit(video, video), int(told.present[video])
        if present >= 0:
            right.append(math.log1p(math.exp(-own if present else own)))
        sentences = [logit(video, (video + step) % count) for step in others[video]]
        wrong += [math.log1p(math.exp(each)) for each in sentences]
        videos = [
            logit((video - step) % count, video)
            for step in range(1, min(count, OTHERS + 1))
            if step in others[(video - step) % count]
        ]
        if present > 0:
            told_apart.append((contrast(own, sentences) + contrast(own, videos)) / 2)
    mean = [sum(x) / len(x) if x else 0.0 for x in (right, wrong, told_apart)]
    return sum(mean)


@pytest.mark.parametrize(
    "told",
    [
        sentences([1, 1, 1, 1], [1, 2, 3, 4]),
        sentences([1, 0, -1, 1], [1, 2, 1, 4]),  # equal sentences are no negatives
        sentences([-1, -1, -1, -1], [5, 5, 5, 5]),  # neither positives nor negatives
        sentences([1, 1, 0, 1], [1, 2, 3, 4], [[1, 3], [2, 4], [3, 0], [4, 0]]),
    ],
    ids=["all differ", "two equal", "all equal", "several of a video"],
)
def test_the_loss_is_what_it_says_it_is(told):
    generator = torch.Generator().manual_seed(0)
    clips, said = torch.randn(4, 5, 3, generator=generator), torch.randn(4, 3, generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 4])[:, None]
    found = existence_loss(prediction_of(clips, said), mask, told)
    assert float(found) == pytest.approx(slowly(clips, mask, said, told), abs=1e-5)


def test_a_large_batch_is_held_against_the_sentences_that_follow():
    count = OTHERS + 9
    generator = torch.Generator().manual_seed(0)
    clips, said = torch.randn(count, 1, 3, generator=generator), torch.randn(count, 3)
    mask = torch.ones(count, 1, dtype=torch.bool)
    told = sentences([1] * count, list(range(1, count + 1)))
    found = existence_loss(prediction_of(clips, said), mask, told)
    assert float(found) == pytest.approx(slowly(clips, mask, said, told), abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_is_one_graph_with_the_model(name):
    model, inputs = small(name, existence=True).eval(), draw(CLIPS, WORDS)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    close(compiled(*inputs).existence, model(*inputs).existence)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(ValueError, match="existence is -1"):
        KINDS["sdst"].loss(existence=-1)
