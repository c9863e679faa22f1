#!/bin/sh
# The start of a rented container, for an image of your own that has mlsync and the training (docs/containers.md).
# RunPod: "Container Start Command" is  sh /workspace/rented.sh  .  Vast: the same line as "On-start Script".
# The variables belong into the template's environment; keep passphrase and keys among its secrets:
#   MLSYNC_REPOSITORY=s3://bucket/yolo  MLSYNC_PASSPHRASE=…  AWS_ACCESS_KEY_ID=…  AWS_SECRET_ACCESS_KEY=…
set -e
RUNS=/workspace/runs
mlsync init --if-missing --watch "$RUNS"
# RunPod leaves 5 s from SIGTERM to SIGKILL, of which mlsync run takes 4, Vast none: checkpoints are stored as they come, not at the end.
# exec: the signal reaches mlsync itself. The restored files count before what is on this machine only if they are newer.
exec mlsync run --watch "$RUNS" -- python /workspace/train.py --output "$RUNS"
