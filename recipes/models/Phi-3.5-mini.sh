# shellcheck shell=bash disable=SC2034
# Phi-3.5-mini: 3.8B parameters, vocabulary 32,064. There is only an instruct model.
# Read by common.sh; each can be set from outside.
: "${MODEL_PATH:=microsoft/Phi-3.5-mini-instruct}"  # folder or hub id
: "${ZERO_STAGE:=3}"                                # DeepSpeed ZeRO: 2 splits gradients, 3 weights too
: "${TENSOR_PARALLEL:=1}"                           # GPUs that share one vLLM engine
: "${VLLM_MEMORY:=0.65}"                            # share of a GPU that vLLM takes to generate
: "${TOKENS_PER_GPU:=16384}"                        # in a forward pass; their logits must fit
