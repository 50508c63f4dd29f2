#!/usr/bin/env bash
# One run on a Slurm cluster: docs/run_slurm.sh RUN_FOLDER COUNT -- OPTIONS_OF_REPRODUCE
#
# A job leads: it trains. Each time it needs samples, an array of COUNT jobs does a share of each long step in
# copies of the run folder, on the file system that all nodes see, and this script merges them. SLURM_OPTIONS
# is what each job asks for (--gres=gpu:4 --cpus-per-task=32); a share must end within its partition's time.
# A stopped call cancels its jobs and goes on when it is made again; only the shares then at work are done
# once more.
set -euo pipefail
cd "$(dirname "$0")/.."

[ "${3:-}" = "--" ] || { echo "usage: docs/run_slurm.sh RUN_FOLDER COUNT -- OPTIONS" >&2; exit 2; }
run=${1%/} count=$2
shift 3
for option in "$@"; do
  [ "$option" != "--force" ] || { echo "--force would do every step again, for ever" >&2; exit 2; }
done
python=${PYTHON:-.venv/bin/python}
read -r -a asked <<< "--job-name=grlib-$$ ${SLURM_OPTIONS:---gres=gpu:4 --cpus-per-task=32}"
trap 'scancel --name="grlib-$$"' EXIT
printf -v share '%q ' "$python" -m grlib reproduce "$@"
share+="--run-dir $(printf %q "$run").shard\$SLURM_ARRAY_TASK_ID --shard \$SLURM_ARRAY_TASK_ID/$count"

while true; do
  code=0
  srun --ntasks=1 "${asked[@]}" "$python" -m grlib reproduce "$@" --run-dir "$run" --shard "0/$count" || code=$?
  [ $code = 8 ] || exit $code  # 0: done; others: a real failure
  folders=()
  for i in $(seq "$count"); do
    rm -rf "$run.shard$i"
    cp -a "$run" "$run.shard$i"
    rm -f "$run.shard$i/lock"
    folders+=("$run.shard$i")
  done
  sbatch --wait --array="1-$count" "${asked[@]}" --wrap "$share; code=\$?; [ \$code = 0 ] || [ \$code = 8 ]"
  "$python" -m grlib merge-shards --run-dir "$run" "${folders[@]}"
done
