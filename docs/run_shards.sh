#!/usr/bin/env bash
# One run over several machines: docs/run_shards.sh RUN_FOLDER HOST [HOST ...] -- OPTIONS_OF_REPRODUCE
#
# Every host (or "localhost", without ssh) does its share of each long step in a copy of the run folder; this
# machine leads: it trains, hands out the run folder and merges the shares. All hosts need the repository at
# the same commit and path, with its environment; other hosts rsync too. RUN_FOLDER is relative to the
# repository. A stopped call goes on when it is made again; only the shares then at work are done once more.
set -euo pipefail
cd "$(dirname "$0")/.."

[[ " ${*:3} " == *" -- "* ]] || { echo "usage: docs/run_shards.sh RUN_FOLDER HOST [HOST ...] -- OPTIONS" >&2; exit 2; }
run=${1%/}; shift
hosts=()
while [ "$1" != "--" ]; do hosts+=("$1"); shift; done
shift
for option in "$@"; do
  [ "$option" != "--force" ] || { echo "--force would do every step again, for ever" >&2; exit 2; }
done
count=${#hosts[@]}
python=${PYTHON:-.venv/bin/python}

share() {  # number, host, options: do one share of what is handed out, and fetch it
  local number=$1 host=$2 folder="$run.shard$1" code=0 command
  shift 2
  printf -v command '%q ' "$python" -m grlib reproduce --run-dir "$folder" --shard "$number/$count" "$@"
  rm -rf "$folder"
  cp -a "$run" "$folder"
  rm -f "$folder/lock"
  if [ "$host" = localhost ]; then
    bash -c "$command" || code=$?
  else
    ssh "$host" "mkdir -p $(printf %q "$PWD/$folder")"
    rsync -a --delete "$folder/" "$host:$PWD/$folder/"
    ssh "$host" "cd $(printf %q "$PWD") && $command" || code=$?
    rsync -a --exclude lock "$host:$PWD/$folder/" "$folder/"
  fi
  [ $code = 0 ] || [ $code = 8 ] || { echo "share $number on $host ended with code $code" >&2; return $code; }
}

while true; do
  code=0
  "$python" -m grlib reproduce --run-dir "$run" --shard "0/$count" "$@" || code=$?
  [ $code = 8 ] || exit $code  # 0: done; others: a real failure
  jobs=()
  folders=()
  for i in "${!hosts[@]}"; do
    ( set -e; share $((i + 1)) "${hosts[$i]}" "$@" ) &
    jobs+=($!)
    folders+=("$run.shard$((i + 1))")
  done
  failed=0
  for job in "${jobs[@]}"; do wait "$job" || failed=$?; done
  [ $failed = 0 ] || exit $failed
  "$python" -m grlib merge-shards --run-dir "$run" "${folders[@]}"
done
