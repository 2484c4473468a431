"""The endpoint encoder against a small HTTP server on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from inlay.encoders import Endpoint, encoder
from inlay.encoders.endpoint import _batches, _retry_after
from inlay.errors import BadInput, InlayError

pytest.importorskip("httpx")
pytest.importorskip("tenacity")


def vector(text: str) -> list[float]:
    return [float(len(text)), float(sum(map(ord, text)) % 97), 1.0]


def good(body: dict) -> dict:
    data = [{"index": i, "embedding": vector(text)} for i, text in enumerate(body["input"])]
    return {"data": data, "usage": {"total_tokens": len(body["input"])}}


class Service:
    """Answers `script` entry by entry, then properly; each entry is (status, body or function, headers)."""

    def __init__(self) -> None:
        self.script: list[tuple] = []
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.times: list[float] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.requests.append({"path": self.path, **body})
                service.headers.append(dict(self.headers))
                service.times.append(time.monotonic())
                status, answer, headers = service.script.pop(0) if service.script else (200, good, {})
                if callable(answer):
                    answer = answer(body)
                payload = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # a client that timed out is gone
                    self.wfile.write(payload)

            def log_message(self, *arguments: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def service(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("OPENAI_"):
            monkeypatch.delenv(name)
    made = Service()
    yield made
    made.server.shutdown()
    made.server.server_close()


def endpoint(service: Service, **options) -> Endpoint:
    return Endpoint("small", base_url=service.url, **{"backoff": 0.01, **options})


def test_rows_in_order_and_what_is_sent(service, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    made = endpoint(service, query_prompt="q: ")
    texts = ["one", "two words", "", "three", " \n"]
    rows = made.encode_document(texts)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, [vector(text) if text.strip() else [0, 0, 0] for text in texts])
    assert service.requests == [{"path": "/v1/embeddings", "model": "small", "input": ["one", "two words", "three"]}]
    assert service.headers[0]["Authorization"] == "Bearer secret-key"
    np.testing.assert_array_equal(made.encode_query(["a"]), [vector("q: a")])
    assert "secret" not in json.dumps(made.spec) + repr(made) + made.space.fingerprint
    assert (made.usage.requests, made.usage.tokens, made.usage.texts, made.usage.retries) == (2, 4, 4, 0)
    made.close()
    made.encode_query(["again"])


def test_key_is_optional_elsewhere_and_needed_at_the_default(service, monkeypatch) -> None:
    endpoint(service).encode_query(["a"])
    assert "Authorization" not in service.headers[0]
    with pytest.raises(BadInput, match="OPENAI_API_KEY"):
        encoder("openai:text-embedding-3-small")
    monkeypatch.setenv("OPENAI_BASE_URL", service.url + "/")
    assert encoder("openai:small").encode_query(["ab"]).tolist() == [vector("ab")]


def test_identity_does_not_wait_for_the_first_answer(service) -> None:
    made = endpoint(service)
    before = made.space
    assert before.dim == 0
    assert made.encode_document([]).shape == (0, 0)
    made.encode_query(["a"])
    assert made.space.dim == 3
    assert made.space.fingerprint == before.fingerprint
    again = encoder(**json.loads(json.dumps(made.spec)))
    assert again.space == made.space
    assert again.spec == made.spec
    assert again.encode_document([]).shape == (0, 3)
    assert endpoint(service, dimensions=3).space.fingerprint != before.fingerprint
    assert Endpoint("other", base_url=service.url).space.fingerprint != before.fingerprint


def test_only_blank_texts_still_have_a_width(service) -> None:
    assert endpoint(service).encode_document(["", " "]).tolist() == [[0, 0, 0]] * 2
    assert endpoint(service, dim=3).encode_document([""]).shape == (1, 3)
    assert len(service.requests) == 1


def test_batches_by_count_and_by_characters(service) -> None:
    texts = ["x" * n for n in (3, 3, 3, 50, 3, 3)]
    made = endpoint(service, batch_size=2, batch_chars=10)
    np.testing.assert_array_equal(made.encode_document(texts), [vector(text) for text in texts])
    assert [len(request["input"]) for request in service.requests] == [2, 1, 1, 2]
    made.encode_document(texts, batch_size=1)
    assert len(service.requests) == 10
    assert [(s.start, s.stop) for s in _batches([1] * 5, 2, 99)] == [(0, 2), (2, 4), (4, 5)]
    assert list(_batches([], 2, 9)) == []


def test_out_of_order_answers_are_put_in_order(service) -> None:
    service.script = [(200, lambda body: {"data": good(body)["data"][::-1]}, {})]
    texts = ["a", "bb", "ccc"]
    np.testing.assert_array_equal(endpoint(service).encode_document(texts), [vector(text) for text in texts])


def test_throttled_then_served(service) -> None:
    service.script = [(429, {"error": "slow down"}, {"Retry-After": "0.3"})]
    made = endpoint(service)
    made.encode_query(["a"])
    assert service.times[1] - service.times[0] >= 0.29
    assert (made.usage.requests, made.usage.retries) == (2, 1)


def test_server_errors_and_rubbish_then_served(service) -> None:
    service.script = [(500, "oops", {}), (503, "", {}), (200, "<html>busy</html>", {})]
    made = endpoint(service)
    assert made.encode_query(["a"]).tolist() == [vector("a")]
    assert made.usage.retries == 3


def test_gives_up_and_quotes_the_last_error(service) -> None:
    service.script = [(500, {"error": {"message": "the disk is full"}}, {})] * 3
    with pytest.raises(InlayError, match=r"failed 3 times.*status 500.*the disk is full"):
        endpoint(service, retries=2).encode_query(["a"])
    assert len(service.requests) == 3


def test_does_not_wait_for_ever(service) -> None:
    service.script = [(429, "quota used up", {"Retry-After": "86400"})]
    with pytest.raises(InlayError, match=r"wait 86400 s.*quota used up"):
        endpoint(service).encode_query(["a"])


@pytest.mark.parametrize(
    ("status", "says"), [(400, "too long"), (401, "OPENAI_API_KEY"), (404, "no such model"), (302, "status 302")]
)
def test_refusals_are_not_repeated(service, status: int, says: str) -> None:
    service.script = [(status, {"error": {"message": "input too long, no such model"}}, {})]
    with pytest.raises(BadInput, match=says):
        endpoint(service).encode_query(["a"])
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda body: {"data": good(body)["data"][:1]}, "1 embeddings for 2 texts"),
        (lambda body: {"data": [{**entry, "index": 0} for entry in good(body)["data"]]}, "numbered"),
        (lambda body: {"data": [{"index": i} for i in range(2)]}, "not rows of numbers"),
        (lambda body: {"data": [{"embedding": [1.0, 2.0]}, {"embedding": [1.0]}]}, "not rows of numbers"),
        (lambda body: {"data": [{"embedding": [1.0, None]}, {"embedding": [1.0, 2.0]}]}, "not finite"),
        (lambda body: {"data": [{"embedding": []}, {"embedding": []}]}, "shape"),
        (lambda body: {"data": "none"}, "no list of embeddings"),
        (lambda body: ["?"], "no list of embeddings"),
    ],
)
def test_wrong_answers_are_errors_never_rows(service, answer, says: str) -> None:
    service.script = [(200, answer, {})]
    with pytest.raises(InlayError, match=says):
        endpoint(service).encode_document(["a", "b"])


def test_width_must_stay(service) -> None:
    with pytest.raises(InlayError, match="width 3, expected 5"):
        endpoint(service, dim=5).encode_query(["a"])
    made = endpoint(service, dimensions=3)
    made.encode_query(["a"])
    assert service.requests[-1]["dimensions"] == 3


def test_timeouts_and_refused_connections_are_repeated(service) -> None:
    service.script = [(200, lambda body: time.sleep(0.5) or good(body), {})]
    made = endpoint(service, timeout=0.2)
    assert made.encode_query(["a"]).tolist() == [vector("a")]
    assert made.usage.retries == 1
    nobody = Endpoint("small", base_url="http://127.0.0.1:9/v1", backoff=0.01, retries=1)
    with pytest.raises(InlayError, match="failed 2 times"):
        nobody.encode_query(["a"])


def test_requests_are_spaced(service, monkeypatch) -> None:
    slept: list[float] = []
    clock = types.SimpleNamespace(monotonic=lambda: 100.0 + sum(slept), sleep=slept.append, time=time.time)
    monkeypatch.setattr("inlay.encoders.endpoint.time", clock)
    made = endpoint(service, batch_size=1, requests_per_minute=30)
    made.encode_document(["a", "b", "c"])
    assert slept == [0, 2, 2]


def test_broken_surrogates_are_sent_whole(service) -> None:
    endpoint(service).encode_query(["a \ud800 b"])
    assert service.requests[0]["input"] == ["a ? b"]


def test_retry_after_header() -> None:
    assert _retry_after("2.5") == 2.5
    assert _retry_after("-3") == 0
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert _retry_after("soon") is None
    assert _retry_after(None) is None


def test_base_urls() -> None:
    def of(url: str) -> str:
        return Endpoint("m", base_url=url).base_url

    assert of("http://localhost:8080") == "http://localhost:8080/v1"
    assert of("http://localhost:8080/v1/embeddings/") == "http://localhost:8080/v1"
    assert of("https://host/api/") == "https://host/api"
    for url in ("localhost:8080", "ftp://host", "http://user:pass@host/v1", "http://host/v1?key=1", "http://"):
        with pytest.raises(BadInput, match="base_url"):
            of(url)


@pytest.mark.parametrize(
    "options",
    [
        {"model": ""},
        {"dim": 0},
        {"batch_size": 0},
        {"batch_chars": 1.5},
        {"retries": -1},
        {"backoff": 0},
        {"timeout": float("inf")},
        {"requests_per_minute": 0},
        {"dim": 3, "dimensions": 4},
    ],
)
def test_bad_options(options: dict) -> None:
    with pytest.raises(BadInput):
        Endpoint(**{"model": "m", "base_url": "http://localhost", **options})
