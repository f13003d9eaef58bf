#!/usr/bin/env bash
# A verb as a job, by variables: the same places for all of them, so that one follows the other. A job that is started again
# continues, for what it wrote lies in $STORE and not with it.
#   STORE=s3://bucket/project RUN=a bash cluster/job.sh train
# Further arguments go to the verb: bash cluster/job.sh train --set train.steps=20000
set -euo pipefail

verb="${1:?which verb? demo world index validate prepare train evaluate probe prototypes export predict archive view report sweep doctor}"
shift
: "${STORE:?where everything lies: s3://BUCKET/PREFIX, or a folder that every node mounts}"
DATASET="${DATASET:-nuscenes}"         # index: name of the data set
ROOT="${ROOT:-$STORE/$DATASET}"        # index: its root
INDEX="${INDEX:-$STORE/index.parquet}" # what index writes
PREPARED="${PREPARED:-$STORE/prepared}"
MASKS="${MASKS:-}"                     # prepare: slic, sam
FEATURES="${FEATURES:-}"               # prepare: clip, timm
RECIPE="${RECIPE:-demo}"               # train, sweep
WORKERS="${WORKERS:-2}"                # train: one for each GPU
RUN="${RUN:-first}"                    # the run's name: train and all that read it
STUDY="${STUDY:-label_efficiency}"     # sweep
SPLIT="${SPLIT:-val}"                  # predict
run="$STORE/runs/$RUN"

case "$verb" in
  demo) set -- --out "$STORE/demo" "$@" ;;
  world) set -- --out "$ROOT" "$@" ;;
  index) set -- "$DATASET" "$ROOT" --out "$INDEX" "$@" ;;
  validate) set -- "$INDEX" "$@" ;;
  prepare) set -- "$INDEX" --out "$PREPARED" ${MASKS:+--masks "$MASKS"} ${FEATURES:+--features "$FEATURES"} "$@" ;;
  train) set -- "$RECIPE" --set "data.prepared=$PREPARED" --set "workers.num_workers=$WORKERS" --run "$run" "$@" ;;
  evaluate) set -- "$run" "$@" ;;
  probe) set -- "$run" --out "$STORE/probes/$RUN" "$@" ;;
  prototypes) set -- --out "$STORE/prototypes.npz" --dataset "$DATASET" ${FEATURES:+--features "$FEATURES"} "$@" ;;
  export) set -- "$run" --out "$STORE/export/$RUN" "$@" ;;
  predict) set -- "$run" --index "$INDEX" --split "$SPLIT" --out "$STORE/predictions/$RUN" "$@" ;;
  archive) set -- "$STORE/predictions/$RUN" --index "$INDEX" --out "$STORE/predictions/$RUN.zip" "$@" ;;
  view) set -- "$STORE/predictions/$RUN" --out "$STORE/view/$RUN.html" "$@" ;;
  report) set -- "$run" --out "$STORE/report/$RUN.html" "$@" ;;
  sweep) set -- "$STUDY" --recipe "$RECIPE" --set "data.prepared=$PREPARED" --out "$STORE/sweeps/$STUDY" "$@" ;;
  doctor) set -- --address auto --storage "$STORE" "$@" ;;
  *) ;; # the command line knows what there is
esac
exec python -m ray_lidarseg.cli "$verb" "$@"
