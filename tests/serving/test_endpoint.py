"""The endpoint as clients see it: a real server on the loopback, and what they may send it."""

from __future__ import annotations

import gc
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra demo is not installed")
pytest.importorskip("uvicorn", reason="the extra demo is not installed")
pytest.importorskip("python_multipart", reason="the extra demo is not installed")

from tests.serving.rubbish import RUBBISH, png
from tests.tasks.test_exported import WITHOUT, mean_colours
from visionssm.cli import demo, serve
from visionssm.cli.serve import listening
from visionssm.prediction import load_exported
from visionssm.serving import Limits, Service, endpoint, make_app, server
from visionssm.serving.endpoint import Rates
from visionssm.serving.server import Server

ROOT = Path(__file__).parents[2]
MANY = Limits(per_minute=0)


@contextmanager
def running(service: Service, **options: Any) -> Iterator[int]:
    """The port at which a service answers in the block."""
    with listening("127.0.0.1", 0) as place:
        runs = Server(make_app(service, **options))
        thread = threading.Thread(target=runs.run, args=(place,))
        thread.start()
        try:
            yield place.getsockname()[1]
        finally:
            runs.stop()
            thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    path = mean_colours(tmp_path_factory.mktemp("served") / "colours.onnx")
    return Service(load_exported(path), "colours.onnx", limits=MANY)


@pytest.fixture(scope="module")
def port(service: Service) -> Iterator[int]:
    with running(service, page=True, examples=[("one.png", png())], hosts=("127.0.0.1", "localhost")) as port:
        yield port


def form(content: bytes, field: str = "file", name: str = "photo.png") -> tuple[bytes, dict[str, str]]:
    """A form with a file, and its headers."""
    head = f'--frame\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--frame--\r\n", {"Content-Type": "multipart/form-data; boundary=frame"}


def ask(
    port: int, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str | None = None
) -> tuple[int, Any, http.client.HTTPMessage]:
    """Status, content and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=240)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    is_json = answer.headers.get_content_type() == "application/json"
    return answer.status, json.loads(content) if is_json else content, answer.headers


def test_a_file_is_answered_as_the_schema_says(port: int) -> None:
    status, found, _ = ask(port, "/predict?pictures=true", *form(png()))
    assert status == 200
    assert found["model"] == "colours.onnx"
    assert found["result"]["classes"][0]["class"] == found["rows"][0][1] == "green"
    assert found["pictures"][0].startswith("data:image/png;base64,")
    assert found["milliseconds"]["model"] >= 0
    _, schema, _ = ask(port, "/openapi.json")
    assert set(schema["components"]["schemas"]["Prediction"]["properties"]) == found.keys()
    assert {"200", "400", "413", "429", "500", "503"} <= schema["paths"]["/predict"]["post"]["responses"].keys()
    assert schema["paths"].keys() == {"/predict", "/health", "/model"}


def test_health_and_card_tell_what_runs(port: int, service: Service) -> None:
    assert ask(port, "/health")[1]["status"] == "ok"
    assert ask(port, "/model")[1] == service.card()


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_has_its_status_and_the_server_goes_on(name: str, port: int) -> None:
    content, expected = RUBBISH[name]
    status, told, _ = ask(port, "/predict?pictures=true", *form(content))
    assert status == expected
    assert told.keys() == {"detail"}
    assert "/tmp" not in told["detail"]
    assert ask(port, "/health")[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "headers", "expected"),
    [
        ("/predict", *form(png(), field="image"), 400),
        ("/predict", b"", {}, 400),
        ("/predict", png(), {"Content-Type": "image/png"}, 400),
        ("/predict", b"{}", {"Content-Type": "application/json"}, 400),
        ("/predict", b"file=3", {"Content-Type": "application/x-www-form-urlencoded"}, 400),
        ("/predict", form(png())[0], {"Content-Type": "multipart/form-data"}, 400),
        ("/predict", form(png())[0][:-200], form(b"")[1], 400),
        ("/predict", form(png())[0], {"Content-Type": "multipart/form-data; boundary=other"}, 400),
        ("/predict?pictures=perhaps", *form(png()), 400),
        ("/predict?explain=true", *form(png()), 400),
        ("/predict", form(png())[0] * 3, form(b"")[1], 200),
        ("/nothing", *form(png()), 404),
        ("/page/../../service.py", None, {}, 404),
        ("/page/%2e%2e%2fservice.py", None, {}, 404),
        ("/examples/7", None, {}, 404),
        ("/examples/-1", None, {}, 404),
        ("/docs", None, {}, 404),
        ("/predict", None, {}, 405),
    ],
)
def test_wrong_requests_have_a_status_of_the_clients_fault(
    path: str, body: bytes | None, headers: dict[str, str], expected: int, port: int
) -> None:
    status, told, _ = ask(port, path, body, headers)
    assert status == expected, told
    if expected != 200:
        assert "detail" in told
        assert str(ROOT) not in told["detail"]


def test_other_names_of_the_machine_are_refused(port: int) -> None:
    """A page elsewhere that makes its own name mean 127.0.0.1 does not reach the model through a browser."""
    status, *_ = ask(port, "/predict", form(png())[0], {**form(b"")[1], "Host": "elsewhere.example"})
    assert status == 400


def test_bodies_beyond_the_limit_are_413_with_and_without_a_length(service: Service) -> None:
    small = Service(service.predictor, "small", limits=Limits(bytes=1000, per_minute=0))
    with running(small) as port:
        assert ask(port, "/predict", *form(bytes(2000)))[0] == 413
        assert ask(port, "/predict", b"", {"Content-Length": str(10**15)})[0] == 413
        body, headers = form(bytes(200_000))
        with socket.create_connection(("127.0.0.1", port), 20) as client:  # in chunks, which tell no length
            told = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {headers['Content-Type']}\r\n"
            client.sendall(told.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
            client.sendall(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
            assert b" 413 " in client.makefile("rb").readline()
        assert ask(port, "/predict", *form(png(4, 4)))[0] == 200
        assert ask(port, "/", method="GET")[0] == 404, "the page is the demo's"


def test_a_client_that_goes_away_leaves_the_server_running(port: int) -> None:
    body, headers = form(png())
    for cut in (0, 10, len(body) // 2):
        with socket.create_connection(("127.0.0.1", port), 20) as client:
            told = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {headers['Content-Type']}\r\n"
            client.sendall(told.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:cut])
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        client.recv(1000)
    assert ask(port, "/predict", *form(png()))[0] == 200


def test_clients_that_send_nothing_more_do_not_keep_others_out(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.4)
    monkeypatch.setattr(endpoint, "PATIENCE", 0.4)
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\nContent-Type: "
    begun = head + form(b"")[1]["Content-Type"].encode() + b"\r\n\r\n--frame"
    with running(service) as port, ExitStack() as opened:
        answers = []
        for sent in (b"", b"POST /predict HTTP/1.1\r\nHost", begun, begun):
            client = opened.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            client.sendall(sent)
            answers.append(client.makefile("rb"))
        assert [answer.readline() for answer in answers[:2]] == [b"", b""], "closed without an answer"
        assert all(b" 408 " in answer.readline() for answer in answers[2:])
        assert ask(port, "/predict", *form(png()))[0] == 200


def test_an_address_may_ask_so_often_in_a_minute() -> None:
    rates = Rates(60)
    assert [rates.wait("a", 100.0) for _ in range(60)] == [0.0] * 60
    assert rates.wait("a", 100.0) == pytest.approx(1)
    assert rates.wait("b", 100.0) == 0
    assert rates.wait("a", 100.5) == pytest.approx(0.5)
    assert rates.wait("a", 101.1) == 0
    assert rates.wait("a", 101.1) > 0
    for number in range(10_000):
        rates.wait(str(number), 200.0)
    assert len(rates._left) <= 4096


def test_too_many_requests_are_429_and_say_when_to_come_again(service: Service) -> None:
    few = Service(service.predictor, "few", limits=Limits(per_minute=3))
    with running(few) as port:
        answers = [ask(port, "/predict", *form(png())) for _ in range(4)]
        assert [status for status, *_ in answers] == [200, 200, 200, 429]
        assert 1 <= int(answers[-1][2]["Retry-After"]) <= 60
        assert ask(port, "/health")[0] == 200


def test_the_page_and_its_parts_load_nothing_from_elsewhere(port: int) -> None:
    status, page, headers = ask(port, "/")
    assert status == 200
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    parts = [ask(port, f"/page/{name}")[1] for name in ("page.js", "page.css")]
    assert all(b"http://" not in part and b"https://" not in part for part in (page, *parts))
    assert ask(port, "/examples")[1] == ["one.png"]
    assert ask(port, "/examples/0")[1] == png()


def load(port: int, service: Service, requests: int) -> tuple[int, list[int]]:
    """Bytes by which the process grew over requests of four clients, after a tenth of them; and the statuses."""
    psutil = pytest.importorskip("psutil")
    bodies = [form(png(seed=seed)) for seed in range(8)]
    grown: list[int] = []

    def one(number: int) -> int:
        if number == requests // 10 or number == requests - 1:
            gc.collect()
            grown.append(psutil.Process().memory_info().rss)
        return ask(port, "/predict?pictures=true", *bodies[number % 8])[0]

    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(one, range(requests)))
    return grown[-1] - grown[0], statuses


def test_memory_stays_flat_under_load(port: int, service: Service) -> None:
    grown, statuses = load(port, service, 100)
    assert set(statuses) == {200}
    assert grown < 24 << 20


@pytest.mark.slow
def test_memory_stays_flat_over_two_thousand_requests(port: int, service: Service) -> None:
    grown, statuses = load(port, service, 2000)
    assert set(statuses) == {200}
    assert grown < 24 << 20


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_the_command_serves_an_exported_file_without_pytorch_until_it_is_interrupted(
    command: str, tmp_path: Path
) -> None:
    path = mean_colours(tmp_path / "colours.onnx")
    run = [sys.executable, "-c", WITHOUT, command, str(path), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.split("http://127.0.0.1:")[1].split("/")[0])
        assert ask(port, "/predict", *form(png()))[0] == 200
        assert ask(port, "/")[0] == (200 if command == "demo" else 404)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_unusable_arguments_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(mean_colours(tmp_path / "colours.onnx"))
    with listening("127.0.0.1", 0) as place:
        taken = str(place.getsockname()[1])
        assert serve.main([path, "--port", taken]) == 2
    assert f"cannot listen on 127.0.0.1:{taken}" in capsys.readouterr().err
    for wrong, told in (
        ("--waiting=0", "waiting"),
        ("--host=no.such.host.invalid", "cannot listen"),
        ("--top-k=0", "top_k"),
    ):
        assert serve.main([path, "--port=0", wrong]) == 2
        assert told in capsys.readouterr().err
    assert demo.main([path, "--port=0", "--examples", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err
    assert serve.main([str(tmp_path / "no.pth")]) == 2
    with pytest.raises(SystemExit):
        serve.main([path, "--port=99999"])
