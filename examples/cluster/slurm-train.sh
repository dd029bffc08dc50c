#!/usr/bin/env bash
# Train a recipe on several nodes of a SLURM cluster, each batch shared by all processes:
#
#     sbatch slurm-train.sh RECIPE DATA RUN [--set KEY=VALUE ...]
#     sbatch --nodes 4 --gpus-per-node 2 slurm-train.sh RECIPE DATA RUN
#
# RECIPE, DATA and RUN have to be seen by all nodes under the same name, and superfine with the extra `train` has to be
# installed on all; VENV=FOLDER names its virtual environment. One process for each GPU, or one a node where there are
# none; PROCESSES=N says otherwise. The number of processes has to divide the recipe's batch.
#SBATCH --job-name=superfine-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail
recipe=${1:?RECIPE is missing} data=${2:?DATA is missing} run=${3:?RUN is missing}
shift 3
if [ -n "${VENV:-}" ]; then PATH=$VENV/bin:$PATH; fi
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes%%$'\n'*}
# Without it, torchrun 2.13 may tell the processes that it starts anew where those before them were to be met.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

status=0
# SLURM starts one torchrun on each node, and torchrun the processes: it starts them anew where one is lost.
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}" --max-restarts 3 \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:$((20000 + SLURM_JOB_ID % 10000))" \
    -- -m superfine train "$recipe" --data "$data" --run "$run" --resume "$@" || status=$?

# SIGTERM, two or three minutes before the time is up, has let the run save its state: the job queues again and goes on.
ends=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %e || true)
# Whose time has no end, or isn't told, doesn't run out of it: else whatever fails would queue again for ever.
ends=$(date --date "${ends:-none}" +%s 2> /dev/null || date --date tomorrow +%s)
if [ "$status" -ne 0 ] && [ $((ends - $(date +%s))) -lt 240 ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
