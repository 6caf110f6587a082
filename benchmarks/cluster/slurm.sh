#!/bin/bash
# Rollout workers on all GPUs of an allocation but one, which the trainer keeps.
#
#   sbatch --nodes=3 --gpus-per-node=8 benchmarks/cluster/slurm.sh model=FOLDER data=FILE out=runs/big [key=value ...]
#
# The same run goes on when the job is submitted again: a run folder that is there is resumed.
#SBATCH --job-name=taut
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120

set -euo pipefail
cd "${SLURM_SUBMIT_DIR}"
. .venv/bin/activate

gpus=${SLURM_GPUS_ON_NODE:-0}
nodes=$(scontrol show hostnames "${SLURM_JOB_NODELIST}")
head=$(head -n 1 <<< "${nodes}")
address="$(srun --nodes=1 --ntasks=1 -w "${head}" hostname --ip-address | awk '{print $1}'):6379"
rest=$(seq -s, 1 $((gpus - 1)))

srun --nodes=1 --ntasks=1 --overlap -w "${head}" \
    env CUDA_VISIBLE_DEVICES="${rest}" ray start --head --port=6379 --block &
ray=$!
for node in $(tail -n +2 <<< "${nodes}"); do
    srun --nodes=1 --ntasks=1 --overlap -w "${node}" ray start --address="${address}" --block &
done
until ray status --address="${address}" > /dev/null 2>&1; do
    if ! kill -0 "${ray}" 2> /dev/null; then
        echo "Ray did not start on ${head} (its reason is above); is port 6379 in use there? Give another in ${BASH_SOURCE[0]}" >&2
        exit 1
    fi
    sleep 2
done

out=runs/slurm
for setting in "$@"; do
    case "${setting}" in out=*) out=${setting#out=} ;; esac
done
workers=$((gpus * SLURM_JOB_NUM_NODES - 1))
if [ -e "${out}/config.yaml" ]; then
    settings=("resume=${out}")
else
    settings=("out=${out}" mode=async max_staleness=2 objective.importance=truncate "$@")
fi
# Slurm's TERM goes to this shell: pass it on, so that the trainer writes a checkpoint and ends.
CUDA_VISIBLE_DEVICES=0 taut train "${settings[@]}" "cluster=${address}" "rollout.workers=${workers}" &
trainer=$!
trap 'kill -TERM "${trainer}"' TERM
code=0
wait "${trainer}" || code=$?
if kill -0 "${trainer}" 2> /dev/null; then wait "${trainer}" || code=$?; fi
exit "${code}"
