"""Shows what the question explains of a response, token by token, in an HTML file.

python -m sar explain --model M --question '2 + 3?' --response 'It is 5.' --label 5 --output a.html
python -m sar explain --log DIR --request ID --output a.html
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sar.arguments import CommandParser, number
from sar.commands.grader_options import add_grader_options, open_graders
from sar.errors import MAX_MESSAGE_CHARS, one_line, quote, shorten
from sar.files import open_atomically
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.reward import DEFAULT_SAR_WEIGHT

if TYPE_CHECKING:
    from sar.explain.html import PageRollout
    from sar.explain.model import ModelExplainer
    from sar.grading.label import Label
    from sar.terms.composition import Composition

_MAX_ROLLOUTS = 64
_TEXT_OPTIONS = ("prompt", "question", "response", "label", "reward", "sar_weight")
_STDIN = "-"
_EPILOG = """
The page shades each token by nll_a - nll_qa: blue if the question makes it likelier,
orange if less likely. Below are the sums of each sentence and the parts of the reward.
docs/explain.md says how to read it.
"""


class _ExplainError(Exception):
    """The message is the line that the user sees."""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    try:
        if arguments.log:
            _explain_log(arguments)
        else:
            _explain_texts(parser, arguments)
    except (_ExplainError, OSError) as error:
        sys.stderr.write(f"error: {shorten(str(error), MAX_MESSAGE_CHARS)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped: no page was written\n")
        return 130
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m sar explain",
        usage="%(prog)s --model MODEL (--prompt TEXT | --question TEXT) --response TEXT\n"
        "           [--label LABEL] --output FILE.html [options]\n"
        "       %(prog)s --log DIR --request ID --output FILE.html [options]",
        description="Writes one HTML file that shows what the question explains of a response,\n"
        "token by token.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.html")
    texts = parser.add_argument_group("texts; - reads one of them from standard input")
    texts.add_argument("--prompt", metavar="TEXT", help="as the policy saw it, template applied")
    texts.add_argument(
        "--question", metavar="TEXT", help="rendered with the model's chat template instead"
    )
    texts.add_argument(
        "--response", metavar="TEXT", action="append", help="can be given several times"
    )
    texts.add_argument(
        "--label", help="the right answer, as the server takes it (default: not graded)"
    )
    texts.add_argument("--reward", type=Path, metavar="FILE.toml", help="the reward of this file")
    texts.add_argument(
        "--sar-weight",
        type=number(-100, 100),
        help=f"weight of SAR without a reward file (default: {DEFAULT_SAR_WEIGHT})",
    )
    log = parser.add_argument_group("a request in a reward log")
    log.add_argument(
        "--log", type=Path, action="append", metavar="DIR", help="folder or file of --reward-log"
    )
    log.add_argument("--request", metavar="ID", help="request_id of its rollouts")
    _add_model_options(parser)
    add_grader_options(parser)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument("--model", help="folder or Hugging Face id (default: the log's)")
    model.add_argument(
        "--system-prompt",
        default=DEFAULT_SYSTEM_PROMPT,
        metavar="TEXT",
        help="that of the prompts; '' if they have none (default: the server's)",
    )
    model.add_argument(
        "--standalone-prompt",
        default="chat",
        metavar="TEXT",
        help="as for the server: chat, bos, or a text (default: chat)",
    )
    model.add_argument("--max-context-tokens", type=number(16, kind=int), metavar="TOKENS")
    model.add_argument("--device", default="auto")
    model.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16")
    )
    model.add_argument("--trust-remote-code", action="store_true")


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuses options that do not go together."""
    if bool(arguments.log) != (arguments.request is not None):
        parser.error("--log and --request go together")
    for name in _TEXT_OPTIONS if arguments.log else ():
        if getattr(arguments, name) is not None:
            parser.error(f"--{name.replace('_', '-')} does not go with --log, which has it")
    if arguments.log:
        return
    if not arguments.model:
        parser.error("--model is missing: a folder or a Hugging Face id")
    if (arguments.prompt is None) == (arguments.question is None):
        parser.error("give either --prompt or --question")
    if not arguments.prompt and not arguments.question:
        parser.error(f"--{'question' if arguments.prompt is None else 'prompt'} is empty")
    if not arguments.response:
        parser.error("--response is missing: what the policy wrote")
    if len(arguments.response) > _MAX_ROLLOUTS:
        parser.error(f"{len(arguments.response)} responses: at most {_MAX_ROLLOUTS} fit a page")
    if arguments.label is None and (arguments.reward or arguments.sar_weight is not None):
        parser.error("--label is missing: without it there is no reward")
    if arguments.reward and arguments.sar_weight is not None:
        parser.error("--sar-weight: not with --reward, whose file has the weight of each term")
    texts = [arguments.prompt, arguments.question, *arguments.response]
    if texts.count(_STDIN) > 1:
        parser.error("only one text can be - (standard input)")


def _explain_texts(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    from sar.explain.html import PageRollout
    from sar.explain.log import NOTE_OF_MISMATCH
    from sar.grading.label import LabelError, parse_label

    try:
        label = None if arguments.label is None else parse_label(arguments.label)
    except LabelError as error:
        parser.error(f"--label: {error}")
    composition = _read_reward(arguments.reward)
    responses = [_read_text(text, "--response") for text in arguments.response]
    prompt = _read_text(arguments.prompt or "", "--prompt")
    question = _read_text(arguments.question or "", "--question")
    explainer = _load(arguments.model, arguments)
    if arguments.question is not None:
        prompt = explainer.render_prompt(question, arguments.system_prompt)
    notes = [NOTE_OF_MISMATCH] if explainer.tokenizer.has_other_frame(prompt) else []
    if label is None:
        explained = [explainer.explain(prompt, response) for response in responses]
    else:
        explained = _explain_graded(explainer, prompt, responses, label, composition, arguments)
    formula = composition.formula if composition else f"correctness + {_weigh(arguments):g} sar"
    rollouts = [PageRollout(one, arguments.label, formula, notes) for one in explained]
    _write(rollouts, explainer, arguments.model, arguments)


def _explain_graded(
    explainer: ModelExplainer,
    prompt: str,
    responses: Sequence[str],
    label: Label,
    composition: Composition | None,
    arguments: argparse.Namespace,
) -> list[Any]:
    from sar.terms.base import TermError

    weight = _weigh(arguments)
    with open_graders(arguments) as (graders, _):
        try:
            return explainer.explain_graded(
                prompt, responses, label, graders, sar_weight=weight, composition=composition
            )
        except TermError as error:
            raise _ExplainError(f"--reward {arguments.reward}: {error}") from error


def _weigh(arguments: argparse.Namespace) -> float:
    """The weight of SAR without a reward file."""
    weight: float | None = arguments.sar_weight
    return DEFAULT_SAR_WEIGHT if weight is None else weight


def _explain_log(arguments: argparse.Namespace) -> None:
    from sar.explain.html import PageRollout
    from sar.explain.log import LogError, explain_decision, find_request, note_differences
    from sar.rescore import RescoreError, find_log_files

    try:
        found = find_request(find_log_files(arguments.log), arguments.request)
        decisions = list(islice(found, _MAX_ROLLOUTS + 1))
    except (LogError, RescoreError) as error:
        raise _ExplainError(str(error)) from error
    folders = ", ".join(map(str, arguments.log))
    if not decisions:
        raise _ExplainError(f"no rollout of request {quote(arguments.request)} in {folders}")
    if len(decisions) > _MAX_ROLLOUTS:
        decisions.pop()
        sys.stderr.write(f"the request has more rollouts: the first {_MAX_ROLLOUTS} are shown\n")
    model = arguments.model or decisions[0].model
    explainer = _load(model, arguments)
    rollouts = []
    for decision in decisions:
        explanation = explain_decision(explainer, decision)
        label = decision.label if isinstance(decision.label, str) else str(decision.label)
        notes = list(note_differences(decision, explanation))
        formula = "" if decision.terms else f"correctness + {decision.sar_weight:g} sar"
        rollouts.append(PageRollout(explanation, label, formula, notes))
    _write(rollouts, explainer, model, arguments)


def _read_text(text: str, option: str) -> str:
    if text == _STDIN:
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # from bytes that are not in the terminal's encoding
        raise _ExplainError(f"{option} is not Unicode text: {quote(text, 80)}") from error
    return text


def _read_reward(path: Path | None) -> Composition | None:
    from sar.terms.reward_file import RewardFileError, read_reward_file

    try:
        return read_reward_file(path) if path else None
    except RewardFileError as error:
        raise _ExplainError(f"--reward {error}") from error


def _load(model: str, arguments: argparse.Namespace) -> ModelExplainer:
    from sar.explain.model import ModelExplainer

    try:
        return ModelExplainer.from_pretrained(
            model,
            system_prompt=arguments.system_prompt,
            standalone_prompt=arguments.standalone_prompt,
            max_context_tokens=arguments.max_context_tokens,
            device=arguments.device,
            dtype=arguments.dtype,
            trust_remote_code=arguments.trust_remote_code,
        )
    except Exception as error:
        if not arguments.model:
            message = f"cannot load the log's model, {model}; give --model: {one_line(error)}"
            raise _ExplainError(message) from error
        raise _ExplainError(f"cannot load --model {model}: {one_line(error)}") from error


def _write(
    rollouts: Sequence[PageRollout],
    explainer: ModelExplainer,
    model: str,
    arguments: argparse.Namespace,
) -> None:
    from sar.explain.html import write_page

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    # A reward log is readable by its owner alone, and so is what comes from it.
    with open_atomically(arguments.output, is_private=bool(arguments.log)) as file:
        file.writelines(write_page(rollouts, model=model, special_tokens=explainer.special_tokens))
    sys.stdout.write(f"{len(rollouts)} responses explained: {arguments.output}\n")
