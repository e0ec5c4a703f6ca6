"""The process that talks to Ray: python -m reward_server.scaling.driver DESCRIPTOR

`reward_server.scaling.connection` starts it in a session of its own, which Ctrl-C at the server's
terminal does not reach. It ends when the connection to the server closes, however the server ended,
and its scorers end with it. Ray ends it if the cluster's head is lost.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from reward_server.scaling.fleet import Fleet
from reward_server.scaling.messages import (
    AddScorer,
    Call,
    Connected,
    Forget,
    NotConnected,
    Ping,
    Pong,
    RestartScorer,
    StopScorer,
)
from reward_server.scaling.options import ScalingOptions
from sar.errors import MAX_MESSAGE_CHARS, one_line

# How long Ray may take to end by itself once the server has gone.
_END_S = 10.0
# Between looks at Ray's node on this machine.
_LOOK_S = 5.0

INSTALL_ADVICE = "Ray is not installed: pip install -c constraints.txt -e '.[scale]'"


def main(descriptor: int) -> None:
    """Runs scorers until the connection closes."""
    connection: Connection[Any, Any] = Connection(descriptor)
    sending = threading.Lock()
    received: SimpleQueue[Any] = SimpleQueue()

    def send(message: Any) -> None:
        with sending:
            try:
                connection.send(message)
            except OSError:  # the server has ended: `_receive` notices too
                received.put(None)

    start = connection.recv()
    options: ScalingOptions = start.options
    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
    try:
        import ray
        from ray import init  # noqa: F401  a folder that is called ray can be imported too
    except ImportError as error:
        if error.name != "ray":
            raise
        send(NotConnected(INSTALL_ADVICE, is_final=True))
        return
    try:
        num_gpus = _connect(ray, options)
    except Exception as error:  # noqa: BLE001  Ray raises anything
        reason = one_line(error, MAX_MESSAGE_CHARS)
        if is_here := options.ray_address is None:
            reason = f"cannot start Ray on this machine: {reason}"
        send(NotConnected(reason, is_final=is_here))
        return
    threading.Thread(target=_watch_node, args=(ray, received), daemon=True).start()
    fleet = Fleet(ray, options, num_gpus, send, received.put)
    send(Connected(num_gpus))
    while (message := received.get()) is not None:
        if isinstance(message, Ping):
            send(Pong())
        else:
            _handle(fleet, message)
    timer = threading.Timer(_END_S, os._exit, (1,))
    timer.daemon = True
    timer.start()
    ray.shutdown()


def _connect(ray: Any, options: ScalingOptions) -> float:
    """Connects to Ray, or starts it here. Returns the GPUs of each scorer."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # The scorers' own output stays in Ray's logs.
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if options.ray_address is None:
        wanted = int(options.num_scorers * options.num_cpus + 0.999)
        num_cpus = max(os.cpu_count() or 1, wanted)
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **quiet)
    else:
        ray.init(address=options.ray_address, **quiet)
    if options.num_gpus is not None:
        return options.num_gpus
    has_gpus = options.model.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
    return float(options.model.tensor_parallel_size) if has_gpus else 0.0


def _handle(fleet: Fleet, message: Any) -> None:
    match message:
        case Call():
            fleet.call(message)
        case AddScorer():
            fleet.add(message.scorer)
        case StopScorer():
            fleet.stop(message.scorer)
        case RestartScorer():
            fleet.restart(message.scorer, message.run, message.reason)
        case Forget():
            fleet.forget(message.key)
        case _ if callable(message):
            post: Callable[[], None] = message
            post()
        case _:
            raise TypeError(f"an unknown message: {type(message).__name__}")


def _watch_node(ray: Any, received: SimpleQueue[Any]) -> None:
    """Ends this process once Ray's node on this machine has ended. Ray itself does not always end
    it. The server then starts another process, which also starts Ray if the server had started it.
    """
    own = ray.get_runtime_context().get_node_id()
    while True:
        time.sleep(_LOOK_S)
        try:
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        except Exception:  # noqa: BLE001, S112  without its head, Ray ends this process by itself
            continue
        if own not in alive:
            print("Ray's node on this machine has ended", flush=True)  # noqa: T201  to the server
            received.put(None)
            return


def _receive(connection: Connection[Any, Any], received: SimpleQueue[Any]) -> None:
    """Passes messages on, and None once the connection closes."""
    try:
        while True:
            received.put(connection.recv())
    except (EOFError, OSError):
        received.put(None)


if __name__ == "__main__":
    status = 1
    try:
        main(int(sys.argv[1]))
        status = 0
    except BaseException:  # noqa: BLE001  the server starts this process again
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(status)  # Ray's threads, or ours that wait for Ray, may still run
