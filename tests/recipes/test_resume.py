"""The launcher's check of a run's checkpoints, on folders as DeepSpeed and OpenRLHF write them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from recipes.launch.resume import check_checkpoints
from recipes.launch.settings import LaunchError

ACTOR, BOTH = ("_actor",), ("_actor", "_critic")


def write_checkpoint(folder: Path, step: int, *, until: str = "end", prefix: str = "") -> None:
    """The files of a checkpoint in the order in which they appear.

    Source: DeepSpeed 0.19.6, `DeepSpeedEngine.save_checkpoint`; OpenRLHF 0.11.2,
    `DeepspeedStrategy.save_ckpt`.

    Args:
        until: the last thing that is written before the run is killed.
    """
    tag = f"{prefix}global_step{step}"
    writes: dict[str, Callable[[], object]] = {
        "folder": lambda: folder.mkdir(parents=True, exist_ok=True),
        "tag": (folder / tag).mkdir,
        "model": (folder / tag / "mp_rank_00_model_states.pt").touch,
        "optimizer": (folder / tag / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").touch,
        "script": (folder / "zero_to_fp32.py").touch,
        "latest": lambda: (folder / "latest").write_text(tag),
        "end": lambda: (folder / tag / "metric.json").write_text('{"metric_value": null}'),
    }
    for name, write in writes.items():
        write()
        if name == until:
            return


def complaint(folder: Path, roles: tuple[str, ...]) -> str:
    with pytest.raises(LaunchError) as raised:
        check_checkpoints(folder, roles)
    text = str(raised.value)
    assert "\n" not in text
    start = f"cannot continue from {folder}: "
    assert text.startswith(start)
    return text.removeprefix(start)


def make(folder: Path, checkpoints: Mapping[str, list[int]]) -> None:
    for role, steps in checkpoints.items():
        for step in steps:
            write_checkpoint(folder / role, step)


@pytest.mark.parametrize("roles", [ACTOR, BOTH])
def test_a_run_that_starts_or_continues(roles: tuple[str, ...], tmp_path: Path) -> None:
    assert check_checkpoints(tmp_path / "none", roles) == 0
    assert check_checkpoints(tmp_path, roles) == 0
    make(tmp_path, {role: [50, 100] for role in roles})
    for name in ("global_step50_hf", "global_step100_hf", "best_global_step150_hf", "mine_hf"):
        (tmp_path / name).mkdir()
    assert check_checkpoints(tmp_path, roles) == 100


@pytest.mark.parametrize("roles", [ACTOR, BOTH])
def test_weights_of_later_steps(roles: tuple[str, ...], tmp_path: Path) -> None:
    """A server that follows the folder would score with them."""
    (tmp_path / "global_step150_hf").mkdir()
    words = r"has global_step150_hf, and the run starts anew: .*; delete them and restart"
    with pytest.raises(LaunchError, match=words) as raised:
        check_checkpoints(tmp_path, roles)
    assert "\n" not in str(raised.value)
    make(tmp_path, {role: [50, 100] for role in roles})
    for step in (100, 1000):
        (tmp_path / f"global_step{step}_hf").mkdir()
    words = "has global_step150_hf to global_step1000_hf, and the run continues from step 100: "
    with pytest.raises(LaunchError, match=words):
        check_checkpoints(tmp_path, roles)


def test_the_critic_of_a_ppo_run_is_not_grpos(tmp_path: Path) -> None:
    make(tmp_path, {"_actor": [50], "_critic": [50, 100]})
    check_checkpoints(tmp_path, ACTOR)


@pytest.mark.parametrize("until", ["folder", "tag", "model", "optimizer", "script"])
def test_a_first_checkpoint_that_is_half_written(until: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "_actor", 50, until=until)
    assert complaint(tmp_path, ACTOR) == (
        "_actor has no complete checkpoint (no file 'latest'); delete _actor there to start anew, "
        "or choose another OUTPUT"
    )


@pytest.mark.parametrize("until", ["folder", "tag", "model", "optimizer", "script"])
@pytest.mark.parametrize("half", BOTH)
def test_one_of_two_first_checkpoints_is_half_written(
    half: str, until: str, tmp_path: Path
) -> None:
    for role in BOTH:
        write_checkpoint(tmp_path / role, 50, until=until if role == half else "end")
    said = complaint(tmp_path, BOTH)
    assert f"{half} has no complete checkpoint" in said
    assert "is at global_step50" in said
    assert said.endswith("delete _actor and _critic there to start anew, or choose another OUTPUT")


@pytest.mark.parametrize("until", ["tag", "model", "optimizer", "script"])
def test_a_later_checkpoint_that_is_half_written_is_no_obstacle(until: str, tmp_path: Path) -> None:
    for role in BOTH:
        write_checkpoint(tmp_path / role, 50)
        write_checkpoint(tmp_path / role, 100, until=until)
    check_checkpoints(tmp_path, BOTH)


@pytest.mark.parametrize("half", BOTH)
def test_different_steps(half: str, tmp_path: Path) -> None:
    """The advice makes the run continue."""
    (ahead,) = set(BOTH) - {half}
    for role in BOTH:
        write_checkpoint(tmp_path / role, 50)
        write_checkpoint(tmp_path / role, 100, until="model" if role == half else "end")
    said = complaint(tmp_path, BOTH)
    assert f"{half} is at global_step50" in said
    assert f"{ahead} is at global_step100" in said
    advice = f"to continue from global_step50, write this name into {ahead}/latest"
    assert said.endswith(f"; {advice}")
    (tmp_path / ahead / "latest").write_text("global_step50\n")
    check_checkpoints(tmp_path, BOTH)


def test_different_steps_and_weights_of_the_later_one(tmp_path: Path) -> None:
    """The actor has saved its weights, and the critic was killed meanwhile."""
    make(tmp_path, {"_actor": [50, 100], "_critic": [50]})
    for step in (50, 100):
        (tmp_path / f"global_step{step}_hf").mkdir()
    advice = "write this name into _actor/latest and delete global_step100_hf"
    assert complaint(tmp_path, BOTH).endswith(f"; to continue from global_step50, {advice}")
    shutil.rmtree(tmp_path / "_critic")
    advice = "delete _actor and _critic and global_step50_hf to global_step100_hf there to start"
    assert advice in complaint(tmp_path, BOTH)


def test_different_steps_and_none_in_common(tmp_path: Path) -> None:
    make(tmp_path, {"_actor": [100], "_critic": [50]})
    assert complaint(tmp_path, BOTH) == (
        "_actor is at global_step100, _critic is at global_step50; delete _actor and _critic there "
        "to start anew, or choose another OUTPUT"
    )


def test_steps_are_compared_as_numbers(tmp_path: Path) -> None:
    make(tmp_path, {"_actor": [50, 100, 150], "_critic": [50, 100]})
    assert "to continue from global_step100, write" in complaint(tmp_path, BOTH)


def test_a_critic_that_is_missing(tmp_path: Path) -> None:
    make(tmp_path, {"_actor": [50]})
    assert complaint(tmp_path, BOTH).startswith("_actor is at global_step50, _critic is missing; ")


def test_the_best_checkpoint_is_of_the_same_step(tmp_path: Path) -> None:
    """With `--ckpt.best_metric_key`: a kill between the two saves."""
    make(tmp_path, {role: [50] for role in BOTH})
    write_checkpoint(tmp_path / "_actor", 50, prefix="best_")
    check_checkpoints(tmp_path, BOTH)


@pytest.mark.parametrize("text", ["", "global_st"])
def test_a_latest_that_is_half_written(text: str, tmp_path: Path) -> None:
    make(tmp_path, {"_actor": [50]})
    write_checkpoint(tmp_path / "_actor", 100)
    (tmp_path / "_actor/latest").write_text(text)
    advice = "; to continue from global_step100, write this name into _actor/latest"
    assert complaint(tmp_path, ACTOR).endswith(advice)


def test_a_latest_whose_checkpoint_is_gone(tmp_path: Path) -> None:
    """As with `--ckpt.max_num 1`: OpenRLHF removes the old one before it writes a new one."""
    make(tmp_path, {"_actor": [50]})
    shutil.rmtree(tmp_path / "_actor/global_step50")
    write_checkpoint(tmp_path / "_actor", 100, until="model")
    assert complaint(tmp_path, ACTOR) == (
        "_actor/latest names 'global_step50', which is not there; delete _actor there to start "
        "anew, or choose another OUTPUT"
    )


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, {"_actor": [50]})

    def refuse(path: Path, **_: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(LaunchError, match=r"^cannot read .*latest: Permission denied$"):
        check_checkpoints(tmp_path, ACTOR)
