# What the Ray cluster's head runs: every split in turn. What is there already is kept, so a retry
# does only what is missing. It waits for annotations that are still being copied.
# ENCODERS and DECODERS: how many to ask the cluster for, where it grows; default: what has room.
# METRICS: host:port for Prometheus; default: none.
set -e
for split in $SPLITS; do
    until [ -f "$ANNOTATIONS/$split.jsonl" ]; do
        echo "waiting for $ANNOTATIONS/$split.jsonl"
        sleep 15
    done
    python -m launch.extract --config /etc/sdst/extraction.yaml \
        --annotations "$ANNOTATIONS/$split.jsonl" --videos "$VIDEOS" \
        --output "$FEATURES/$split" --split "$split" \
        ${ENCODERS:+--workers "$ENCODERS"} ${DECODERS:+--decoders "$DECODERS"} \
        ${METRICS:+--tracking.prometheus "$METRICS"}
done
