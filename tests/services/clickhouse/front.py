"""ClickHouse's HTTP interface over the embedded engine `chdb-core`, for tests: a real engine without a server package.

    python front.py --path DIR [--port N] [--password P]

What clients of the HTTP interface need: queries and inserts by POST, settings as URL parameters, `database`, chunked
bodies, ClickHouse's compressed blocks (`decompress=1`), errors by code. One process owns DIR. Says `listening on PORT` on
stderr once it serves.

Not here: native TCP, TLS, users beyond one password, sessions, clusters, replication (the engine has no Keeper).
"""

from __future__ import annotations

import argparse
import re
import socket
import struct
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import chdb.state.sqlitelike as engine
import lz4.block

# URL parameters that are not settings.
NOT_SETTINGS = {
    "query", "database", "default_format", "decompress", "compress", "user", "password", "query_id", "session_id",
    "session_timeout", "session_check", "client_protocol_version", "role",
}  # fmt: skip

INSERT = re.compile(rb"^\s*INSERT\s+INTO\s+(?P<into>.*?)\s+FORMAT\s+(?P<format>\w+)\s*(?P<data>.*)$", re.I | re.S)
INSERT_SELECT = re.compile(rb"\bSELECT\b", re.I)
FORMAT_CLAUSE = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.I)
READS = re.compile(r"^\s*(?:SELECT|WITH|SHOW|DESC|DESCRIBE|EXISTS|EXPLAIN)\b", re.I)
EXCEPTION_CODE = re.compile(r"Code: (\d+)")

# Where the data of an insert lie until it is done: in memory where the system has a place for that.
SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None

# HTTP statuses that ClickHouse gives to some codes; 500 to the others.
STATUS = {60: 404, 81: 404, 62: 400, 36: 400, 42: 400, 43: 400, 46: 400, 47: 400, 117: 400, 241: 500, 516: 403}

AUTHENTICATION_FAILED = 516
NOT_IMPLEMENTED = 48


class QueryError(Exception):
    """An error as ClickHouse words it."""

    def __init__(self, text: str, code: int | None = None) -> None:
        found = EXCEPTION_CODE.search(text)
        self.code = code or (int(found.group(1)) if found else 1002)
        self.text = text if found else f"Code: {self.code}. DB::Exception: {text}"
        super().__init__(self.text)


class BrokenBody(Exception):
    """The client went away in the middle of its request: nothing of it may be inserted."""


def decompress(body: bytes) -> bytes:
    """Blocks of: 16 bytes of checksum, method, compressed size with this header, uncompressed size, data."""
    out, at = [], 0
    while at < len(body):
        method, packed, plain = struct.unpack_from("<BII", body, at + 16)
        data = body[at + 25 : at + 16 + packed]
        if len(data) != packed - 9:
            raise QueryError("Code: 33. DB::Exception: Cannot read all data of a compressed block")
        if method == 0x82:
            out.append(lz4.block.decompress(data, uncompressed_size=plain))
        elif method == 0x02:
            out.append(data)
        else:
            raise QueryError(f"Code: 89. DB::Exception: Unknown compression method: {method:#x}")
        at += 16 + packed
    return b"".join(out)


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Front(ThreadingHTTPServer):
    """The engine, and who may use it."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, path: Path, password: str) -> None:
        # This handle keeps the engine alive, and with it merges and TTL. Each request has a connection of its own, so
        # that settings stay apart.
        self.path = str(path)
        self.root = engine.connect(self.path)
        self.password = password
        self.connecting = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    def run(self, sql: bytes, data: bytes, parameters: dict[str, str]) -> bytes:
        with self.connecting:
            connection = engine.connect(self.path)
        try:
            settings = [f"{name} = {quoted(value)}" for name, value in parameters.items() if name not in NOT_SETTINGS]
            if settings:
                connection.query(f"SET {', '.join(settings)}")
            if database := parameters.get("database"):
                connection.query(f"USE `{database}`")
            return self.statement(connection, sql, data, parameters.get("default_format", "TabSeparated"))
        except RuntimeError as error:
            raise QueryError(str(error)) from error
        finally:
            connection.close()

    def statement(self, connection: engine.Connection, sql: bytes, data: bytes, default_format: str) -> bytes:
        insert = INSERT.match(sql)
        if insert is None:
            text = sql.decode("utf-8", "surrogateescape") if data == b"" else (sql + data).decode()
            return self.query(connection, text, default_format)
        if INSERT_SELECT.search(insert.group("into")):
            # The engine does not hand over the data to INSERT … SELECT … FROM input().
            raise QueryError("INSERT SELECT with data is not implemented here", NOT_IMPLEMENTED)
        rows = insert.group("data") + data
        into, format = insert.group("into"), insert.group("format")
        if not rows:
            # A statement without data is not run at all: a missing table would go unnoticed.
            connection.send_insert(f"INSERT INTO {into.decode()}", format.decode()).finish()
            return b""
        # Not the engine's streaming insert, whose `finish` says that rows are written which a constraint refused; and not
        # data within the statement, which are cut off at 256 KiB, and at bytes that could end a statement.
        with tempfile.NamedTemporaryFile(prefix="flowforge-insert-", suffix=".rows", dir=SCRATCH) as file:
            file.write(rows)
            file.flush()
            source = f"INFILE {quoted(file.name)} COMPRESSION 'none' FORMAT {format.decode()}"
            connection.query(f"INSERT INTO {into.decode()} FROM {source}", "TabSeparated")
        return b""

    def query(self, connection: engine.Connection, text: str, default_format: str) -> bytes:
        if named := FORMAT_CLAUSE.search(text):
            text, default_format = text[: named.start()], named.group(1)
        result = connection.query(text, default_format)
        return bytes(result.bytes()) if READS.match(text) else b""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Front

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        self.answer(200, b"Ok.\n") if urlsplit(self.path).path == "/ping" else self.serve(b"")

    def do_POST(self) -> None:
        try:
            body = self.body()
        except BrokenBody:
            self.close_connection = True
            return
        self.serve(body)

    def serve(self, body: bytes) -> None:
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        try:
            self.authenticate()
            if parameters.get("decompress") == "1":
                body = decompress(body)
            sql, data = parameters.get("query", "").encode("utf-8", "surrogateescape"), body
            if not sql:
                sql, data = body, b""
            self.answer(200, self.server.run(sql, data, parameters))
        except QueryError as error:
            self.answer(STATUS.get(error.code, 500), error.text.encode() + b"\n", error.code)

    def authenticate(self) -> None:
        if self.server.password != self.headers.get("X-ClickHouse-Key", ""):
            user = self.headers.get("X-ClickHouse-User", "default")
            text = f"{user}: Authentication failed: password is incorrect, or there is no user with such name."
            raise QueryError(text, AUTHENTICATION_FAILED)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(self.chunks())
        return self.exactly(int(self.headers.get("Content-Length", 0)))

    def chunks(self):
        while True:
            line = self.rfile.readline(80)
            if not line.endswith(b"\n"):
                raise BrokenBody
            size = int(line.split(b";")[0], 16)
            chunk = self.exactly(size)
            self.exactly(2)
            if size == 0:
                return
            yield chunk

    def exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise BrokenBody
        return data

    def answer(self, status: int, body: bytes, code: int | None = None) -> None:
        self.send_response(status)
        if code is not None:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            pass

    def log_message(self, format: str, *args: object) -> None:
        """Silent: a line for each request would hide what matters."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--path", type=Path, required=True)
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--password", default="")
    given = arguments.parse_args()
    front = Front(given.port, given.path, given.password)
    print(f"listening on {front.server_address[1]}", file=sys.stderr, flush=True)
    front.serve_forever()


if __name__ == "__main__":
    main()
