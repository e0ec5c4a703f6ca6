#!/usr/bin/env bash
# SA-GRPO with OpenRLHF 0.11.2: correctness + SAR from one or more reward servers.
#
#   recipes/grpo.sh MODEL [--dry-run] [more flags of openrlhf.cli.train_ppo_ray ...]
#
# MODEL: Qwen3-1.7B-Base, Qwen3-4B-Base, Phi-3.5-mini or Gemma-3-1B. Settings are the environment
# variables at the top of common.sh: REWARD_URLS, SAR_WEIGHT, DATA, OUTPUT, NUM_NODES, ...
#
# Departures from the paper (arXiv:2509.05489) and its authors' scripts:
# 1. SAR comes from the model that a server has loaded, and not from the policy of the same step,
#    unless the server follows the policy's checkpoints. With ON_POLICY=1 it is the policy's.
# 2. Losses are averaged over all tokens of an update. Theirs sums over a response's tokens and
#    divides by a constant: equal weights for all tokens too, at another scale.
# 3. 500 steps are made of equal passes over the data, in whole batches: 501 with three passes.
# 4. Trained with DeepSpeed ZeRO and packed sequences, and not with FSDP.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

read_arguments "$@"
flags=(
    # The group's mean is subtracted; nothing is divided by its standard deviation.
    --algo.advantage.estimator dr_grpo
    --algo.kl.use_loss
    --algo.kl.estimator k3
    --algo.kl.init_coef 0.001
    --ref.num_nodes "$NUM_NODES"
    --ref.num_gpus_per_node "$GPUS_PER_NODE"
)
launch grpo "${flags[@]}"
