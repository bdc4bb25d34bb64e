"""Servers on the loopback address that speak as vLLM and SGLang do, with a draft that is right as often as a test says.

What they answer follows the engines' own sources: vLLM 0.33.0 (entrypoints/openai/completion/protocol.py,
v1/spec_decode/metrics.py, v1/metrics/loggers.py, entrypoints/serve/middleware/authenticate.py) and SGLang 0.5.23
(srt/entrypoints/http_server.py, srt/entrypoints/openai/protocol.py, srt/managers/tokenizer_manager.py:3133-3202,
srt/observability/metrics_collector.py, srt/utils/auth.py).
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, str, bytes]
"""Status, content type, body."""


@dataclass
class Engine:
    """What both engines have in common: a model that generates, and a draft that is verified."""

    accepted: tuple[int, ...] | None = (2, 1, 0)
    """How many of the draft tokens each step accepts, in turn; None: no speculation."""
    draft_tokens: int = 2
    metrics: bool = True
    key: str = ""
    model: str = "tiny"
    lag: int = 0
    """So many looks at the metrics miss what came last."""
    per_token: float = 0.0
    """Seconds that a token takes."""
    started: float = 1.7e9
    overrides: dict[str, Callable[[], Reply]] = field(default_factory=dict)
    """Path to what is answered there instead."""
    on_completion: Callable[[Engine], object] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    positions: Counter[int] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _shown: tuple[str, int] = ("", 0)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, headers: dict[str, str], body: bytes | None) -> Reply:
        self.asked.append((path, headers))
        if path in self.overrides:
            return self.overrides[path]()
        if self.key and self.guarded(path) and headers.get("authorization") != f"Bearer {self.key}":
            return 401, "application/json", b'{"error": "Unauthorized"}'
        if path == "/v1/models":
            card = {"id": self.model, "object": "model", "owned_by": self.owner, "max_model_len": 4096}
            return _json({"object": "list", "data": [card]})
        if path == "/v1/completions" and body is not None:
            return self._completion(json.loads(body))
        if path == "/metrics" and self.metrics:
            return 200, "text/plain; version=0.0.4; charset=utf-8", self._lagging().encode()
        return self.other(path)

    owner = ""

    def guarded(self, path: str) -> bool:
        raise NotImplementedError

    def other(self, path: str) -> Reply:
        return 404, "application/json", b'{"detail":"Not Found"}'

    def text(self) -> str:
        raise NotImplementedError

    def extra(self, body: dict[str, Any], steps: list[int]) -> dict[str, Any]:
        return {}

    def _completion(self, body: dict[str, Any]) -> Reply:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self.per_token * body["max_tokens"])
        with self._lock:
            self.bodies.append(body)
            steps = self._generate(body["max_tokens"])
            self._at_once -= 1
            if self.on_completion is not None:
                self.on_completion(self)
        usage = {"prompt_tokens": 5, "completion_tokens": body["max_tokens"], "total_tokens": 5 + body["max_tokens"]}
        choice = {"index": 0, "text": " word" * body["max_tokens"], "finish_reason": "length"}
        document = {"id": "cmpl-1", "object": "text_completion", "model": body["model"], "choices": [choice]}
        return _json({**document, "usage": usage, **self.extra(body, steps)})

    def _generate(self, tokens: int) -> list[int]:
        """How many draft tokens each step accepted; the first token comes with the prompt and takes none."""
        steps: list[int] = []
        made = 1
        while made < tokens and self.accepted:
            accepted = min(self.accepted[len(steps) % len(self.accepted)], tokens - made - 1)
            steps.append(accepted)
            made += 1 + accepted
        self.counts["tokens"] += tokens
        self.counts["drafts"] += len(steps)
        self.counts["drafted"] += len(steps) * self.draft_tokens
        self.counts["accepted"] += sum(steps)
        for accepted in steps:
            self.positions.update(range(accepted))
        return steps

    def _lagging(self) -> str:
        """The metrics, of which the last change is seen `lag` looks later."""
        text = self.text()
        shown, looks = self._shown
        if text != shown and looks < self.lag and shown:
            self._shown = (shown, looks + 1)
            return shown
        self._shown = (text, 0)
        return text


class VLLM(Engine):
    """vLLM 0.33.0 with two engines behind one front end."""

    owner = "vllm"

    def guarded(self, path: str) -> bool:
        return path.startswith(("/v1", "/v2", "/inference", "/cohere"))

    def other(self, path: str) -> Reply:
        return _json({"version": "0.33.0"}) if path == "/version" else super().other(path)

    def text(self) -> str:
        lines = [*_metric("process_start_time_seconds", "gauge", [("", self.started)])]
        lines += self._counter("generation_tokens", self.counts["tokens"])
        if self.accepted is not None:
            lines += self._counter("spec_decode_num_drafts", self.counts["drafts"])
            lines += self._counter("spec_decode_num_draft_tokens", self.counts["drafted"])
            lines += self._counter("spec_decode_num_accepted_tokens", self.counts["accepted"])
            name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
            places = reversed(range(self.draft_tokens))
            lines += _metric(
                name, "counter", [(self._labels(0, f',position="{p}"'), self.positions[p]) for p in places]
            )
        lines += _metric("vllm:cache_config_info", "gauge", [('{cache_dtype="auto",engine="0"}', "1.0")])
        return "\n".join(lines) + "\n"

    def _labels(self, engine: int, more: str = "") -> str:
        return f'{{engine="{engine}",model_name="ti\\"n\\\\y, {{1}}"{more}}}'

    def _counter(self, name: str, value: int) -> list[str]:
        halves = [(self._labels(0), value - value // 2), (self._labels(1), value // 2)]
        created = [(labels, 1.7e9) for labels, _ in halves]
        return _metric(f"vllm:{name}_total", "counter", halves) + _metric(f"vllm:{name}_created", "gauge", created)


class SGLang(Engine):
    """SGLang 0.5.23; `details` and `info` can be taken away, as older versions and routers have it."""

    owner = "sglang"
    details = True
    info = "/server_info"
    average: float | None = None

    def guarded(self, path: str) -> bool:
        return not path.startswith(("/health", "/ready", "/metrics"))

    def other(self, path: str) -> Reply:
        if path != self.info:
            return super().other(path)
        state = {} if self.average is None else {"avg_spec_accept_length": self.average}
        algorithm = "EAGLE" if self.accepted is not None else None
        secrets = {"api_key": self.key, "speculative_algorithm": algorithm}
        return _json({**secrets, "internal_states": [state, {"last_gen_throughput": 9.5}], "version": "0.5.23"})

    def extra(self, body: dict[str, Any], steps: list[int]) -> dict[str, Any]:
        if not (body.get("return_spec_tokens_details") and self.details and steps):
            return {}
        told = {
            "spec_accept_rate": sum(steps) / (len(steps) * self.draft_tokens),
            "spec_accept_length": body["max_tokens"] / len(steps),
            "spec_num_correct_drafts": sum(steps),
            "spec_num_proposed_drafts": len(steps) * self.draft_tokens,
            "spec_verify_ct": len(steps),
            "spec_correct_drafts_histogram": [steps.count(k) for k in range(max(steps) + 1)],
        }
        return {"sglext": {"spec_tokens_details": told}}

    def text(self) -> str:
        lines = _metric("sglang:gen_throughput", "gauge", [('{engine_type="unified"}', "NaN")])
        if self.counts["tokens"]:  # counters with labels appear with their first value
            labels = '{is_streaming="false",model_name="tiny"}'
            lines += _metric("sglang:generation_tokens_total", "counter", [(labels, self.counts["tokens"])])
        if self.counts["drafts"]:
            labels = '{model_name="tiny"}'
            lines += _metric("sglang:spec_verify_calls_total", "counter", [(labels, self.counts["drafts"])])
        return "\n".join(lines) + "\n"


@contextmanager
def serving(engine: Engine) -> Iterator[str]:
    """`engine` behind an address of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(None)

        def do_POST(self) -> None:
            self._reply(self.rfile.read(int(self.headers["Content-Length"])))

        def _reply(self, body: bytes | None) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, kind, data = engine.answer(self.path, headers, body)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            if status in (301, 302, 307):
                self.send_header("Location", "http://elsewhere.example/")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _json(document: dict[str, Any]) -> Reply:
    return 200, "application/json", json.dumps(document).encode()


def _metric(name: str, kind: str, samples: list[tuple[str, Any]]) -> list[str]:
    return [f"# HELP {name} What it is.", f"# TYPE {name} {kind}", *(f"{name}{labels} {v}" for labels, v in samples)]
