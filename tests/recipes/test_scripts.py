"""The launch scripts: their flags in OpenRLHF's own parser, and mistakes in their settings."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from recipes.launch.prompts import plan_passes

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
MODELS = ("Gemma-3-1B", "Phi-3.5-mini", "Qwen3-1.7B-Base", "Qwen3-4B-Base")
ALGORITHMS = ("grpo", "ppo")
NUM_PROMPTS = 23_000
CLUSTER = {"NUM_NODES": "4", "RAY_ADDRESS": "http://head:8265"}
TWO_URLS = "http://any:k%2Cey@one:5000/get_reward,http://two:5000/get_reward"

Result = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder. The launcher only counts its lines."""
    return data_folder_of(tmp_path_factory.mktemp("data"), NUM_PROMPTS)


def data_folder_of(folder: Path, num_prompts: int) -> Path:
    (folder / "train.jsonl").write_text("{}\n" * num_prompts)
    (folder / "eval.jsonl").write_text("{}\n")
    return folder


def run(algorithm: str, *arguments: str, **settings: str) -> Result:
    """Runs a script with these settings alone."""
    return run_in(ROOT, algorithm, *arguments, **settings)


def run_in(cwd: Path, algorithm: str, *arguments: str, **settings: str) -> Result:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # has a `python`
    environ = {"PATH": path, "HOME": os.environ.get("HOME", "/"), **settings}
    command = [str(RECIPES / f"{algorithm}.sh"), *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=600
    )


def command_of(algorithm: str, model: str, *flags: str, **settings: str) -> list[str]:
    """The words of the command that a dry run prints."""
    done = run(algorithm, model, "--dry-run", *flags, **settings)
    assert done.returncode == 0, done.stderr
    assert bool(done.stderr) == ("--train.async_enable" in flags)
    return shlex.split(done.stdout.replace("\\\n", " "))


def after(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def openrlhf_flags(words: list[str]) -> list[str]:
    return words[words.index("openrlhf.cli.train_ppo_ray") + 1 :]


CASES: dict[str, tuple[str, str, tuple[str, ...], Mapping[str, str]]] = {
    **{
        f"{algorithm} {model} {where}": (algorithm, model, (), settings)
        for algorithm in ALGORITHMS
        for model in MODELS
        for where, settings in (("one node", {}), ("cluster", CLUSTER))
    },
    "two servers": ("grpo", "Gemma-3-1B", (), {"REWARD_URLS": TWO_URLS}),
    **{
        f"on policy {where}": (
            "grpo", MODELS[0], (), {"ON_POLICY": "1", "REWARD_URLS": TWO_URLS, **settings},
        )
        for where, settings in (("one node", {}), ("cluster", CLUSTER))
    },
    **{
        f"async {algorithm}": (algorithm, "Gemma-3-1B", ("--train.async_enable", *more), {})
        for algorithm, more in (
            ("grpo", ()),
            ("ppo", ("--train.partial_rollout_enable", "--vllm.num_engines", "2")),
        )
    },
    "more flags": ("ppo", "Gemma-3-1B", ("--train.seed", "7", "--algo.kl.horizon", "9"), {}),
    "settings": (
        "grpo",
        "Qwen3-4B-Base",
        (),
        {"GPUS_PER_NODE": "6", "TENSOR_PARALLEL": "2", "ZERO_STAGE": "2", "N_SAMPLES": "12",
         "MODEL_PATH": "/models/mine", "SEED": "5", "SAVE_STEPS": "9", "EVAL_STEPS": "11",
         "VLLM_MEMORY": "0.4", "TOKENS_PER_GPU": "5120", "OUTPUT": "/runs/a b"},
    ),
}  # fmt: skip
REFUSED = {
    "misspelt": ("--algo.kl.usel_oss", "unrecognized arguments: --algo.kl.usel_oss"),
    "not a choice": ("--algo.advantage.estimator=grpo", "invalid choice: 'grpo'"),
    "its validation": ("--rollout.n_samples_per_prompt=1", "requires n_samples_per_prompt > 1"),
    "async with sleep": ("--train.async_enable", "not supported with --vllm.enable_sleep"),
    "its checks in train": ("--vllm.num_engines=3", "must be equal to"),
}


@pytest.fixture(scope="module")
def commands(data: Path) -> dict[str, list[str]]:
    return {
        name: command_of(algorithm, model, *flags, **{"DATA": str(data), **settings})
        for name, (algorithm, model, flags, settings) in CASES.items()
    }


@pytest.fixture(scope="module")
def parsed(commands: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """What OpenRLHF's launcher makes of each command; one process, as its imports take seconds."""
    flags = {name: openrlhf_flags(words) for name, words in commands.items()}
    good = flags["grpo Gemma-3-1B one node"]
    flags |= {name: [*good, flag] for name, (flag, _) in REFUSED.items()}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("openrlhf_arguments.py"))],
        input=json.dumps(list(flags.values())),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(flags, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_openrlhf_takes_every_flag(
    name: str, commands: dict[str, list[str]], parsed: dict[str, dict[str, Any]]
) -> None:
    assert "error" not in parsed[name]
    flags = [word for word in openrlhf_flags(commands[name]) if word.startswith("--")]
    assert len(flags) > 50
    for flag in flags:  # written out: argparse also takes the start of a flag
        node = parsed[name]["arguments"]
        for part in flag.removeprefix("--").split("."):
            assert part in node, flag
            node = node[part]
    # OpenRLHF prints no advice against any of them either.
    if parsed[name]["arguments"]["train"]["async_enable"]:
        assert parsed[name]["said"].splitlines() == [
            "[Warning] Using --colocate_all_models in async RLHF only colocates DeepSpeed models."
        ]
        return
    assert "Warning" not in parsed[name]["said"]
    assert "Recommend" not in parsed[name]["said"]


@pytest.mark.parametrize("name", REFUSED)
def test_openrlhf_refuses_what_is_wrong(name: str, parsed: dict[str, dict[str, Any]]) -> None:
    assert REFUSED[name][1] in parsed[name]["error"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_hyper_parameters_are_the_papers(
    algorithm: str, model: str, parsed: dict[str, dict[str, Any]], data: Path
) -> None:
    got = parsed[f"{algorithm} {model} one node"]["arguments"]
    assert got["rollout"]["batch_size"] == 128
    assert got["rollout"]["n_samples_per_prompt"] == 6
    assert got["train"]["batch_size"] == 64 * 6  # OpenRLHF counts rollouts here
    assert got["rollout"]["max_new_tokens"] == 4096
    assert got["data"]["max_len"] == 1024 + 4096
    assert (got["rollout"]["temperature"], got["rollout"]["top_p"]) == (1, 1)
    assert got["actor"]["adam"]["lr"] == 1e-6
    assert got["actor"]["lr_scheduler"] == "constant"
    assert (got["actor"]["eps_clip"], got["actor"]["dual_clip"]) == (0.2, 3)
    assert got["algo"]["advantage"]["no_std_norm"] is False  # dr_grpo divides by none anyway
    output = ROOT / f"runs/{algorithm}-{model}"
    assert got["data"]["prompt_dataset"] == str(output / "train.jsonl")
    assert got["eval"]["dataset"] == str(data / "eval.jsonl")
    # It would cut the evaluation set, too.
    assert got["data"]["max_samples"] == int(1e8)
    assert got["data"]["apply_chat_template"] is True
    assert (got["data"]["input_key"], got["data"]["label_key"]) == ("prompt", "label")
    assert got["ds"]["zero_stage"] == (3 if model in ("Qwen3-4B-Base", "Phi-3.5-mini") else 2)
    advantage, kl = got["algo"]["advantage"], got["algo"]["kl"]
    if algorithm == "grpo":
        assert advantage["estimator"] == "dr_grpo"
        assert (kl["use_loss"], kl["estimator"], kl["init_coef"]) == (True, "k3", 0.001)
        assert got["critic"]["model_name_or_path"] is None
    else:
        assert advantage["estimator"] == "gae"
        assert (kl["use_loss"], kl["init_coef"]) == (False, 0)
        assert got["critic"]["adam"]["lr"] == 2e-6
        assert got["critic"]["model_name_or_path"] == got["actor"]["model_name_or_path"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_cluster_gets_a_job(
    algorithm: str, commands: dict[str, list[str]], parsed: dict[str, dict[str, Any]]
) -> None:
    name = f"{algorithm} Qwen3-4B-Base cluster"
    start = ["ray", "job", "submit", "--address", "http://head:8265", "--", "python", "-m"]
    assert commands[name][: len(start)] == start
    got = parsed[name]["arguments"]
    assert got["vllm"]["num_engines"] == 4 * 8
    role = "ref" if algorithm == "grpo" else "critic"
    for one in ("actor", role):
        assert (got[one]["num_nodes"], got[one]["num_gpus_per_node"]) == (4, 8)


def test_settings_arrive(parsed: dict[str, dict[str, Any]]) -> None:
    got = parsed["settings"]["arguments"]
    assert got["actor"]["model_name_or_path"] == "/models/mine"
    assert (got["vllm"]["num_engines"], got["vllm"]["tensor_parallel_size"]) == (3, 2)
    assert (got["ds"]["zero_stage"], got["train"]["batch_size"]) == (2, 64 * 12)
    assert (got["train"]["seed"], got["vllm"]["gpu_memory_utilization"]) == (5, 0.4)
    assert (got["ckpt"]["save_steps"], got["eval"]["steps"]) == (9, 11)
    assert got["train"]["max_tokens_per_gpu"] == got["rollout"]["max_tokens_per_gpu"] == 5120
    assert got["ckpt"]["path"] == "/runs/a b/checkpoints"
    assert parsed["more flags"]["arguments"]["train"]["seed"] == 7


def test_keys_are_not_shown_and_all_servers_are_used(parsed: dict[str, dict[str, Any]]) -> None:
    """Another test checks the keys that OpenRLHF gets: the dry run hides them."""
    urls = parsed["two servers"]["arguments"]["reward"]["remote_url"]
    assert urls == ["http://***@one:5000/get_reward", "http://two:5000/get_reward"]


@pytest.mark.parametrize(
    ("num_prompts", "steps", "passes", "steps_per_pass"),
    [(23_000, 500, 3, 167), (64_000, 500, 1, 500), (128, 500, 500, 1), (255, 3, 3, 1),
     (100_000, 500, 1, 500), (1280, 25, 3, 9)],
)  # fmt: skip
def test_passes_over_the_data_make_the_steps(
    num_prompts: int, steps: int, passes: int, steps_per_pass: int, tmp_path: Path
) -> None:
    data = data_folder_of(tmp_path, num_prompts)
    words = command_of("grpo", MODELS[0], DATA=str(data), STEPS=str(steps))
    assert int(after(words, "--train.num_episodes")) == passes
    assert steps <= passes * steps_per_pass < steps + passes
    assert plan_passes(data, steps) == (passes, 128 * steps_per_pass)
    assert 128 * steps_per_pass <= num_prompts


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        ((), {}, "which model? One of Gemma-3-1B, Phi-3.5-mini, Qwen3-1.7B-Base, Qwen3-4B-Base"),
        (("Qwen3-8B",), {}, "no settings for the model 'Qwen3-8B'"),
        (("--dry-run",), {}, "no settings for the model '--dry-run'"),
        ((MODELS[0],), {"DATA": "/nowhere"}, "DATA=/nowhere has no train.jsonl; make it: python"),
        ((MODELS[0],), {"STEPS": "-1"}, "STEPS='-1' is not a positive whole number"),
        ((MODELS[0],), {"N_SAMPLES": "six"}, "N_SAMPLES='six' is not a positive whole number"),
        ((MODELS[0],), {"SAR_WEIGHT": "0,2"}, "SAR_WEIGHT='0,2' is not a number"),
        ((MODELS[0],), {"ON_POLICY": "yes"}, "ON_POLICY='yes' is neither 0 nor 1"),
        ((MODELS[0],), {"GPUS_PER_NODE": "7"}, "7 GPUs cannot share the 384 rollouts"),
        ((MODELS[0],), {"TENSOR_PARALLEL": "3"}, "TENSOR_PARALLEL=3 does not divide the 8 GPUs"),
        ((MODELS[0],), {"TOKENS_PER_GPU": "4096"}, "TOKENS_PER_GPU=4096 cannot hold one"),
        ((MODELS[0],), {"NUM_NODES": "2"}, "NUM_NODES=2 needs a Ray cluster"),
        ((MODELS[0],), {"RAY_ADDRESS": "head:6379"}, "RAY_ADDRESS='head:6379' is not the dash"),
    ],
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_mistake_is_one_line(
    algorithm: str, arguments: tuple[str, ...], settings: dict[str, str], said: str, data: Path
) -> None:
    done = run(algorithm, *arguments, **{"DATA": str(data), **settings})
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"{algorithm}.sh: {said}")
    assert done.stderr.count("\n") == 1


def test_too_little_data(tmp_path: Path) -> None:
    done = run("grpo", MODELS[0], DATA=str(data_folder_of(tmp_path, 127)))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "has 127 prompts, and a step takes 128" in done.stderr


def test_folders_are_absolute_and_the_weight_names_the_run(data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(data)
    done = run_in(tmp_path, "ppo", MODELS[0], "--dry-run", SAR_WEIGHT="0")
    words = shlex.split(done.stdout.replace("\\\n", " "))
    assert after(words, "--eval.dataset") == str(data / "eval.jsonl")
    assert after(words, "--ckpt.path") == str(tmp_path / "runs/ppo-Gemma-3-1B-sar0/checkpoints")


@pytest.mark.parametrize("where", ["one node", "cluster"])
def test_openrlhf_takes_the_agent_in_place_of_servers(
    where: str, parsed: dict[str, dict[str, Any]]
) -> None:
    got = parsed[f"on policy {where}"]["arguments"]
    assert got["train"]["agent_func_path"] == str(RECIPES / "openrlhf_agent.py")
    assert got["reward"]["remote_url"] == ["agent"]
    assert "-sar0.2-on-policy/" in got["ckpt"]["path"]
    assert parsed["two servers"]["arguments"]["train"]["agent_func_path"] is None
