"""A client in another language, generated from the .proto alone: what the protocol promises must not need our own code.

Run: python -m pytest tests/python   (FLOWFORGE_BIN names the server; default target/debug/flowforge)
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import queue
import re
import secrets
import signal
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "flowforge.logs.v1.LogService"
DEADLINE_S = 30


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The generated messages and stub."""
    out = tmp_path_factory.mktemp("generated")
    proto = "flowforge/logs/v1/logs.proto"
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}", f"--grpc_python_out={out}", proto]
    assert protoc.main(arguments) == 0
    sys.path.insert(0, str(out))
    messages = importlib.import_module("flowforge.logs.v1.logs_pb2")
    messages.Stub = importlib.import_module("flowforge.logs.v1.logs_pb2_grpc").LogServiceStub
    return messages


class Server:
    """One `flowforge serve`, killed at the end."""

    def __init__(self, folder: Path) -> None:
        binary = Path(os.environ.get("FLOWFORGE_BIN", ROOT / "target/debug/flowforge"))
        assert binary.is_file(), f"{binary} is not there. Build it: cargo build -p flowforge-server"
        config = folder / "config.yaml"
        config.write_text(f"server:\n  grpc: 127.0.0.1:0\n  http: 127.0.0.1:0\nsqlite:\n  path: {folder}/flowforge.db\n")
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            command = [binary, "serve", "--config", config]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, cwd=folder)
        end = time.monotonic() + DEADLINE_S
        while not (serving := re.search(r"is serving grpc=(\S+) http=(\S+)", self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)
        self.grpc, self.http = serving.groups()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.http}/api/v1/tasks/{path}", timeout=DEADLINE_S) as answer:
            return json.load(answer)

    def messages(self, task: str) -> list[str]:
        return [line["message"] for line in self.get(f"{task}/logs")["lines"]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.process.kill()
    server.process.wait()
    print(server.log.read_text())  # pytest shows it when the test failed.


class Proof:
    """What was sent, from the words of the .proto alone."""

    def __init__(self) -> None:
        self.lines, self.bytes, self.digest = 0, 0, bytes(32)

    def add(self, seq: int, entry: Any) -> None:
        flags = (1 if entry.continued else 0) + (2 if entry.no_newline else 0)
        update_id = entry.update_id & (2**63 - 1)
        record = struct.pack(">QqBBBQ", seq, entry.time_unix_nano, entry.stream or 1, entry.level, flags, update_id)
        for part in (entry.message, entry.fields_json):
            record += struct.pack(">I", len(part)) + part
        self.digest = hashlib.sha256(self.digest + record).digest()
        self.lines += 1
        self.bytes += len(entry.message)


class Call:
    """One StreamLogs call, message by message."""

    def __init__(self, logs: Any, server: Server) -> None:
        self.logs = logs
        self.channel = grpc.insecure_channel(server.grpc)
        self.requests: queue.Queue[Any] = queue.Queue(maxsize=8)
        stub = logs.Stub(self.channel)
        self.responses = stub.StreamLogs(iter(self.requests.get, None), timeout=DEADLINE_S)

    def send(self, **message: Any) -> None:
        self.requests.put(self.logs.StreamLogsRequest(**message))

    def hello(self, task: str, producer: bytes, first_unacked_seq: int = 1) -> Any:
        hello = self.logs.Hello(task_id=task, producer=producer, first_unacked_seq=first_unacked_seq, sdk="grpcio/test")
        self.send(hello=hello)
        return next(self.responses).welcome

    def lines(self, first_seq: int, texts: list[str]) -> None:
        entries = [
            self.logs.LogEntry(time_unix_nano=time.time_ns(), stream="STREAM_STDOUT", message=text.encode())
            for text in texts
        ]
        self.send(batch=self.logs.LogBatch(first_seq=first_seq, entries=entries))

    def stored(self, seq: int) -> Any:
        for response in self.responses:
            assert response.WhichOneof("message") == "ack", response
            if response.ack.stored_seq >= seq:
                return response.ack
        raise AssertionError(f"the call ended before {seq} was stored")

    def close(self, final_seq: int, exit_code: int) -> grpc.StatusCode:
        self.send(close=self.logs.Close(final_seq=final_seq, exit_code=exit_code))
        self.requests.put(None)
        return self.end()

    def end(self) -> grpc.StatusCode:
        """Reads to the end of the call; its status."""
        try:
            for _ in self.responses:
                pass
        except grpc.RpcError:
            pass
        return self.responses.code()

    def cut(self) -> None:
        """The connection goes away without a word."""
        self.requests.put(None)
        self.responses.cancel()
        self.channel.close()


def test_streams_is_acked_resumes_and_closes(logs: Any, server: Server) -> None:
    producer = secrets.token_bytes(16)
    texts = [f"line {n} é" for n in range(1, 1001)]
    first = Call(logs, server)
    welcome = first.hello("python", producer)
    assert welcome.epoch > 0 and welcome.queued_seq == 0 and welcome.stored_seq == 0
    assert welcome.limits.max_line_bytes == 64 * 1024
    assert welcome.viewer_url == f"http://{server.http}/?task=python"
    first.lines(1, texts[:400])
    assert first.stored(400).queued_seq == 400
    first.lines(401, texts[400:500])  # May arrive or not: that is what Welcome is for.
    first.cut()

    second = Call(logs, server)
    welcome = second.hello("python", producer, first_unacked_seq=401)
    assert welcome.stored_seq >= 400 and welcome.queued_seq in (400, 500)
    second.lines(401, texts[400:])  # From the last ack, not from the Welcome: repeats are dropped.
    second.stored(1000)
    assert second.close(1000, exit_code=3) == grpc.StatusCode.OK
    assert server.messages("python")[:1000] == texts
    task = server.get("python")
    assert (task["status"], task["exit_code"], task["end"], task["complete"]) == ("failed", 3, 1001, True)


def test_the_digest_is_that_of_the_test_vector(logs: Any) -> None:
    proof = Proof()
    proof.add(1, logs.LogEntry(time_unix_nano=1700000000000000000, stream="STREAM_STDOUT", message=b"hello"))
    last = {"level": 13, "no_newline": True, "update_id": 7, "message": "wörld".encode(), "fields_json": b'{"a":1}'}
    proof.add(2, logs.LogEntry(time_unix_nano=1700000000000000001, stream="STREAM_LOG", **last))
    assert (proof.lines, proof.bytes) == (2, 11)
    text = (ROOT / "proto/flowforge/logs/v1/logs.proto").read_text()
    assert proof.digest.hex() in text


def test_what_it_sent_is_verified_and_a_lie_is_not(logs: Any, server: Server) -> None:
    entries = [
        logs.LogEntry(time_unix_nano=time.time_ns(), stream=n % 4, level=n % 25, message=b"%d \xff\0" % n, update_id=n)
        for n in range(1, 301)
    ]
    entries[9].fields_json, entries[9].continued, entries[10].no_newline = b'{"k": [1, "\\n"]}', True, True
    entries[20].update_id = 2**63 + 5
    honest = Proof()
    for seq, entry in enumerate(entries, start=1):
        honest.add(seq, entry)
    said = {"lines": 300, "bytes": honest.bytes}
    closes = {
        "verified": logs.Close(final_seq=300, proof=logs.Proof(digest=honest.digest, **said), verify=True),
        "incomplete": logs.Close(final_seq=300, proof=logs.Proof(digest=bytes(32), **said), verify=True),
        "unproven": logs.Close(final_seq=300, verify=True),
    }
    for state, close in closes.items():
        call = Call(logs, server)
        call.hello(state, secrets.token_bytes(16))
        call.send(batch=logs.LogBatch(first_seq=1, entries=entries[:200]))
        call.send(batch=logs.LogBatch(first_seq=101, entries=entries[100:]))
        call.send(close=close)
        call.requests.put(None)
        told = [answer.completeness for answer in call.responses if answer.WhichOneof("message") == "completeness"]
        assert [logs.Completeness.State.Name(of.state) for of in told] == [f"STATE_{state.upper()}"]
        found = server.get(state)["completeness"]
        assert (found["state"], found["lines"], found["captured"], found["missing"]) == (state, 300, 300, 0)
        assert ("reason" in found) == (state != "verified")


def test_a_second_hello_fences_the_first(logs: Any, server: Server) -> None:
    producer = secrets.token_bytes(16)
    old = Call(logs, server)
    generation = old.hello("fenced", producer).generation
    old.lines(1, ["one"])
    old.stored(1)
    new = Call(logs, server)
    welcome = new.hello("fenced", producer, first_unacked_seq=2)
    assert (welcome.queued_seq, welcome.generation) == (1, generation + 1)
    assert old.end() == grpc.StatusCode.ABORTED
    old.cut()
    new.lines(2, ["two"])
    assert new.close(2, exit_code=0) == grpc.StatusCode.OK
    assert server.messages("fenced")[:2] == ["one", "two"]


def test_a_bad_id_is_refused(logs: Any, server: Server) -> None:
    call = Call(logs, server)
    with pytest.raises(grpc.RpcError) as refused:
        call.hello("../x", secrets.token_bytes(16))
    call.cut()
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_sigterm_acks_what_it_took_and_says_unavailable(logs: Any, server: Server) -> None:
    call = Call(logs, server)
    call.hello("term", secrets.token_bytes(16))
    call.lines(1, ["one"])
    call.stored(1)
    server.process.send_signal(signal.SIGTERM)
    assert call.end() == grpc.StatusCode.UNAVAILABLE
    call.cut()
    assert server.process.wait(DEADLINE_S) == 0


def test_health_and_reflection(server: Server) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, service


def test_reflection_describes_the_service(server: Server) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        file = database.FindFileContainingSymbol(SERVICE)
        assert file.name.endswith("logs.proto")
        (service,) = [service for service in file.service if service.name == "LogService"]
        assert [method.name for method in service.method] == ["StreamLogs"]
