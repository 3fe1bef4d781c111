#!/bin/bash
# Submit the whole way, each job when those before it have succeeded: features of every split, a
# training on them, its evaluation. Arguments are further ones of the training:
#     RUN=first launch/slurm/pipeline.sh --epochs 20
# The same command again does what is missing. The variables, with what they are by default:
ANNOTATIONS=${ANNOTATIONS:-data/quickstart}            # folder of <split>.jsonl
VIDEOS=${VIDEOS:-$ANNOTATIONS/videos}                  # folder or bucket
FEATURES=${FEATURES:-$ANNOTATIONS/features}            # where <split>/ of every split goes
TRAIN=${TRAIN:-train} SELECTION=${SELECTION:-dev} REPORT=${REPORT:-val}  # which split is for what
EXTRACTION=${EXTRACTION:-configs/extract/quickstart.yaml}
EXPERIMENT=${EXPERIMENT:-configs/quickstart.yaml}
RUNS=${RUNS:-runs}
RUN=${RUN:-slurm}
# Flags of sbatch for each job; what all need stands in SBATCH_PARTITION, SBATCH_ACCOUNT and so on.
EXTRACT_FLAGS=${EXTRACT_FLAGS:-}
TRAIN_FLAGS=${TRAIN_FLAGS:-}
EVALUATE_FLAGS=${EVALUATE_FLAGS:-}

set -euo pipefail
here=$(dirname "$0")
read -ra extract_flags <<< "$EXTRACT_FLAGS"
read -ra train_flags <<< "$TRAIN_FLAGS"
read -ra evaluate_flags <<< "$EVALUATE_FLAGS"
for file in "$EXTRACTION" "$EXPERIMENT" "$ANNOTATIONS"/{"$TRAIN","$SELECTION","$REPORT"}.jsonl; do
    if [[ $file != *://* && ! -f $file ]]; then
        echo "error: $file: no such file; set the variables at the top of $0" >&2
        exit 2
    fi
done
training=(--config "$EXPERIMENT" --runs "$RUNS" --name "$RUN"
    --data.train "$FEATURES/$TRAIN" --data.selection "$FEATURES/$SELECTION"
    --data.report "$FEATURES/$REPORT" "$@")

check() {  # MODULE CLASS FLAGS… : refuse a mistaken setting now, not when the extraction is done
    python -c "
import sys
from trainer.cli import command, parse_config
from $1 import $2 as schema
sys.exit(command(lambda args: parse_config(schema, args) and 0)(sys.argv[1:]))" "${@:3}"
}
if python -c "import jsonargparse" 2> /dev/null; then  # not where the packages are in a container
    check launch.extract Command --config "$EXTRACTION" --videos "$VIDEOS" \
        --annotations "$ANNOTATIONS/$TRAIN.jsonl" --output "$FEATURES/$TRAIN"
    check trainer.config Config "${training[@]}"
fi

submit() {  # NAME FLAGS… : submit a job that is cancelled if what it waits for fails; its number
    local name=$1 number
    number=$(sbatch --parsable --kill-on-invalid-dep=yes --job-name="$name" "${@:2}") || return
    echo "${number%%;*}"  # the name of a cluster may follow
}

waits=()
for split in "$TRAIN" "$SELECTION" "$REPORT"; do
    number=$(submit "$RUN-extract-$split" ${extract_flags[@]+"${extract_flags[@]}"} \
        "$here/extract.sbatch" --config "$EXTRACTION" --split "$split" \
        --annotations "$ANNOTATIONS/$split.jsonl" --videos "$VIDEOS" --output "$FEATURES/$split")
    waits+=("$number")
    echo "extraction of $split: job $number"
done
after=$(IFS=:; echo "${waits[*]}")
number=$(submit "$RUN-train" --dependency="afterok:$after" \
    ${train_flags[@]+"${train_flags[@]}"} "$here/train.sbatch" "${training[@]}")
echo "training: job $number"
number=$(submit "$RUN-evaluate" --dependency="afterok:$number" --nodes=1 \
    ${evaluate_flags[@]+"${evaluate_flags[@]}"} "$here/train.sbatch" \
    --checkpoint "$RUNS/$RUN" --eval --dump)
echo "evaluation: job $number"
