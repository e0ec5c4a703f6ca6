# shellcheck shell=bash disable=SC2034
# Qwen3-1.7B-Base: 1.7B parameters, vocabulary 151,936.
# Read by common.sh; each can be set from outside.
: "${MODEL_PATH:=Qwen/Qwen3-1.7B-Base}"  # folder or hub id
: "${ZERO_STAGE:=2}"                     # DeepSpeed ZeRO: 2 splits gradients, 3 weights too
: "${TENSOR_PARALLEL:=1}"                # GPUs that share one vLLM engine
: "${VLLM_MEMORY:=0.65}"                 # share of a GPU that vLLM takes to generate
: "${TOKENS_PER_GPU:=16384}"             # in a forward pass; their logits must fit
