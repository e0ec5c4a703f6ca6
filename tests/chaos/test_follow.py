"""Checkpoints that are broken, unreadable or not loaded, and floods of `/update_weights`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.chaos.conftest import Answer, FaultyServer, Helpers, Rollout

KEY = "a-key-for-the-tests"
_AUTHORIZATION = f"Authorization: Bearer {KEY}\r\n"
_INDEX = "model.safetensors.index.json"
_DEEP = "[" * 100_000


def _replace(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _put_in_place(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return act


def _name_shard(name: str) -> Callable[[Path], object]:
    return _replace(_INDEX, json.dumps({"weight_map": {"a": name}}).encode())


_INCOMPLETE: dict[str, Callable[[Path], object]] = {
    "deep config": _replace("config.json", _DEEP.encode()),
    "config not UTF-8": _replace("config.json", b"\xff\xfe\xfd"),
    "config a list": _replace("config.json", b"[]"),
    "deep header": _replace("model.safetensors", struct.pack("<Q", len(_DEEP)) + _DEEP.encode()),
    "header of 2^63 bytes": _replace("model.safetensors", struct.pack("<Q", 2**63) + b"{}"),
    "header not JSON": _replace("model.safetensors", struct.pack("<Q", 8) + b"\0" * 8),
    "shard above": _name_shard("../model.safetensors"),
    "shard elsewhere": _name_shard("/etc/passwd"),
    "index of another form": _replace(_INDEX, b'{"weight_map": [5]}'),
    "folder": _put_in_place("model.safetensors", Path.mkdir),
    "pipe": _put_in_place("config.json", os.mkfifo),
    "dangling link": _put_in_place("tokenizer.json", lambda p: p.symlink_to("nowhere")),
    "looping link": _put_in_place("tokenizer_config.json", lambda p: p.symlink_to(p)),
    "half a tokenizer": _replace("tokenizer.json", b'{"model": {'),
    "an adapter": _put_in_place("adapter_config.json", Path.touch),
}


def test_a_server_survives_whatever_is_in_the_folder_that_it_follows(
    start_faulty: Callable[..., FaultyServer],
    rollouts: list[Rollout],
    chaos: Helpers,
    checkpoints: dict[int, Path],
    tmp_path: Path,
) -> None:
    own = start_faulty("--follow", str(tmp_path), POLL_S="0.2", PATIENCE_S="1")
    load = chaos.Load(own, rollouts, 4)
    try:
        for step, act in enumerate(_INCOMPLETE.values(), 1):
            act(shutil.copytree(checkpoints[10], tmp_path / f"global_step{step}_hf"))
        refused = shutil.copytree(checkpoints[10], tmp_path / "global_step50_hf")
        (refused / "tokenizer.json").write_text("{}")  # whole, but no tokenizer
        chaos.wait_until(
            lambda: own.health["checkpoints_incomplete"] == len(_INCOMPLETE), within_s=60
        )
        chaos.wait_until(lambda: own.health["checkpoints_refused"] == 1)
        assert own.health["policy_version"] == 0
        assert own.health["follow_newest_step"] == 50
        shutil.copytree(checkpoints[10], tmp_path / "global_step60_hf")
        chaos.wait_until(lambda: own.health["policy_version"] == 60)
    finally:
        answers = load.stop()
    chaos.assert_rewarded(answers)
    assert len(answers) > 20
    for step, fault in enumerate(_INCOMPLETE, 1):
        assert own.log_text.count(f"global_step{step}_hf stays incomplete") == 1, fault
    assert own.log_text.count("Traceback") == 0
    assert own.health["checkpoints_incomplete"] == 0
    assert own.health["checkpoints_refused"] == 1
    assert own.health["follow_look_age_s"] < 30
    assert own.stop() == 0


@pytest.mark.parametrize(
    ("kind", "has_room"), [("cuda", True), ("memory", False), ("io", True), ("io", False)]
)
def test_a_load_that_fails_for_a_while_is_tried_again(
    start_faulty: Callable[..., FaultyServer],
    rollouts: list[Rollout],
    chaos: Helpers,
    checkpoints: dict[int, Path],
    tmp_path: Path,
    kind: str,
    has_room: bool,
) -> None:
    """Also if there is no room for both, and the old weights cannot be loaded again either."""
    own = start_faulty("--follow", str(tmp_path), POLL_S="0.2", FIRST_RETRY_S="0.2")
    own.tell(fail_load=kind, has_room=has_room)
    load = chaos.Load(own, rollouts, 4)
    try:
        shutil.copytree(checkpoints[10], tmp_path / "global_step10_hf")
        chaos.wait_until(lambda: own.health["checkpoint_failures"] >= 3, within_s=60)
        assert own.health["policy_version"] == 0
        own.tell(has_room=has_room)
        chaos.wait_until(lambda: own.health["policy_version"] == 10, within_s=60)
    finally:
        own.tell()
        answers = load.stop()
    chaos.assert_rewarded(answers)
    assert own.health["checkpoints_refused"] == 0
    assert own.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_another_user_wrote_is_said_and_loaded_once_it_is_readable(
    start_faulty: Callable[..., FaultyServer],
    chaos: Helpers,
    checkpoints: dict[int, Path],
    shared_folder: Path,
) -> None:
    folder = shared_folder / "ckpt"
    folder.mkdir(mode=0o700)
    own = start_faulty("--follow", str(folder), POLL_S="0.2", PATIENCE_S="1", FOLLOW_AS=str(65534))
    chaos.wait_until(lambda: f"cannot read --follow {folder}: Permission denied" in own.log_text)
    chaos.wait_until(lambda: own.health["checkpoint_failures"] > 3)
    folder.chmod(0o755)
    checkpoint = shutil.copytree(checkpoints[10], folder / "global_step10_hf")
    (checkpoint / "model.safetensors").chmod(0o600)
    chaos.wait_until(lambda: own.health["checkpoints_incomplete"] == 1)
    assert own.log_text.count("permission denied for user") == 1
    assert own.log_text.count("cannot read --follow") == 1
    (checkpoint / "model.safetensors").chmod(0o644)
    chaos.wait_until(lambda: own.health["policy_version"] == 10)
    assert own.stop() == 0


@pytest.fixture
def protected(start_faulty: Callable[..., FaultyServer], tmp_path: Path) -> FaultyServer:
    """A server that takes `/update_weights`, and follows the folder `ckpt`."""
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    flags = ("--api-key-file", str(keys), "--follow", str(tmp_path / "ckpt"))
    return start_faulty(*flags, POLL_S="0.2")


async def _update(own: FaultyServer, chaos: Helpers, path: Path) -> Answer:
    payload = {"path": str(path)}
    return await chaos.post(own.address, payload, headers=_AUTHORIZATION, path="/update_weights")


async def _send_update(
    own: FaultyServer, chaos: Helpers, path: Path
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Sends a request and does not wait for its answer."""
    reader, writer = await asyncio.open_connection(*own.address)
    body = {"path": str(path)}
    writer.write(chaos.encode_request(body, headers=_AUTHORIZATION, path="/update_weights"))
    await writer.drain()
    return reader, writer


def test_a_flood_of_updates_makes_no_threads(
    protected: FaultyServer, chaos: Helpers, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    """One loads and one waits. The others are told so, or share the answer."""
    protected.tell(load_s=600)
    waiting = shutil.copytree(checkpoints[20], tmp_path / "waiting")
    others = [tmp_path / f"other{number}" for number in range(250)]
    for path in others:
        path.mkdir()

    async def flood() -> tuple[list[Answer], list[Answer]]:
        first = asyncio.create_task(_update(protected, chaos, checkpoints[10]))
        await asyncio.to_thread(
            chaos.wait_until, lambda: f"loading {checkpoints[10]}" in protected.log_text
        )
        shared = [await _send_update(protected, chaos, waiting)]
        await asyncio.sleep(1)  # two threads parse, so the next request could overtake this one
        refused = [await _update(protected, chaos, others[0])]
        num_threads = protected.process.num_threads()
        refused += await asyncio.gather(*(_update(protected, chaos, path) for path in others[1:]))
        shared += [
            await _send_update(protected, chaos, path) for path in [checkpoints[10], waiting] * 25
        ]
        refused.append(await _update(protected, chaos, others[0]))  # by now, all are held
        # The intake's pools and PyTorch's may start their last threads meanwhile.
        assert protected.process.num_threads() <= num_threads + 4
        protected.server.process.terminate()
        received = await asyncio.gather(*(reader.read() for reader, _ in shared))
        for _, writer in shared:
            writer.close()
        return refused, [await first, *map(chaos.parse_answer, received)]

    refused, shared = chaos.run(flood(), 120)
    for answer in refused:
        assert (answer.status, answer.body["error"]["type"]) == (409, "busy")
        assert str(checkpoints[10]) in answer.body["error"]["message"]
    assert {answer.status for answer in shared} == {503}  # the server stops while it loads
    assert protected.server.process.wait(30) == 0


def _logs(own: FaultyServer, text: str) -> bool:
    return text in own.log_text


def test_updates_and_the_follower_take_turns(
    protected: FaultyServer, chaos: Helpers, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    protected.tell(load_s=0.3)
    folders = [shutil.copytree(checkpoints[10], tmp_path / f"update{n}") for n in range(8)]
    answers: list[Answer] = []

    async def ask(path: Path, stop: asyncio.Event) -> None:
        while not stop.is_set():
            answers.append(await _update(protected, chaos, path))
            await asyncio.sleep(0.02)

    async def run() -> None:
        stop = asyncio.Event()
        asking = [asyncio.create_task(ask(path, stop)) for path in folders]
        for step in (1000, 2000, 3000):
            shutil.copytree(checkpoints[10], tmp_path / "ckpt" / f"global_step{step}_hf")
            served = f"policy version {step} from"
            await asyncio.to_thread(chaos.wait_until, partial(_logs, protected, served), 60)
        stop.set()
        await asyncio.gather(*asking)

    chaos.run(run(), 240)
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 409}
    assert statuses.count(200) > 3
    assert protected.stop() == 0


def test_an_update_whose_client_has_left_is_not_loaded(
    protected: FaultyServer, chaos: Helpers, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    """Not even if no other takes its place."""
    protected.tell(load_s=8)
    left = shutil.copytree(checkpoints[20], tmp_path / "left")

    async def leave() -> Answer:
        first = asyncio.create_task(_update(protected, chaos, checkpoints[10]))
        await asyncio.to_thread(
            chaos.wait_until, lambda: f"loading {checkpoints[10]}" in protected.log_text
        )
        _, writer = await _send_update(protected, chaos, left)
        await asyncio.sleep(2)  # it is parsed, and waits
        assert (await _update(protected, chaos, tmp_path)).status == 409
        writer.close()
        return await first

    assert chaos.run(leave()).status == 200
    chaos.wait_until(lambda: "499 client_gone" in protected.log_text)
    last = chaos.run(_update(protected, chaos, checkpoints[20]))
    assert (last.status, last.body) == (200, {"policy_version": 20})
    assert f"loading {left}" not in protected.log_text
    assert protected.stop() == 0
