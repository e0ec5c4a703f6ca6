"""REWARD=FILE.toml in the launch scripts: the flags that it chooses, and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.launch.reward import find_largest_sum, find_words
from sar.terms.composition import Composition, WeightedTerm
from sar.terms.verdict import Correctness

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
TERMS = '[[terms]]\nterm = "correctness"\n[[terms]]\nterm = "sar"\nweight = 0.2\n'
FILES = {
    "sum.toml": TERMS,
    "group.toml": 'group_size = 6\n[[terms]]\nterm = "launch_own_terms:Longer"\n',
    "gdpo.toml": 'group_size = 6\nnormalize = "gdpo"\n' + TERMS,
    "heavy.toml": 'group_size = 64\nnormalize = "gdpo"\n' + TERMS.replace("0.2", "-3.5"),
    "certain.toml": TERMS.replace("sar", "self_certainty"),
    "wrong.toml": TERMS.replace("sar", "sars"),
}
OWN = """
from sar.terms.base import GroupTerm
class Longer(GroupTerm):
    def score_group(self, group):
        return [0.0] * len(group)
"""
TWO_URLS = "http://any:key@one:5000/get_reward,http://two:5000/get_reward"
ESTIMATOR = "--algo.advantage.estimator"

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "train.jsonl").write_text("{}\n" * 128)
    (folder / "eval.jsonl").write_text("{}\n")
    (folder / "launch_own_terms.py").write_text(OWN)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """Runs a script in the folder with the files: `run("grpo", "--flag", REWARD="sum.toml")`."""

    def call(algorithm: str, *flags: str, **settings: str) -> Result:
        environ = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DATA": str(folder), "PYTHONPATH": str(folder), "GPUS_PER_NODE": "1",
        }  # fmt: skip
        return subprocess.run(
            [str(RECIPES / f"{algorithm}.sh"), "Gemma-3-1B", "--dry-run", *flags],
            cwd=folder,
            env={**environ, **settings},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return call


def words_of(done: Result) -> list[str]:
    assert (done.returncode, done.stderr) == (0, "")
    return shlex.split(done.stdout.replace("\\\n", " "))


CASES: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "sum": ("grpo", (), {"REWARD": "sum.toml", "REWARD_URLS": TWO_URLS}),
    "sum ppo": ("ppo", (), {"REWARD": "sum.toml"}),
    "group": ("grpo", (), {"REWARD": "group.toml"}),
    "group ppo": ("ppo", (), {"REWARD": "group.toml"}),
    "gdpo": ("grpo", (), {"REWARD": "gdpo.toml"}),
    "gdpo said": ("grpo", (f"{ESTIMATOR}=reinforce_baseline",), {"REWARD": "gdpo.toml"}),
    "heavy": ("grpo", (), {"REWARD": "heavy.toml", "N_SAMPLES": "64"}),
    "size as a flag": ("grpo", ("--rollout.n_samples_per_prompt", "64"), {"REWARD": "heavy.toml"}),
    "on policy": (
        "grpo", (), {"REWARD": "gdpo.toml", "ON_POLICY": "1", "REWARD_URLS": TWO_URLS},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def parsed(run: Run) -> dict[str, Any]:
    """What OpenRLHF's launcher makes of each command."""
    commands = {
        name: words_of(run(algorithm, *flags, **settings))
        for name, (algorithm, flags, settings) in CASES.items()
    }
    flags = [words[words.index("openrlhf.cli.train_ppo_ray") + 1 :] for words in commands.values()]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("openrlhf_arguments.py"))],
        input=json.dumps(flags),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(commands, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(
    ("name", "estimator", "clip"),
    [
        ("sum", "dr_grpo", [-10, 10]),
        ("sum ppo", "gae", [-10, 10]),
        ("group", "dr_grpo", [-10, 10]),
        ("group ppo", "gae", [-10, 10]),
        ("gdpo", "reinforce_baseline", [-10, 10]),
        ("gdpo said", "reinforce_baseline", [-10, 10]),
        # (1 + 3.5) x 63 / 8 = 35.4: OpenRLHF would clip such a sum to 10.
        ("heavy", "reinforce_baseline", [-36, 36]),
        ("size as a flag", "reinforce_baseline", [-36, 36]),
        ("on policy", "reinforce_baseline", [-10, 10]),
    ],
)
def test_openrlhf_gets_what_the_file_needs(
    name: str, estimator: str, clip: list[float], parsed: dict[str, Any]
) -> None:
    assert "error" not in parsed[name]
    got = parsed[name]["arguments"]
    assert got["algo"]["advantage"]["estimator"] == estimator
    assert got["reward"]["clip_range"] == clip
    assert "Warning" not in parsed[name]["said"]
    stem = CASES[name][2]["REWARD"].removesuffix(".toml")
    on_policy = "-on-policy" if name == "on policy" else ""
    output = f"runs/{CASES[name][0]}-Gemma-3-1B-{stem}{on_policy}/"
    assert output in got["ckpt"]["path"]


def test_the_agent_gets_the_file_and_no_weight(run: Run, folder: Path) -> None:
    algorithm, flags, settings = CASES["on policy"]
    words = words_of(run(algorithm, *flags, **settings))
    environ = dict(word.split("=", 1) for word in words[1 : words.index("python")])
    assert environ["REWARD"] == str(folder / "gdpo.toml")
    assert "SAR_WEIGHT" not in environ


@pytest.mark.parametrize(
    ("algorithm", "flags", "settings", "said"),
    [
        ("grpo", (), {"REWARD": "none.toml"}, "REWARD={}/none.toml: No such file"),
        ("ppo", (), {"REWARD": "wrong.toml"}, "REWARD={}/wrong.toml: terms[2] 'sars' is unknown"),
        ("grpo", (), {"REWARD": "sum.toml", "SAR_WEIGHT": "0.2"},
         "SAR_WEIGHT=0.2 and REWARD=sum.toml: a reward file has the weights of its terms; leave"),
        ("ppo", (), {"REWARD": "group.toml", "N_SAMPLES": "4"},
         "compares 6 rollouts (group_size), and each prompt gets 4; set N_SAMPLES=6"),
        ("grpo", ("--rollout.n_samples_per_prompt=12",), {"REWARD": "gdpo.toml"},
         "compares 6 rollouts (group_size), and each prompt gets 12; set N_SAMPLES=6"),
        ("ppo", (), {"REWARD": "group.toml", "REWARD_URLS": TWO_URLS},
         "sends them to the servers in turn; give one server in REWARD_URLS"),
        ("ppo", (), {"REWARD": "gdpo.toml"},
         "takes the place of PPO's critic: train with recipes/grpo.sh, or"),
        ("grpo", (ESTIMATOR, "group_norm"), {"REWARD": "gdpo.toml"},
         f"{ESTIMATOR} group_norm does not end GDPO: use {ESTIMATOR} reinforce_baseline"),
        ("grpo", (f"{ESTIMATOR}=dr_grpo",), {"REWARD": "gdpo.toml"},
         f"{ESTIMATOR} dr_grpo does not end GDPO: use {ESTIMATOR} reinforce_baseline"),
        ("grpo", ("--reward.overlong_buffer_len", "512"), {"REWARD": "gdpo.toml"},
         '--reward.overlong_buffer_len changes what was normalised: add the term "overlong"'),
        ("grpo", ("--reward.stop_properly_penalty_coef=0.5",), {"REWARD": "gdpo.toml"},
         "--reward.stop_properly_penalty_coef changes what was normalised: add the term"),
        ("grpo", (), {"REWARD": "certain.toml", "ON_POLICY": "1"},
         "term 'self_certainty' needs self_certainty, which the agent of ON_POLICY=1 does not"),
        ("grpo", ("--algo.advantage.no_std_norm",), {"REWARD": "gdpo.toml"},
         "--algo.advantage.no_std_norm changes what was normalised: GDPO divides by the deviation"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_file_is_one_line(
    algorithm: str, flags: tuple[str, ...], settings: dict[str, str], said: str,
    run: Run, folder: Path,
) -> None:  # fmt: skip
    done = run(algorithm, *flags, **settings)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{algorithm}.sh: ")
    assert done.stderr.count("\n") == 1
    assert said.format(folder) in done.stderr


@pytest.mark.parametrize(
    ("more_flags", "words"),
    [
        ([], None),
        (["--other", "--flag", "3"], ["3"]),
        (["--flag=3", "--flag", "4"], ["4"]),
        (["--flag", "--other"], []),
        (["--flagged", "3"], None),
        (["--flag"], []),
    ],
)
def test_the_words_of_a_flag(more_flags: list[str], words: list[str] | None) -> None:
    assert find_words(more_flags, "--flag") == words


@pytest.mark.parametrize("size", [2, 3, 6, 64])
def test_the_largest_sum_is_that_of_one_rollout_apart(size: int) -> None:
    values = np.eye(1, size)[0]
    largest = float((values.max() - values.mean()) / values.std(ddof=1))
    composition = Composition(
        (WeightedTerm("a", Correctness(), 2.0), WeightedTerm("b", Correctness(), -0.5)), size
    )
    assert find_largest_sum(composition) == pytest.approx(2.5 * largest)
