"""Embeddings from an OpenAI-compatible endpoint: a hosted service, or vLLM, TEI, Ollama, llama.cpp on this machine.

The one encoder that uses the network, because naming it asks for that.
"""

from __future__ import annotations

import email.utils
import json
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from inlay.encoders.fingerprints import fingerprint
from inlay.encoders.items import bar, size_of, texts
from inlay.errors import BadInput, InlayError, MissingExtra
from inlay.types import Space

__all__ = ["Endpoint", "Usage"]

DEFAULT_URL = "https://api.openai.com/v1"
BATCH = 128
LONGEST_WAIT = 120.0
_QUOTED = 500


@dataclass
class Usage:
    """What an endpoint has been asked for so far: the ledger from which a bill can be checked.

    `tokens` is what the server reported (0 where it reports none); `retries` counts requests that had to be repeated.
    """

    requests: int = 0
    retries: int = 0
    texts: int = 0
    tokens: int = 0


class _TryAgain(Exception):
    """A failure that may pass by itself; `wait` seconds if the server said how long."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class Endpoint:
    """Rows from `POST {base_url}/embeddings`.

    A text without words gets a zero row and is not sent (services refuse empty input). The API key is read from the
    environment at each request and kept nowhere. The identity of the space is host, model, `dimensions` and prompts:
    nobody outside can tell whether a service changed its weights under the same name. The width is not part of it, so
    that it is the same before and after the first answer.

    Args:
        model: name of the model, as the service knows it.
        base_url: up to and including `/v1`; otherwise `OPENAI_BASE_URL`, otherwise OpenAI.
        dim: width of the rows, if known; otherwise `space.dim` is 0 until the first answer.
        dimensions: ask the service to shorten its rows to this width (not all services can).
        key_env: environment variable that holds the API key.
        batch_size: texts in a request at most.
        batch_chars: characters in a request at most (a longer text goes alone).
        requests_per_minute: never send faster than this.
        retries: how often a request is repeated after a timeout, a lost connection, a 429 or a 5xx.
        backoff: seconds before the first repetition; doubles each time, with jitter, unless the server says how long.
        timeout: seconds to wait for an answer.
        query_prompt: put before every query.
        document_prompt: put before every document.
    """

    expensive = True

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        dim: int | None = None,
        dimensions: int | None = None,
        key_env: str = "OPENAI_API_KEY",
        batch_size: int = BATCH,
        batch_chars: int = 200_000,
        requests_per_minute: float | None = None,
        retries: int = 6,
        backoff: float = 0.5,
        timeout: float = 60.0,
        query_prompt: str = "",
        document_prompt: str = "",
    ) -> None:
        if not isinstance(model, str) or not model:
            raise BadInput(f"model must be the name of a model, got {model!r}")
        counts = {"dim": dim, "dimensions": dimensions, "batch_size": batch_size, "batch_chars": batch_chars}
        for name, value in counts.items():
            _check_count(name, value)
        for name, number in (("backoff", backoff), ("timeout", timeout), ("requests_per_minute", requests_per_minute)):
            if number is not None and not 0 < number < float("inf"):
                raise BadInput(f"{name} must be a positive number, got {number!r}")
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise BadInput(f"retries must be a whole number >= 0, got {retries!r}")
        if dim is not None and dimensions is not None and dim != dimensions:
            raise BadInput(f"dim={dim} contradicts dimensions={dimensions}; give one of them")
        self.model, self.key_env = model, key_env
        self.base_url = _base_url(base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL)
        if self.base_url == DEFAULT_URL and not os.environ.get(key_env):
            raise BadInput(f"no API key: set {key_env} in the environment, or give base_url for another service")
        self.dim, self.dimensions = dim or dimensions, dimensions
        self.batch_size, self.batch_chars = batch_size, batch_chars
        self.requests_per_minute, self.retries = requests_per_minute, retries
        self.backoff, self.timeout = backoff, timeout
        self.query_prompt, self.document_prompt = query_prompt, document_prompt
        self.usage = Usage()
        self._client: Any = None
        self._lock, self._next_slot = threading.Lock(), 0.0
        _libraries()

    def __repr__(self) -> str:
        return f"Endpoint({self.model!r}, base_url={self.base_url!r}, dim={self.dim or 'unknown yet'})"

    @property
    def space(self) -> Space:
        parts = urlsplit(self.base_url)
        settings = {"host": parts.netloc.lower(), "model": self.model, "dimensions": self.dimensions}
        settings |= {"query": self.query_prompt, "document": self.document_prompt}
        return Space("dense", self.dim or 0, "cosine", fingerprint("openai", settings))

    @property
    def spec(self) -> dict[str, Any]:
        """Arguments of `inlay.encoder` that make this encoder again; never the key."""
        spec: dict[str, Any] = {"name": "openai", "model": self.model, "base_url": self.base_url}
        usual = {
            "dim": None,
            "dimensions": None,
            "key_env": "OPENAI_API_KEY",
            "batch_size": BATCH,
            "batch_chars": 200_000,
            "requests_per_minute": None,
            "retries": 6,
            "backoff": 0.5,
            "timeout": 60.0,
            "query_prompt": "",
            "document_prompt": "",
        }
        return spec | {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}

    def encode_document(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Rows float32 [n, dim], as the service gives them."""
        return self._encode(items, self.document_prompt, batch_size, progress)

    def encode_query(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Rows float32 [n, dim]; the query prompt goes first."""
        return self._encode(items, self.query_prompt, batch_size, progress)

    def close(self) -> None:
        """Close the connection; the next request opens one."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _encode(self, items: Sequence[str], prompt: str, batch_size: int | None, progress: bool) -> np.ndarray:
        checked = texts(items)
        most = size_of(batch_size, self.batch_size)
        sent = [i for i, text in enumerate(checked) if text.strip()]
        if self.dim is None and checked and not sent:
            self._request(["."])  # rows of zeros need a width
        parts = []
        with bar(len(checked), progress=progress, what=self.model) as shown:
            shown.update(len(checked) - len(sent))
            lengths = [len(prompt) + len(checked[i]) for i in sent]
            for part in _batches(lengths, most, self.batch_chars):
                parts.append(self._request([prompt + checked[i] for i in sent[part]]))
                shown.update(len(parts[-1]))
        rows = np.zeros((len(checked), self.dim or 0), dtype=np.float32)
        if parts:
            rows[sent] = np.concatenate(parts)
        return rows

    def _request(self, batch: list[str]) -> np.ndarray:
        """One request, repeated as long as there is hope; rows in the order of the texts."""
        httpx, tenacity = _libraries()

        def wait(state: Any) -> float:
            self.usage.retries += 1
            asked = state.outcome.exception().wait
            growing = min(self.backoff * 2.0 ** (state.attempt_number - 1), LONGEST_WAIT / 2)
            # Jitter, so that clients which failed together do not come back together.
            return growing * random.uniform(1, 1.5) if asked is None else asked

        try:
            answer = tenacity.Retrying(
                stop=tenacity.stop_after_attempt(self.retries + 1),
                wait=wait,
                retry=tenacity.retry_if_exception_type(_TryAgain),
                reraise=True,
            )(self._post, httpx, batch)
        except _TryAgain as error:
            raise InlayError(f"{self.base_url} failed {self.retries + 1} times; the last time: {error}") from error
        return self._rows(answer, len(batch))

    def _post(self, httpx: Any, batch: list[str]) -> Any:
        self._await_slot()
        if self._client is None:
            self._client = httpx.Client(timeout=self.timeout)
        key = os.environ.get(self.key_env)
        body: dict[str, Any] = {"model": self.model, "input": batch}
        if self.dimensions is not None:
            body["dimensions"] = self.dimensions
        self.usage.requests += 1
        try:
            response = self._client.post(
                f"{self.base_url}/embeddings", json=body, headers={"Authorization": f"Bearer {key}"} if key else {}
            )
        except httpx.TransportError as error:  # timeouts, refused and lost connections
            raise _TryAgain(f"{type(error).__name__}: {error}") from error
        status, said = response.status_code, _quote(response.text)
        if status == 429 or status >= 500:
            wait = _retry_after(response.headers.get("retry-after"))
            if wait is not None and wait > LONGEST_WAIT:
                raise InlayError(f"{self.base_url} asks to wait {wait:.0f} s (status {status}): {said}")
            raise _TryAgain(f"status {status}: {said}", wait)
        if status in (401, 403):
            raise BadInput(f"{self.base_url} refused the key in {self.key_env} (status {status}): {said}")
        if status != 200:
            raise BadInput(f"{self.base_url} refused a request for {self.model!r} (status {status}): {said}")
        try:
            answer = response.json()
        except ValueError:
            raise _TryAgain(f"an answer that is not JSON: {said}") from None
        self.usage.texts += len(batch)
        usage = answer.get("usage") if isinstance(answer, dict) else None
        if isinstance(usage, dict):
            self.usage.tokens += int(usage.get("total_tokens") or usage.get("prompt_tokens") or 0)
        return answer

    def _await_slot(self) -> None:
        """Space requests evenly, also between threads."""
        if self.requests_per_minute is None:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_slot)
            self._next_slot = start + 60.0 / self.requests_per_minute
        time.sleep(start - now)

    def _rows(self, answer: Any, count: int) -> np.ndarray:
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
            raise InlayError(f"{self.base_url} gave no list of embeddings: {_quote(json.dumps(answer))}")
        if len(data) != count:
            raise InlayError(f"{self.base_url} gave {len(data)} embeddings for {count} texts")
        # Servers may answer out of order; where the index is missing, the order is that of the texts.
        order = [entry.get("index", i) for i, entry in enumerate(data)]
        if sorted(map(str, order)) != sorted(map(str, range(count))):
            raise InlayError(f"{self.base_url} numbered {count} embeddings {order[:10]}, expected 0 to {count - 1}")
        try:
            rows = np.array([entry["embedding"] for entry in data], dtype=np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise InlayError(f"{self.base_url} gave embeddings that are not rows of numbers: {error!r}") from None
        if rows.ndim != 2 or not rows.shape[1] or not np.isfinite(rows).all():
            raise InlayError(f"{self.base_url} gave embeddings of shape {list(rows.shape)}, or not finite")
        if self.dim is not None and rows.shape[1] != self.dim:
            raise InlayError(f"{self.base_url} gave rows of width {rows.shape[1]}, expected {self.dim}")
        self.dim = rows.shape[1]
        ordered = np.empty_like(rows)
        ordered[[int(i) for i in order]] = rows
        return ordered


def _libraries() -> tuple[Any, Any]:
    try:
        import httpx
        import tenacity
    except ImportError:
        raise MissingExtra("embedding endpoints", "api") from None
    return httpx, tenacity


def _check_count(name: str, value: int | None) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise BadInput(f"{name} must be a positive integer, got {value!r}")


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput(f"base_url must start with http:// or https://, got {url!r}")
    if parts.username or parts.password:
        raise BadInput("base_url must not hold a password, because it is stored; name a variable with key_env instead")
    if parts.query or parts.fragment:
        raise BadInput(f"base_url must end in a path, got {url!r}")
    path = parts.path.rstrip("/").removesuffix("/embeddings")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _batches(lengths: list[int], most: int, most_chars: int) -> Iterator[slice]:
    low = chars = 0
    for i, length in enumerate(lengths):
        if i > low and (i - low == most or chars + length > most_chars):
            yield slice(low, i)
            low, chars = i, 0
        chars += length
    if low < len(lengths):
        yield slice(low, len(lengths))


def _retry_after(header: str | None) -> float | None:
    """Seconds from a Retry-After header: a number, or a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _quote(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _QUOTED else text[:_QUOTED] + "…"
