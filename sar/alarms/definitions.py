"""The alarms: what each means, over which rollouts, from which value on, and why from there.

`python -m sar audit --update docs/alarms.md` writes these texts into docs/alarms.md. What each
alarm is worth was measured: `python -m performance.alarms`.
"""

from __future__ import annotations

from sar.alarms.alarm import Alarm
from sar.alarms.readings import (
    FALLEN_Z,
    MIN_Z,
    RISEN_Z,
    read_bombs,
    read_correctness,
    read_labels,
    read_lag,
    read_length,
    read_length_in_reward,
    read_mismatch,
    read_no_answer,
    read_parts,
    read_parts_over_correctness,
    read_repetition,
    read_saturation,
    read_zero_variance,
)

_AGAINST_START = "the latest window, against the run's first"
_LATEST = "the latest window"

ALARMS = (
    Alarm(
        "length_collapse",
        "Length collapse",
        "Responses have become much shorter, and correctness has fallen (z of "
        f"{FALLEN_Z:g} or less): mean length now, divided by mean length at the start.",
        _AGAINST_START,
        threshold=0.6,
        reason="Shorter responses that stay right are what a reward may be for: in the SAR paper "
        "they get up to 45% shorter, and with length terms in the demo half as long.",
        clear=0.7,
        read=read_length,
    ),
    Alarm(
        "term_rises",
        "A term rises, correctness does not",
        "A term of the reward, SAR or the whole reward has risen, and correctness has not (z below "
        f"{RISEN_Z:g}). The value is the largest such rise, in standard deviations of a rollout. "
        "SAR counts where the reward is correctness + SAR. Terms that fall as rewards rise do not "
        "count: they are penalties.",
        _AGAINST_START,
        threshold=2.0,
        reason="In the demo's runs that stay right, SAR rises by 0.9 on correctness + 0.2 SAR, and "
        "by 1.75 with a length term beside it.",
        clear=1.5,
        read=read_parts,
    ),
    Alarm(
        "term_over_correctness",
        "A term rises, correctness falls",
        "A term of the reward, SAR or the whole reward has risen, and correctness has fallen (z of "
        f"{FALLEN_Z:g} or less). The value is the largest such rise, as in `term_rises`.",
        _AGAINST_START,
        threshold=0.35,
        reason="Together they say that the policy trades right answers for the term. While harder "
        "prompts let correctness fall, no term rose so far in the demo's runs that stay right.",
        clear=0.2,
        read=read_parts_over_correctness,
    ),
    Alarm(
        "correctness_falls",
        "Correctness falls",
        "Correctness has fallen far below the run's best window: its mean there, minus its mean "
        f"now (z of -{MIN_Z:g} or less).",
        "the latest window, against the best before it",
        threshold=0.25,
        reason="Problems differ, so correctness swings by itself: by up to 0.13 in the demo's runs "
        "of seed 0 that stay right. This is twice as much.",
        clear=0.15,
        read=read_correctness,
    ),
    Alarm(
        "no_answer",
        "No answer",
        "More responses state no answer: their share now, minus their share at the start.",
        _AGAINST_START,
        threshold=0.05,
        reason="Five points are what the accuracy of a run must not lose unnoticed.",
        clear=0.025,
        read=read_no_answer,
    ),
    Alarm(
        "repetition",
        "Repetition",
        "Responses repeat themselves more than at the start. Of each response, the share of its "
        "40-character spans that occur before in it is taken; the value is the mean now minus the "
        "mean at the start. Of a long response, the last 1,000 characters count.",
        _AGAINST_START,
        threshold=0.1,
        reason="Honest responses to GSM8K repeat 0.4% of their text. A run of the demo came to 5%, "
        "with a repetition in two of five responses, and lost no accuracy.",
        clear=0.05,
        read=read_repetition,
    ),
    Alarm(
        "length_reward",
        "Length decides the reward",
        "Length decides rewards of responses that are equally right. The value is the share of the "
        "rewards' variance that length explains and correctness does not: the squared partial "
        "correlation of reward and length given correctness, times the variance that correctness "
        "leaves, divided by the variance now or at the start, whichever is larger.",
        _LATEST,
        threshold=0.5,
        reason="Length then decides more than all else together.",
        clear=0.4,
        read=read_length_in_reward,
    ),
    Alarm(
        "zero_variance",
        "Zero-variance groups",
        "Share of groups in which all rewards are equal. Their advantages are 0, so they teach "
        "nothing.",
        "the latest 64 groups that are complete",
        threshold=0.95,
        reason="Nineteen in twenty rollouts are then sampled for nothing. A run of the demo with "
        "98% right answers came to nine in ten, which is no fault.",
        clear=0.9,
        read=read_zero_variance,
    ),
    Alarm(
        "saturation",
        "Saturation",
        "Correctness, SAR, another term or the whole reward has nearly the same value in all "
        "responses, and had not at the start: its standard deviation now, divided by that at the "
        "start. The value is that of the part that lost most. Its mean must have changed (z of "
        f"{MIN_Z:g}).",
        _AGAINST_START,
        threshold=0.25,
        reason="Of a format that three in ten earn at first, that is when all but one in 75 do. "
        "What is left hardly tells responses apart.",
        clear=0.4,
        read=read_saturation,
    ),
    Alarm(
        "unreadable_labels",
        "Unreadable labels",
        "Share of rollouts whose label the grader cannot read, so that it compares texts.",
        _LATEST,
        threshold=0.02,
        reason="Each such label may call a right answer wrong. Labels that were written for the "
        "grader have none; a few odd ones in a thousand are no reason to stop.",
        clear=0.01,
        read=read_labels,
    ),
    Alarm(
        "grader_bombs",
        "Grader bombs",
        "Share of responses that use up a grader's time or memory. Their verdict is `timeout` or "
        "`crashed`.",
        _LATEST,
        threshold=0.01,
        reason="Of 2,100 known texts, none that is no bomb comes near the time limit. Three in 256 "
        "are no accident.",
        clear=0.005,
        read=read_bombs,
    ),
    Alarm(
        "template_mismatch",
        "Template mismatch",
        "Share of prompts whose system prompt or chat template is not that of the server's "
        "empty-question prompt. SAR then measures more than the question.",
        _LATEST,
        threshold=0.05,
        reason="A template fits all prompts or none. A few prompts with a system prompt of their "
        "own stay below.",
        clear=0.02,
        read=read_mismatch,
    ),
    Alarm(
        "scorer_lags",
        "The scorer lags behind",
        "How many checkpoints the scorer is behind. That is the rollouts since `policy_version` "
        "changed, divided by the median number between its changes before, or by a block if that "
        "is more. A server with `--follow` also counts the checkpoints newer than its weights; the "
        "larger number is the value.",
        "the latest 8 changes of `policy_version`",
        threshold=4.0,
        reason="A scorer is one checkpoint behind while it loads the next, and two or three if it "
        "skips some under load.",
        clear=1.0,
        read=read_lag,
    ),
)
"""All alarms, in the order in which they are shown."""
