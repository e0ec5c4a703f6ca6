"""What the launch scripts do before the training starts, and how they start it."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
MODEL = "Gemma-3-1B"
NUM_PROBLEMS = 300
CLUSTER = {"NUM_NODES": "4", "RAY_ADDRESS": "http://head:8265"}
TWO_URLS = "http://any:k%2Cey@one:5000/get_reward,http://two:5000/get_reward"
ON_POLICY = {"ON_POLICY": "1", "REWARD_URLS": TWO_URLS, "SERVER_MODEL": "copy"}
# Characters that JSON and shells treat specially.
SYSTEM_PROMPT = 'Say "so" \\frac\nand $x:\t` Ünder {a}'

Start = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Runs a script with 1,280 prompts, NUM_PROBLEMS problems and these settings.

    PYTHON is an interpreter that only notes what it should run, except for the launcher itself.
    """
    data, python = tmp_path / "data", tmp_path / "python"
    data.mkdir()
    (data / "train.jsonl").write_text("".join(f'{{"row": {n}}}\n' for n in range(1280)))
    (data / "eval.jsonl").write_text('{"row": 0}\n' * NUM_PROBLEMS)
    python.write_text(
        "#!/usr/bin/env bash\n"
        f'[[ $1 != */recipes/launch ]] || exec {sys.executable} "$@"\n'
        f"printf '%s\\n' \"$*\" >> {tmp_path}/ran\n"
        f"env -0 > {tmp_path}/environ\n"
        "[[ $1 != */preflight.py ]] || exit ${PREFLIGHT_RESULT:-0}\n"
    )
    python.chmod(0o755)
    defaults = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path),
        "DATA": str(data), "OUTPUT": str(tmp_path / "out"), "PYTHON": str(python),
    }  # fmt: skip

    def run(
        algorithm: str, *flags: str, model: str = MODEL, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(RECIPES / f"{algorithm}.sh"), model, *flags],
            cwd=tmp_path,
            env={**defaults, **settings},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


def ran(tmp_path: Path) -> list[str]:
    """The command lines of PYTHON, without the launcher's."""
    return (tmp_path / "ran").read_text().splitlines()


def after(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_preflight_comes_first(start: Start, tmp_path: Path) -> None:
    done = start("grpo", REWARD_URLS=TWO_URLS, SAR_WEIGHT="0.2", SERVER_MODEL="copy")
    assert done.returncode == 0, done.stderr
    preflight, training = ran(tmp_path)
    assert preflight == (
        f"{RECIPES}/preflight.py --model google/gemma-3-1b-it --data {tmp_path}/out/train.jsonl "
        f"--eval-data {tmp_path}/data/eval.jsonl "
        "--url http://any:k%2Cey@one:5000/get_reward --url http://two:5000/get_reward "
        "--step 0 --sar-weight 0.2 --server-model copy"
    )
    assert training.startswith("-m openrlhf.cli.train_ppo_ray --actor.model_name_or_path")
    assert f"--reward.remote_url {TWO_URLS} " in training


def test_preflight_knows_the_step_that_the_run_continues_from(start: Start, tmp_path: Path) -> None:
    for role in ("_actor", "_critic"):
        (tmp_path / f"out/checkpoints/{role}/global_step50").mkdir(parents=True)
        (tmp_path / f"out/checkpoints/{role}/latest").write_text("global_step50")
    assert start("ppo").returncode == 0
    assert " --step 50" in ran(tmp_path)[0]


def test_nothing_is_trained_after_a_failed_preflight(start: Start, tmp_path: Path) -> None:
    done = start("ppo", PREFLIGHT_RESULT="1")
    assert done.returncode == 1
    (only,) = ran(tmp_path)
    assert "preflight.py" in only
    assert "--sar-weight" not in only


def test_a_dry_run_starts_nothing(start: Start, tmp_path: Path) -> None:
    done = start(
        "grpo", "--dry-run", model="Phi-3.5-mini", SAR_WEIGHT="0",
        REWARD_URLS="http://any:secret1@h:5000/get_reward",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/python ")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()
    assert "secret1" not in done.stdout


@pytest.mark.parametrize("more", [{}, {"ON_POLICY": "1"}, {"RAY_ADDRESS": "http://head:8265"}])
def test_a_key_with_special_characters_does_not_show(more: dict[str, str], start: Start) -> None:
    urls = "http://any:sec@RETPART1@a:5000/get_reward,https://u:x@PART2@@b/get_reward"
    done = start("grpo", "--dry-run", REWARD_URLS=urls, **more)
    assert "PART" not in done.stdout + done.stderr
    assert "@a:5000/get_reward," in done.stdout


class Rows(list[dict[str, int]]):
    """Stands in for OpenRLHF's `PromptDataset`."""

    collate_fn = None

    def __init__(self, rows: Any, *_: Any, **__: Any) -> None:
        super().__init__(rows)


def prepare_upstream(train: Path, problems: Path, max_samples: int) -> tuple[Rows, Rows]:
    """The training and the evaluation set as OpenRLHF's trainer loads them."""
    from openrlhf.datasets.utils import blending_datasets

    package = importlib.util.find_spec("openrlhf")
    assert package is not None
    assert package.origin is not None
    source = (Path(package.origin).parent / "trainer/ppo_trainer.py").read_text()
    (found,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "prepare_datasets"
    )
    names: dict[str, Any] = {"blending_datasets": blending_datasets, "PromptDataset": Rows}
    exec(compile(ast.Module([found], []), "ppo_trainer.py", "exec"), names)
    data = SimpleNamespace(
        prompt_dataset=str(train), prompt_probs=None, max_samples=max_samples, prompt_split="train",
        input_template=None, dataloader_num_workers=0,
    )  # fmt: skip
    counts = SimpleNamespace(seed=1, batch_size=1, num_episodes=1, max_epochs=1)
    arguments = SimpleNamespace(
        data=data, train=counts, eval=SimpleNamespace(dataset=str(problems), split="train"),
        rollout=SimpleNamespace(n_samples_per_prompt=1),
    )  # fmt: skip
    strategy = MagicMock(args=arguments, setup_dataloader=lambda rows, *_, **__: rows)
    training, evaluation, _ = names["prepare_datasets"](strategy, None)
    return training, evaluation


def test_a_small_run_evaluates_on_all_problems(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    done = start("grpo", STEPS="2")
    assert done.returncode == 0, done.stderr
    words = ran(tmp_path)[1].split()
    assert after(words, "--train.num_episodes") == "1"
    train, problems = (
        Path(after(words, flag)) for flag in ("--data.prompt_dataset", "--eval.dataset")
    )
    assert train.read_bytes() == b"".join(b'{"row": %d}\n' % n for n in range(256))
    assert list(train.parent.iterdir()) == [train]
    assert "--data.max_samples" not in words
    training, evaluation = prepare_upstream(train, problems, int(1e8))
    assert [row["row"] for row in training] == list(range(256))
    assert len(evaluation) == NUM_PROBLEMS
    # Why the launcher does not use the flag.
    assert len(prepare_upstream(train, problems, 256)[1]) == 256


def test_an_output_that_cannot_be_written(start: Start, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    done = start("grpo")
    assert done.returncode == 1
    assert done.stderr == f"grpo.sh: cannot write {tmp_path}/out/train.jsonl: File exists\n"


@pytest.mark.parametrize(
    ("algorithm", "flags", "folder"),
    [
        ("grpo", (), "out/checkpoints"),
        ("ppo", (), "out/checkpoints"),
        ("ppo", ("--ckpt.path", "{}/mine"), "mine"),
        ("grpo", ("--ckpt.path", "x", "--ckpt.path={}/mine"), "mine"),
    ],
)
def test_checkpoints_that_cannot_be_continued(
    algorithm: str, flags: tuple[str, ...], folder: str, start: Start, tmp_path: Path
) -> None:
    (tmp_path / folder / "_actor/global_step50").mkdir(parents=True)
    done = start(algorithm, *(flag.format(tmp_path) for flag in flags))
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"{algorithm}.sh: cannot continue from {tmp_path / folder}: _actor"
    )
    assert done.stderr.count("\n") == 1
    assert ("_critic" in done.stderr) == (algorithm == "ppo")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_copy_without_the_models_own_code_is_trained(
    algorithm: str, start: Start, tmp_path: Path, bundled_model_path: Path
) -> None:
    own = tmp_path / "models/Own-1B"
    shutil.copytree(bundled_model_path, own)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.Own"}}))
    settings = {"model": "Phi-3.5-mini", "MODEL_PATH": str(own)}
    assert start(algorithm, **settings).returncode == 0
    copy = tmp_path / "out/model/Own-1B"
    assert json.loads((copy / "config.json").read_text()) == config
    assert (copy / "model.safetensors").is_symlink()
    preflight, training = ran(tmp_path)
    assert f"--model {copy} " in preflight
    assert f"--actor.model_name_or_path {copy} " in training
    assert (f"--critic.model_name_or_path {copy} " in training) == (algorithm == "ppo")
    assert str(own) not in training

    assert start(algorithm, PLAIN_COPY="0", **settings).returncode == 0
    assert f"--actor.model_name_or_path {own} " in ran(tmp_path)[-1]
    assert start(algorithm, **settings, **CLUSTER, PATH="/usr/bin:/bin").returncode == 1  # no ray
    assert not (copy / "model.safetensors").is_symlink()


def test_a_copy_of_this_folder_has_its_name(start: Start, tmp_path: Path) -> None:
    done = start("grpo", "--dry-run", model="Phi-3.5-mini", MODEL_PATH=".")
    copy = f"{tmp_path}/out/model/{tmp_path.name}"
    assert f"--actor.model_name_or_path {copy} " in done.stdout


def test_notes_on_flags_that_change_who_gives_rewards_or_has_gpus(start: Start) -> None:
    done = start(
        "grpo", "--dry-run", "--train.async_enable", "--vllm.num_engines=2",
        "--train.agent_func_path", "mine.py",
    )  # fmt: skip
    assert done.returncode == 0
    gpus, rewards = done.stderr.splitlines()
    assert gpus.startswith("grpo.sh: with --train.async_enable vLLM has GPUs of its own: 2 x 1 (")
    assert "OpenRLHF asks no reward server" in rewards
    assert "--vllm.enable_sleep" not in done.stdout


def test_flags_that_contradict_each_other(start: Start) -> None:
    done = start("ppo", "--dry-run", "--vllm.enable_sleep", "--train.async_enable")
    assert done.returncode == 1
    assert done.stderr == (
        "ppo.sh: OpenRLHF refuses --train.async_enable with --vllm.enable_sleep; leave one out\n"
    )


def expected_of_workers(**others: str) -> dict[str, str]:
    return {"REWARD_URLS": TWO_URLS, "SAR_WEIGHT": "0.2", "PYTHONPATH": str(ROOT), **others}


def test_the_agents_settings_are_the_trainers_environment(start: Start, tmp_path: Path) -> None:
    done = start("grpo", PYTHONPATH="/mine", SYSTEM_PROMPT=SYSTEM_PROMPT, **ON_POLICY)
    assert done.returncode == 0, done.stderr
    assert "k%2Cey" not in done.stdout
    preflight, training = ran(tmp_path)
    assert preflight.endswith("--url http://two:5000/get_reward --on-policy")
    assert "get_reward" not in training
    got = dict(one.split("=", 1) for one in (tmp_path / "environ").read_text().split("\0") if one)
    expected = expected_of_workers(PYTHONPATH=f"{ROOT}:/mine", SYSTEM_PROMPT=SYSTEM_PROMPT)
    assert {name: got[name] for name in expected} == expected


@pytest.mark.parametrize("more", [{}, {"SYSTEM_PROMPT": SYSTEM_PROMPT}, {"SYSTEM_PROMPT": ""}])
def test_a_cluster_gets_the_agents_settings_with_the_job(
    more: dict[str, str], start: Start, tmp_path: Path
) -> None:
    ray = tmp_path / "bin/ray"
    ray.parent.mkdir()
    ray.write_text(f"#!/usr/bin/env bash\nprintf '%s\\0' \"$@\" > {tmp_path}/submitted\n")
    ray.chmod(0o755)
    path = f"{ray.parent}:{os.environ['PATH']}"
    done = start("ppo", PATH=path, SAR_WEIGHT="0.2", **ON_POLICY, **CLUSTER, **more)
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "submitted").read_text().split("\0")
    assert words[:4] == ["job", "submit", "--address", "http://head:8265"]
    assert json.loads(after(words, "--runtime-env-json")) == {
        "env_vars": expected_of_workers(**more)
    }


@pytest.mark.parametrize("char", [*"$;&`|<>()*?#~!{['\"\\\n\t"])
@pytest.mark.parametrize("setting", ["OUTPUT", "REWARD_URLS", "MODEL_PATH", "flag"])
def test_words_that_a_clusters_shell_would_change(char: str, setting: str, start: Start) -> None:
    values = {
        "OUTPUT": f"/runs/a{char}b",
        "REWARD_URLS": f"http://any:se{char}cret@a:5000/get_reward",
        "MODEL_PATH": f"/models/a{char}b",
    }
    flags, more = [f"--train.seed=a{char}b"], {}
    if setting != "flag":
        flags, more = [], {setting: values[setting]}
    done = start("grpo", "--dry-run", *flags, **CLUSTER, **more)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"grpo.sh: with RAY_ADDRESS a shell would change {char!r} in ")
    assert "cret" not in done.stderr
    assert start("grpo", "--dry-run", *flags, **more).returncode == 0


def test_a_cluster_gets_the_words_of_the_command(start: Start) -> None:
    """Ray 2.55 joins the words like this, and runs the line in a shell."""
    done = start(
        "grpo",
        "--dry-run",
        OUTPUT="/runs/a b/Ünder",
        MODEL_PATH="/m/a-b_c.d,e:f@g%20+=1",
        **CLUSTER,
    )
    words = shlex.split(done.stdout.replace("\\\n", " "))
    job = words[words.index("--") + 1 :]
    line = subprocess.list2cmdline([sys.executable, "-c", "import sys; print(sys.argv[1:])", *job])
    seen = subprocess.run(line, shell=True, capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(seen) == job
    assert "/runs/a b/Ünder/train.jsonl" in job


def test_a_cluster_without_rays_command_is_one_line(start: Start) -> None:
    done = start("grpo", PATH="/usr/bin:/bin", **CLUSTER)
    assert done.returncode == 1
    assert done.stderr == "grpo.sh: cannot start ray: No such file or directory\n"
