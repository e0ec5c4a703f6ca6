"""Fixtures that several test files use."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import jsonschema
import pytest

from reward_server.launch import ServerProcess

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
# Statuses of requests refused before they reach a route; `default` in the document.
_REFUSED = {400, 403, 404, 405, 408, 414}

if "PYTEST_XDIST_WORKER" in os.environ:
    # One worker a core: with more threads than cores, idle OpenMP threads spin and tests take eight
    # times as long. torch reads this when it is imported, here and in the servers of tests.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# tests/real needs a real model, tests/scaling needs Ray; tests/chaos loads live servers.
_SLOW_FOLDERS = ("chaos", "real", "scaling")
# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("fuzz", parent=hypothesis.settings.get_profile("tests"))
hypothesis.settings.load_profile("tests")


class TestedServer(ServerProcess):
    """A `python -m reward_server` of this checkout on a free port, and requests to it."""

    __test__ = False

    def __init__(
        self,
        log: Path,
        *arguments: str,
        program: Sequence[str] = ("-m", "reward_server"),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        own = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **(environ or {})}
        super().__init__(*arguments, log=log, program=program, environ=own)

    def request(self, path: str, body: Any = None, method: str | None = None) -> tuple[int, Any]:
        """Sends one request. Returns the status and the JSON, or the text if it is not JSON.

        Args:
            body: sent as JSON, or unchanged if it is bytes.
        """
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                status, text = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text


class Contract:
    """Checks answers against what /openapi.json promises."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def check(self, method: str, path: str, status: int, content_type: str, body: bytes) -> Any:
        """Fails if an answer is not as documented. Returns its JSON, or None if it is not JSON."""
        path, method = (path, method) if path else ("/get_reward", "POST")
        operation = self.document["paths"].get(path, {}).get(method.lower(), {})
        response = operation.get("responses", {}).get(str(status))
        if not response:
            assert status in _REFUSED, (method, path, status, body[:500])
            response = self.document["components"]["responses"]["Refused"]
        mimetype = content_type.partition(";")[0]
        assert mimetype in response["content"], (method, path, status, content_type)
        assert b"Traceback" not in body
        assert b'File "' not in body
        if mimetype != "application/json":
            return None
        value = json.loads(body)
        schema = response["content"][mimetype]["schema"]
        jsonschema.validate(
            value,
            {**schema, "components": self.document["components"]},
            jsonschema.Draft202012Validator,
        )
        return value


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks all tests of some folders as slow."""
    slow = {Path(__file__).parent / name for name in _SLOW_FOLDERS}
    for item in items:
        if not slow.isdisjoint(item.path.parents):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def contract() -> Contract:
    from reward_server.http.openapi import describe

    return Contract(describe(needs_key=False))


@pytest.fixture(scope="session")
def make_contract() -> type[Contract]:
    """Makes a contract of another document."""
    return Contract


@pytest.fixture(scope="session")
def start_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., TestedServer]]:
    """Starts a server that one test uses: `start_server("--sar-weight", "0.5")`. It listens, but
    its model may still be loading."""
    started: list[TestedServer] = []

    def start(*arguments: str, **options: Any) -> TestedServer:
        server = TestedServer(tmp_path_factory.mktemp("server") / "log", *arguments, **options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.process.kill()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., TestedServer]) -> Iterator[TestedServer]:
    """A server on the bundled model that the whole session shares."""
    shared = start_server()
    shared.wait_until_ready()
    yield shared
    assert shared.stop() == 0, shared.log.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium. Of a module, as Playwright's event loop would disturb other tests."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium; the Debian packages in .ci/apt.txt have it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without its sandbox, which root may not use; the pages are this test's own.
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


class Tab:
    """A page in headless Chromium, with all that went wrong and all that it asked for."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.response = self.page.goto(url)

    def wait(self, condition: str) -> None:
        """Waits until an expression in JavaScript is true."""
        # A function: the page's security policy forbids to evaluate a text again and again.
        self.page.wait_for_function(f"() => {condition}")

    def read_pixels(self, selector: str) -> str:
        """What a chart looks like."""
        image: str = self.page.eval_on_selector(
            f"{selector} canvas", "canvas => canvas.toDataURL()"
        )
        return image

    def wait_for_redraw(self, selector: str, before: str) -> None:
        """Waits until a chart looks different from what `read_pixels` gave."""
        self.page.wait_for_function(
            "([selector, before]) => document.querySelector(selector).toDataURL() !== before",
            arg=[f"{selector} canvas", before],
        )

    def check(self) -> None:
        """Fails if anything went wrong, or if a request left for another server."""
        assert self.complaints == []
        own = "/".join(self.page.url.split("/")[:3])
        assert [url for url in self.requests if not url.startswith(f"{own}/")] == []


@pytest.fixture
def open_tab(browser: Any) -> Iterator[Callable[..., Tab]]:
    """Opens pages: `open_tab(url, color_scheme="dark")`."""
    tabs: list[Tab] = []

    def open_(url: str, **options: Any) -> Tab:
        tabs.append(Tab(browser, url, **options))
        return tabs[-1]

    yield open_
    for tab in tabs:
        tab.page.close()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Samples of the real data sets. They lie beside the repository, not in it."""
    if not DATA.is_dir():
        pytest.skip(f"no {DATA}: samples of the real data sets")
    return DATA


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that other users reach; those of pytest are the own user's alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def bundled_model_path() -> Path:
    """Folder of the bundled demo model."""
    from sar.models import BUNDLED_MODEL

    return BUNDLED_MODEL


@pytest.fixture(scope="session")
def bundled_tokenizer(bundled_model_path: Path) -> Any:
    """The bundled model's tokenizer: byte-level and lossless. Not thread-safe."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_model_path)


def _write_checkpoint(model: Path, folder: Path, factor: float, num_shards: int = 1) -> Path:
    """Copies a model and scales its last norm: same architecture, different likelihoods."""
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True)
    for file in model.iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copy(file, folder)
    weights = "model.safetensors"
    tensors = load_file(model / weights)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * factor
    if num_shards == 1:
        save_file(tensors, folder / weights, {"format": "pt"})
        return folder
    names = [f"model-{n + 1:05}-of-{num_shards:05}.safetensors" for n in range(num_shards)]
    weight_map = {key: names[i % num_shards] for i, key in enumerate(sorted(tensors))}
    for name in names:
        shard = {key: tensors[key] for key, file in weight_map.items() if file == name}
        save_file(shard, folder / name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def checkpoints(
    tmp_path_factory: pytest.TempPathFactory, bundled_model_path: Path
) -> dict[int, Path]:
    """Complete checkpoints by step, in a folder that no server follows."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        10: _write_checkpoint(bundled_model_path, folder / "global_step10_hf", 0.5),
        20: _write_checkpoint(bundled_model_path, folder / "global_step20_hf", 2.0, num_shards=3),
    }


@pytest.fixture(scope="session")
def decision() -> Callable[..., Any]:
    """Makes decisions as the reward log holds them: `decision("It is 5.", "5", sar_weight=0.1)`."""
    from sar.decision import Decision
    from sar.grading.label import parse_label
    from sar.grading.verdict import Reason, Verdict
    from sar.reward import Likelihood, combine

    def make(
        response: str = "The answer is 5.",
        label: Any = "5",
        reason: Reason = Reason.CORRECT,
        *,
        answer: str | None = None,
        sar_weight: float = 0.2,
        nll_qa: float = 0.25,
        nll_a: float = 0.75,
        special_tokens: Sequence[str] = (),
        end_tokens: Sequence[str] = (),
        prompt: str = "What is 2 + 3?",
    ) -> Decision:
        parsed = parse_label(label)
        likelihood = Likelihood(nll_qa, nll_a, num_response_tokens=9, over_context=False)
        verdict = Verdict(reason, answer)
        return Decision.from_reward(
            combine(verdict, likelihood, sar_weight=sar_weight, mode=parsed.mode),
            request_id="r1",
            prompt=prompt,
            response=response,
            special_tokens=special_tokens,
            label_as_sent=label,
            label=parsed,
            sar_weight=sar_weight,
            template_mismatch=False,
            model="demo",
            server_version="0.1.0",
            end_tokens=end_tokens,
        )

    return make
