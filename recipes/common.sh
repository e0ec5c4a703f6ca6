# shellcheck shell=bash
# What grpo.sh and ppo.sh share: settings, checks, the command. Sourced, not run.
#
# Settings, each an environment variable; those of a model are in models/MODEL.sh.
#
#   REWARD_URLS      reward servers, with commas between them; a key goes in as the password:
#                    http://any:KEY@host:5000/get_reward
#   SAR_WEIGHT       the weight of SAR that the servers must have; 0 is the correctness-only
#                    baseline. It is the servers' setting (--sar-weight): here it is only checked.
#                    Unset: any.
#   ON_POLICY        1: vLLM scores its own rollouts for SAR (openrlhf_agent.py), and the servers,
#                    which may have any model, give correctness only; SAR_WEIGHT (then 0.2 where it
#                    is unset) goes to the agent, and SYSTEM_PROMPT where the data has another
#   SERVER_MODEL     the model the servers must name, where it is not the policy's (a copy's name)
#   DATA             folder of prepare_data.py, with train.jsonl and eval.jsonl
#   OUTPUT           folder for checkpoints and logs; a run that is started again goes on from there
#   NUM_NODES        machines of the Ray cluster
#   GPUS_PER_NODE    GPUs to train on, on each
#   RAY_ADDRESS      dashboard of a running Ray cluster, http://HEAD:8265, to which the run is
#                    submitted as a job; empty: this machine alone. On a cluster, MODEL_PATH, DATA
#                    and OUTPUT must be there under the same paths on every node
#   STEPS            training steps, of 128 prompts each, up to what whole passes over the data make
#   N_SAMPLES        responses to each prompt
#   SAVE_STEPS       steps between checkpoints, OUTPUT/checkpoints/global_step{N}_hf
#   EVAL_STEPS       steps between evaluations, greedy, on eval.jsonl
#   SEED
#   PYTHON           the interpreter that has openrlhf

RECIPES=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly RECIPES
: "${REWARD_URLS:=http://127.0.0.1:5000/get_reward}"
: "${SAR_WEIGHT:=}"
: "${ON_POLICY:=0}"
: "${SERVER_MODEL:=}"
: "${DATA:=data}"
: "${NUM_NODES:=1}"
: "${GPUS_PER_NODE:=8}"
: "${RAY_ADDRESS:=}"
: "${STEPS:=500}"
: "${N_SAMPLES:=6}"
: "${SAVE_STEPS:=50}"
: "${EVAL_STEPS:=100}"
: "${SEED:=42}"
: "${PYTHON:=python}"

# Of the paper, for all models and both algorithms; a mini-batch is in prompts.
readonly BATCH_PROMPTS=128 MINI_BATCH_PROMPTS=64
readonly PROMPT_TOKENS=1024 RESPONSE_TOKENS=4096

fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

# read_arguments MODEL [--dry-run] [flags of OpenRLHF ...]: loads the model's settings.
read_arguments() {
    local known
    known=$(basename -s .sh -- "$RECIPES"/models/*.sh | paste -sd, - | sed 's/,/, /g')
    [[ $# -gt 0 ]] || fail "which model? One of $known: ${0##*/} MODEL [--dry-run] [flags]"
    MODEL=$1
    shift
    [[ -f $RECIPES/models/$MODEL.sh ]] || fail "no settings for the model '$MODEL'; there are $known"
    # shellcheck disable=SC1090  # one of models/*.sh
    source "$RECIPES/models/$MODEL.sh"
    DRY_RUN=
    MORE_FLAGS=()
    local argument
    for argument; do
        if [[ $argument == --dry-run ]]; then DRY_RUN=1; else MORE_FLAGS+=("$argument"); fi
    done
    local name
    for name in NUM_NODES GPUS_PER_NODE STEPS N_SAMPLES SAVE_STEPS EVAL_STEPS TENSOR_PARALLEL \
        TOKENS_PER_GPU; do
        [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "$name='${!name}' is not a positive whole number"
    done
    [[ $ON_POLICY == [01] ]] || fail "ON_POLICY='$ON_POLICY' is neither 0 nor 1"
    [[ $ON_POLICY == 0 || -n $SAR_WEIGHT ]] || SAR_WEIGHT=0.2
    [[ $SAR_WEIGHT =~ ^([-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?)?$ ]] ||
        fail "SAR_WEIGHT='$SAR_WEIGHT' is not a number"
    NUM_GPUS=$((NUM_NODES * GPUS_PER_NODE))
    ROLLOUTS_PER_UPDATE=$((MINI_BATCH_PROMPTS * N_SAMPLES))
    ((ROLLOUTS_PER_UPDATE % NUM_GPUS == 0)) || fail "$NUM_GPUS GPUs cannot share the \
$ROLLOUTS_PER_UPDATE rollouts of an update evenly; choose a GPUS_PER_NODE that divides them"
    ((NUM_GPUS % TENSOR_PARALLEL == 0)) ||
        fail "TENSOR_PARALLEL=$TENSOR_PARALLEL does not divide the $NUM_GPUS GPUs"
    ((TOKENS_PER_GPU >= PROMPT_TOKENS + RESPONSE_TOKENS)) || fail "TOKENS_PER_GPU=$TOKENS_PER_GPU \
cannot hold one rollout of $((PROMPT_TOKENS + RESPONSE_TOKENS)) tokens"
    [[ -z $RAY_ADDRESS || $RAY_ADDRESS == http*://* ]] ||
        fail "RAY_ADDRESS='$RAY_ADDRESS' is not the dashboard's address, such as http://HEAD:8265"
    [[ -n $RAY_ADDRESS || $NUM_NODES == 1 ]] ||
        fail "NUM_NODES=$NUM_NODES needs a Ray cluster: set RAY_ADDRESS to its http://HEAD:8265"
}

# count_steps: NUM_EPISODES passes of NUM_PROMPTS make STEPS steps, or up to a pass's worth more.
count_steps() {
    local file
    for file in train.jsonl eval.jsonl; do
        [[ -s $DATA/$file ]] || fail "DATA=$DATA has no $file; make it: \
python recipes/prepare_data.py --output $DATA"
    done
    local prompts steps_in_data steps_per_episode
    prompts=$(wc -l <"$DATA/train.jsonl")
    steps_in_data=$((prompts / BATCH_PROMPTS))
    ((steps_in_data > 0)) ||
        fail "$DATA/train.jsonl has $prompts prompts, and a step takes $BATCH_PROMPTS"
    NUM_EPISODES=$(((STEPS + steps_in_data - 1) / steps_in_data))
    # Equal passes of whole batches: OpenRLHF counts passes and not steps.
    steps_per_episode=$(((STEPS + NUM_EPISODES - 1) / NUM_EPISODES))
    NUM_PROMPTS=$((steps_per_episode * BATCH_PROMPTS))
}

# launch ALGORITHM FLAG...: checks the servers, then trains; --dry-run prints the command only.
launch() {
    local algorithm=$1
    shift
    count_steps
    local data output name=$algorithm-$MODEL${SAR_WEIGHT:+-sar$SAR_WEIGHT}
    local rewards=(--reward.remote_url "$REWARD_URLS") environment=()
    if [[ $ON_POLICY == 1 ]]; then
        name+=-on-policy
        rewards=(--train.agent_func_path "$RECIPES/openrlhf_agent.py")
        environment=(REWARD_URLS="$REWARD_URLS" SAR_WEIGHT="$SAR_WEIGHT" PYTHONPATH="$(python_path)")
        [[ -z ${SYSTEM_PROMPT+set} ]] || environment+=(SYSTEM_PROMPT="$SYSTEM_PROMPT")
    fi
    data=$(realpath -- "$DATA")
    output=$(realpath -m -- "${OUTPUT:-runs/$name}")
    local command=(
        "$PYTHON" -m openrlhf.cli.train_ppo_ray
        --actor.model_name_or_path "$MODEL_PATH"
        "${rewards[@]}"
        "$@"

        --data.prompt_dataset "$data/train.jsonl"
        --data.prompt_split train
        --data.input_key prompt
        --data.label_key label
        --data.apply_chat_template
        --data.max_samples "$NUM_PROMPTS"
        --data.max_len $((PROMPT_TOKENS + RESPONSE_TOKENS))
        --eval.dataset "$data/eval.jsonl"
        --eval.split train
        --eval.steps "$EVAL_STEPS"
        --eval.temperature 0
        --eval.n_samples_per_prompt 1

        --rollout.batch_size "$BATCH_PROMPTS"
        --rollout.n_samples_per_prompt "$N_SAMPLES"
        --rollout.max_new_tokens "$RESPONSE_TOKENS"
        --rollout.temperature 1
        --rollout.top_p 1
        --train.batch_size "$ROLLOUTS_PER_UPDATE"
        --train.num_episodes "$NUM_EPISODES"
        --train.max_epochs 1
        --train.seed "$SEED"
        --actor.adam.lr 1e-6
        --actor.adam.betas 0.9 0.999
        --actor.adam.weight_decay 0.01
        --actor.lr_scheduler constant
        --actor.lr_warmup_ratio 0
        --actor.eps_clip 0.2
        --actor.loss_agg_mode token-mean

        --actor.num_nodes "$NUM_NODES"
        --actor.num_gpus_per_node "$GPUS_PER_NODE"
        --actor.gradient_checkpointing_enable
        --train.colocate_all
        --ds.enable_sleep
        --ds.zero_stage "$ZERO_STAGE"
        --ds.param_dtype bf16
        --ds.attn_implementation flash_attention_2
        --ds.packing_samples
        --train.dynamic_batch_enable
        --train.max_tokens_per_gpu "$TOKENS_PER_GPU"
        --rollout.max_tokens_per_gpu "$TOKENS_PER_GPU"
        --vllm.num_engines $((NUM_GPUS / TENSOR_PARALLEL))
        --vllm.tensor_parallel_size "$TENSOR_PARALLEL"
        --vllm.gpu_memory_utilization "$VLLM_MEMORY"
        --vllm.enable_sleep

        --ckpt.path "$output/checkpoints"
        --ckpt.output_dir "$output/final"
        --ckpt.save_steps "$SAVE_STEPS"
        --ckpt.save_hf
        --ckpt.max_num 2
        --ckpt.load_enable
        --ckpt.best_metric_key none
        --logger.tensorboard_dir "$output/tensorboard"
        "${MORE_FLAGS[@]}"
    )
    if [[ -n $RAY_ADDRESS ]]; then
        local job=(ray job submit --address "$RAY_ADDRESS")
        # Workers of a cluster that runs already have its environment and not this one.
        [[ $ON_POLICY == 0 ]] || job+=(--runtime-env-json "$(runtime_environment "${environment[@]}")")
        command=("${job[@]}" -- "${command[@]}")
    elif [[ $ON_POLICY == 1 ]]; then
        command=(env "${environment[@]}" "${command[@]}")
    fi
    show "${command[@]}"
    [[ -z $DRY_RUN ]] || return 0
    preflight "$data/train.jsonl"
    exec "${command[@]}"
}

# python_path: where Python finds this repository.
python_path() { printf '%s' "${RECIPES%/*}${PYTHONPATH:+:$PYTHONPATH}"; }

# runtime_environment NAME=VALUE...: these variables, as Ray takes them for a job's processes.
runtime_environment() {
    local pair text json=
    for pair; do
        text=${pair#*=}
        text=${text//\\/\\\\}
        text=${text//\"/\\\"}
        text=${text//$'\n'/\\n}
        json+="${json:+, }\"${pair%%=*}\": \"${text//$'\t'/\\t}\""
    done
    printf '{"env_vars": {%s}}' "$json"
}

# show WORD...: the command, a flag a line, keys hidden.
show() {
    local shown
    shown=$(printf '%q ' "$@")
    shown=${shown// --/ \\$'\n'    --}
    sed -E 's#//[^/@,]*@#//***@#g' <<<"${shown% }"
}

# preflight FILE: asks every server for known rewards; a line and exit 1 where something is wrong.
preflight() {
    local urls flags=() url
    IFS=, read -ra urls <<<"$REWARD_URLS"
    for url in "${urls[@]}"; do flags+=(--url "$url"); done
    if [[ $ON_POLICY == 1 ]]; then
        flags+=(--on-policy)
    else
        [[ -z $SAR_WEIGHT ]] || flags+=(--sar-weight "$SAR_WEIGHT")
        [[ -z $SERVER_MODEL ]] || flags+=(--server-model "$SERVER_MODEL")
    fi
    PYTHONPATH=$(python_path) \
        "$PYTHON" "$RECIPES/preflight.py" --model "$MODEL_PATH" --data "$1" "${flags[@]}"
}
