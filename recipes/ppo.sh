#!/usr/bin/env bash
# SA-PPO with OpenRLHF 0.11.2: correctness + SAR from one or more reward servers.
#
#   recipes/ppo.sh MODEL [--dry-run] [more flags of openrlhf.cli.train_ppo_ray ...]
#
# MODEL: Qwen3-1.7B-Base, Qwen3-4B-Base, Phi-3.5-mini or Gemma-3-1B. Settings are the environment
# variables at the top of common.sh: REWARD_URLS, SAR_WEIGHT, DATA, OUTPUT, NUM_NODES, ...
#
# Departures from the paper (arXiv:2509.05489) and its authors' scripts:
# 1. SAR comes from the model that a server has loaded, and not from the policy of the same step,
#    unless the server follows the policy's checkpoints. With ON_POLICY=1 it is the policy's.
# 2. Six responses to a prompt, as the paper says; the authors' PPO scripts leave it at verl's one
#    (N_SAMPLES=1, and then a mini-batch is 64 rollouts).
# 3. 500 steps are made of equal passes over the data, in whole batches: 501 with three passes.
# 4. Trained with DeepSpeed ZeRO and packed sequences, and not with FSDP.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

read_arguments "$@"
flags=(
    --algo.advantage.estimator gae
    --algo.advantage.gamma 1
    --algo.advantage.lambd 1
    # Without KL there is no reference model either.
    --algo.kl.init_coef 0
    --critic.model_name_or_path "$MODEL_PATH"
    --critic.num_nodes "$NUM_NODES"
    --critic.num_gpus_per_node "$GPUS_PER_NODE"
    --critic.adam.lr 2e-6
    --critic.adam.betas 0.9 0.999
    --critic.adam.weight_decay 0.01
    --critic.lr_scheduler constant
    --critic.lr_warmup_ratio 0
    --critic.value_clip 0.5
)
launch ppo "${flags[@]}"
