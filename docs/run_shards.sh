#!/usr/bin/env bash
# One run over several machines: docs/run_shards.sh RUN_FOLDER HOST [HOST ...] -- OPTIONS_OF_REPRODUCE
#
# Every host (or "localhost", without ssh) does its share of each long step in a run folder of its own; this
# machine leads: it trains, hands out the run folder and merges the shares. All hosts need the repository at
# the same commit and path, with its environment; other hosts rsync too. A stopped call goes on when it is made again.
set -euo pipefail
cd "$(dirname "$0")/.."

run=$1; shift
hosts=()
while [ "$1" != "--" ]; do hosts+=("$1"); shift; done
shift
count=${#hosts[@]}
grlib="${PYTHON:-.venv/bin/python} -m grlib"

share() {  # number, host: do one share, and fetch what it made
  local folder="$run.shard$1" at="" code=0
  local command="cd $PWD && $grlib reproduce --run-dir $folder --shard $1/$count ${*:3}"
  if [ "$2" = localhost ]; then
    mkdir -p "$folder" && cp -a "$run/." "$folder/" && rm -f "$folder/lock"
    bash -c "$command" || code=$?
  else
    at="$2:"
    rsync -a --exclude lock "$run/" "$at$PWD/$folder/"
    ssh "$2" "$command" || code=$?
    rsync -a --exclude lock "$at$PWD/$folder/" "$folder/"
  fi
  [ $code = 0 ] || [ $code = 8 ] || { echo "share $1 on $2 ended with code $code" >&2; return "$code"; }
}

while true; do
  code=0
  $grlib reproduce --run-dir "$run" --shard "0/$count" "$@" || code=$?
  [ $code = 8 ] || exit $code  # 0: done; others: a real failure
  jobs=()
  for i in "${!hosts[@]}"; do
    share $((i + 1)) "${hosts[$i]}" "$@" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job"; done
  $grlib merge-shards --run-dir "$run" $(printf "$run.shard%s " $(seq "$count"))
done
