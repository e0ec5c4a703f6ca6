"""What a reward file asks of a run. Mistakes end the launch before a server is asked.

GDPO (arXiv:2601.05242) normalises each term within its group, which the server does, and whitens
the sums over the batch, which OpenRLHF does with `--algo.advantage.estimator reinforce_baseline`:
the subtraction of the group's mean then changes nothing. Whatever changes rewards in between, or
divides by a group's deviation again, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.launch.settings import LaunchError, Settings

if TYPE_CHECKING:
    from sar.terms.composition import Composition

_ESTIMATOR = "--algo.advantage.estimator"
_GDPO_ESTIMATOR = "reinforce_baseline"
_NUM_ROLLOUTS = "--rollout.n_samples_per_prompt"
_CLIP_RANGE = "--reward.clip_range"
_DEFAULT_CLIP = 10.0  # OpenRLHF clips rewards to -10 and 10
# Flags that change normalised rewards, and what to do instead.
_AFTER_GDPO = {
    "--reward.overlong_buffer_len": 'add the term "overlong" to the file',
    "--reward.stop_properly_penalty_coef": 'add the term "overlong" or "no_answer" to the file',
    "--algo.advantage.no_std_norm": "GDPO divides by the deviation over the batch",
}


def adapt_to_reward(
    algorithm: str, settings: Settings, flags: dict[str, Any], more_flags: Sequence[str]
) -> None:
    """Chooses the flags that the reward file needs.

    Args:
        flags: the recipe's; changed in place.
        more_flags: the user's.
    Raises:
        LaunchError: the file is wrong, or does not fit the settings or the user's flags.
    """
    if not settings.reward:
        return
    composition = _read(settings.reward)
    if settings.on_policy:
        check_on_policy(composition)
    if composition.group_size is not None:
        _check_group(composition.group_size, settings, flags, more_flags)
    if composition.normalize == "gdpo":
        _adapt_to_gdpo(composition, algorithm, settings.reward, flags, more_flags)


def _read(path: str) -> Composition:
    try:
        from sar.terms.reward_file import RewardFileError, read_reward_file
    except ModuleNotFoundError as error:
        raise LaunchError(f"REWARD={path}: PYTHON has no {error.name} to read it with") from None
    try:
        return read_reward_file(Path(path))
    except RewardFileError as error:
        raise LaunchError(f"REWARD={error}") from None


def check_on_policy(composition: Composition) -> None:
    """Checks that openrlhf_agent.py can compute all terms.

    Raises:
        LaunchError: a term needs more of the policy than likelihoods of the response.
    """
    for one in composition.terms:
        if one.term.needs:
            raise LaunchError(
                f"term {one.name!r} needs {min(one.term.needs)}, which the agent of ON_POLICY=1 "
                "does not compute; leave the term out, or train with ON_POLICY=0"
            )


def _check_group(
    group_size: int, settings: Settings, flags: Mapping[str, Any], more_flags: Sequence[str]
) -> None:
    num_rollouts = find_words(more_flags, _NUM_ROLLOUTS) or [str(flags[_NUM_ROLLOUTS])]
    if num_rollouts != [str(group_size)]:
        raise LaunchError(
            f"REWARD={settings.reward} compares {group_size} rollouts (group_size), and each "
            f"prompt gets {num_rollouts[0]}; set N_SAMPLES={group_size}, or the file's group_size"
        )
    if "," in settings.reward_urls and not settings.on_policy:
        raise LaunchError(
            f"REWARD={settings.reward} compares the rollouts of a prompt, and OpenRLHF sends them "
            "to the servers in turn; give one server in REWARD_URLS"
        )


def _adapt_to_gdpo(
    composition: Composition,
    algorithm: str,
    path: str,
    flags: dict[str, Any],
    more_flags: Sequence[str],
) -> None:
    gdpo = f'REWARD={path} has normalize = "gdpo"'
    if algorithm == "ppo":
        # The group's mean is the baseline already. A critic would have to predict rewards whose
        # mean is 0 for every prompt, and would add its error to them.
        raise LaunchError(
            f"{gdpo}, which takes the place of PPO's critic: train with recipes/grpo.sh, or set "
            'normalize = "none"'
        )
    for flag, instead in _AFTER_GDPO.items():
        if find_words(more_flags, flag) is not None:
            raise LaunchError(f"{gdpo}, and {flag} changes what was normalised: {instead}")
    chosen = find_words(more_flags, _ESTIMATOR) or [_GDPO_ESTIMATOR]
    if chosen != [_GDPO_ESTIMATOR]:
        raise LaunchError(
            f"{gdpo}, and {_ESTIMATOR} {' '.join(chosen)} does not end GDPO: use "
            f"{_ESTIMATOR} {_GDPO_ESTIMATOR}, the recipe's choice for this file"
        )
    flags[_ESTIMATOR] = _GDPO_ESTIMATOR
    largest = find_largest_sum(composition)
    if largest > _DEFAULT_CLIP:
        flags[_CLIP_RANGE] = (-math.ceil(largest), math.ceil(largest))


def find_largest_sum(composition: Composition) -> float:
    """The largest sum of normalised terms that a group can have.

    Of G numbers with mean 0 and (sample) deviation 1, none is above (G - 1) / sqrt(G).
    """
    assert composition.group_size is not None
    size = composition.group_size
    return sum(abs(one.weight) for one in composition.terms) * (size - 1) / math.sqrt(size)


def find_words(more_flags: Sequence[str], flag: str) -> list[str] | None:
    """The words that the user gave a flag, the last time that it is there. None: it is not.

    A flag without a value has the empty list.
    """
    found: list[str] | None = None
    for number, word in enumerate(more_flags):
        name, equals, value = word.partition("=")
        if name != flag:
            continue
        following = more_flags[number + 1 : number + 2]
        found = [value] if equals else [one for one in following if not one.startswith("--")]
    return found
