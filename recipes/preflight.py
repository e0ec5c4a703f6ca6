"""python -m recipes.preflight --url URL [--url URL ...] --model MODEL [--data data/train.jsonl]

Checks reward servers before a run. It sends each server a right and a wrong rollout, as OpenRLHF
would; a group of them if the reward compares rollouts. It compares the server's model, tokenizer
and prompts with the policy's, and its reward with --sar-weight or --reward, and checks the label of
every row. It refuses a policy that would run code from its own folder (auto_map).
If all is well it prints a line for each server and exits with 0, else one line and exits with 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from recipes.adapters.client import RewardError
from recipes.data_rows import check_rows
from recipes.launch.plain_copy import read_source
from recipes.launch.settings import LaunchError
from recipes.preflight_policy import CheckFailed, Policy, check_code
from recipes.preflight_servers import (
    RewardFile,
    Server,
    check_composition,
    check_rewards,
    check_settings,
    compare,
)
from sar.prompts import DEFAULT_SYSTEM_PROMPT

_DEFAULT_PROMPT = [{"role": "system", "content": DEFAULT_SYSTEM_PROMPT}, {"role": "user"}]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 if all servers fit the policy, else 1."""
    arguments = _make_parser().parse_args(argv)
    try:
        servers = _check_all(arguments)
        source = read_source(arguments.model)
    except (CheckFailed, RewardError, LaunchError) as error:
        sys.stderr.write(f"preflight: {error}\n")
        return 1
    if source:
        print(
            f"preflight: trains from {arguments.model}, a copy of {source} without auto_map: "
            "OpenRLHF would run the code that it names, in place of transformers'"
        )
    for server in servers:
        is_composed = arguments.reward is not None and not arguments.on_policy
        reward = (
            f"reward {server.info.reward}" if is_composed
            else f"SAR weight {server.info.sar_weight:g}"
        )  # fmt: skip
        print(
            f"preflight: {server.name}: rewards as expected; {server.info.model}, {reward}, "
            f"policy version {server.info.policy_version}"
        )
    return 0


def _check_all(arguments: argparse.Namespace) -> list[Server]:
    """Checks every server, and returns them.

    Raises:
        CheckFailed, RewardError, LaunchError: of the first check that failed.
    """
    model = None if arguments.on_policy else arguments.server_model or arguments.model
    servers = [Server(url) for url in arguments.url]
    file = None if arguments.reward is None else RewardFile.read(arguments.reward)
    if file and file.composition.group_size and len(servers) > 1 and not arguments.on_policy:
        raise CheckFailed(
            f"{file.path} compares the rollouts of a prompt, and OpenRLHF sends them to the "
            "servers in turn; give one --url"
        )
    messages = _DEFAULT_PROMPT
    if arguments.data is not None:
        messages = check_rows(arguments.data, composition=file.composition if file else None)
    if arguments.eval_data is not None:
        check_rows(arguments.eval_data, are_evaluated=True)
    for server in servers:
        check_settings(server, arguments.sar_weight, arguments.model, model, arguments.step)
        check_composition(server, file, on_policy=arguments.on_policy)
    if not arguments.on_policy:
        compare(servers)
    check_code(arguments.model)
    policy = Policy.load(arguments.model, messages)
    if arguments.on_policy:
        policy.check_system_prompt(os.environ.get("SYSTEM_PROMPT", DEFAULT_SYSTEM_PROMPT))
    for server in servers:
        check_rewards(server, policy, on_policy=arguments.on_policy, file=file)
    return servers


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.preflight",
        description="Checks reward servers against the policy before a run.",
    )
    parser.add_argument(
        "--url",
        action="append",
        required=True,
        help="http://host:5000/get_reward; repeat for several",
    )
    parser.add_argument("--model", required=True, help="the policy's folder or hub id")
    parser.add_argument(
        "--data",
        help="train.jsonl, whose labels are checked, and whose system prompt is used (default: "
        "prepare_data.py's prompt)",
    )
    parser.add_argument(
        "--eval-data", help='eval.jsonl, whose labels are checked to be valid, with "mode": "eval"'
    )
    parser.add_argument(
        "--step",
        type=int,
        help="the step that the run starts from; no server may be at a later one",
    )
    parser.add_argument("--sar-weight", type=float, help="SAR weight that all servers must have")
    parser.add_argument("--reward", help="reward file (TOML) that all servers must run")
    parser.add_argument(
        "--server-model", help="model that all servers must report (default: --model)"
    )
    parser.add_argument(
        "--on-policy",
        action="store_true",
        help="openrlhf_agent.py computes SAR, so accept servers with any model and SAR weight",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
