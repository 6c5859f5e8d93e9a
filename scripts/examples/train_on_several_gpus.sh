#!/usr/bin/env bash
# Train on all GPUs of a machine: one process per GPU, and every batch divided among them.
#
#     scripts/examples/train_on_several_gpus.sh MY_CLIPS outputs/joint fgvc-joint
#
# The result does not depend on the number of processes; statistics of batch normalisation are synchronised. Killed at any moment and started
# again, training resumes from the last checkpoint. PROCESSES=N sets their number; without a GPU they share the CPU, to try the command out.
set -euo pipefail
videos=$1 output=$2 teacher=$3
shift 3
gpus=$(python -c "import torch; print(torch.cuda.device_count())")
processes=${PROCESSES:-$((gpus > 0 ? gpus : 2))}
precision=$( ((gpus > 0)) && echo bf16 || echo no)

torchrun --standalone --nproc_per_node "$processes" "$(dirname "$0")/../train.py" --recipe joint --videos "$videos" --output "$output" \
    --start-from "$teacher" --teacher "$teacher" --precision "$precision" "$@"
