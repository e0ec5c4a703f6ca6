# shellcheck shell=bash disable=SC2034
# Gemma-3-1B: 1.0B parameters, vocabulary 262,144. Instruct: the base one has no chat template.
# Read by common.sh; each can be set from outside.
: "${MODEL_PATH:=google/gemma-3-1b-it}"  # folder or hub id
: "${ZERO_STAGE:=2}"                     # DeepSpeed ZeRO: 2 splits gradients, 3 weights too
: "${TENSOR_PARALLEL:=1}"                # GPUs that share one vLLM engine
: "${VLLM_MEMORY:=0.65}"                 # share of a GPU that vLLM takes to generate
: "${TOKENS_PER_GPU:=8192}"              # in a forward pass; their logits must fit
