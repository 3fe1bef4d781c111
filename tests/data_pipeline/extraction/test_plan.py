"""The plan of shards follows from the annotations alone."""

from data_pipeline.annotations import Annotation
from data_pipeline.config import ShardingConfig
from data_pipeline.extraction.plan import SENTENCES, plan_sentences, plan_shards


def rows(count: int, duration: float = 20.0) -> list[Annotation]:
    return [Annotation(n, f"query {n}", f"v{n // 2}", duration) for n in range(count)]


def test_every_query_is_planned_once_with_its_video() -> None:
    shards = plan_shards(rows(21), ShardingConfig(videos=4), 2.0)
    assert [len(shard.videos) for shard in shards] == [4, 4, 3]
    assert [shard.name for shard in shards] == ["00000", "00001", "00002"]
    planned = [a.qid for shard in shards for video in shard.videos for a in video.annotations]
    assert sorted(planned) == list(range(21))


def test_videos_keep_their_shard_mates_whatever_the_order_of_the_rows() -> None:
    sharding = ShardingConfig(videos=4)
    forward, backward = (
        plan_shards(rows(21), sharding, 2.0),
        plan_shards(rows(21)[::-1], sharding, 2.0),
    )
    assert [[v.vid for v in s.videos] for s in forward] == [
        [v.vid for v in s.videos] for s in backward
    ]


def test_a_sentence_is_planned_ahead_once_if_several_rows_share_it_and_else_not_at_all() -> None:
    shared = 2 * SENTENCES + 5
    given = [
        Annotation(n, f"shared {n % shared}" if n < 3 * shared else f"own {n}", f"v{n}", 20.0)
        for n in range(4 * shared)
    ]
    shards = plan_shards(given, ShardingConfig(videos=7), 2.0)
    planned = plan_sentences(shards)
    assert [len(group.sentences) for group in planned] == [SENTENCES, SENTENCES, 5]
    sentences = [sentence for group in planned for sentence in group.sentences]
    assert sorted(sentences) == sorted(f"shared {n}" for n in range(shared))
    for shard in shards:
        queries = {row.query for video in shard.videos for row in video.annotations}
        assert shard.repeated.keys() == {query for query in queries if query.startswith("shared")}
        assert all(sentences[number] == query for query, number in shard.repeated.items())


def test_long_videos_fill_a_shard_sooner() -> None:
    shards = plan_shards(rows(8), ShardingConfig(clips=25), 2.0)
    assert [len(shard.videos) for shard in shards] == [2, 2]
    assert [len(s.videos) for s in plan_shards(rows(4, 1e4), ShardingConfig(clips=25), 2.0)] == [
        1,
        1,
    ]
