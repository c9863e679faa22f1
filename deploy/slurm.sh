#!/bin/bash
# A training under Slurm that goes on after preemption and after its time limit: sbatch deploy/slurm.sh
# Replace the bucket, the directory and the training's command. The passphrase is in a file of mode 0600 in your home.
#SBATCH --job-name=yolo
#SBATCH --gres=gpu:1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# SIGTERM two minutes before the time limit, to the step that srun starts (without "B:"), so that mlsync hears it. A
# preemption sends SIGTERM by itself; how long it leaves is the partition's GraceTime (scontrol show partition).
#SBATCH --signal=TERM@120

export MLSYNC_REPOSITORY=s3://bucket/yolo
export MLSYNC_KEY_PASSPHRASE_FILE="$HOME/.config/mlsync/passphrase"

mlsync init --if-missing --watch "$HOME/yolo/runs"
# One task: it restores what is newer in the bucket, trains, and stores what is there at the end.
srun --ntasks=1 mlsync run --watch "$HOME/yolo/runs" --grace 100s -- python train.py --output "$HOME/yolo/runs"
status=$?
# Ended by a signal: the time was over. The same job is put into the queue again.
if [ "$status" -gt 128 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
