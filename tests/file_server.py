"""A web server of files on this machine, which can fail as others do."""

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path


class Server(http.server.ThreadingHTTPServer):
    """Serves a directory.

    Attributes:
        cut: bytes of a file after which the connection is closed; None: never.
        fail: how many of the next requests are answered by an error.
        status: of that error.
        validate: whether files have an ETag.
        requests: (path, Range header) of every request.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory = directory
        self.cut: int | None = None
        self.fail = 0
        self.status = 503
        self.validate = True
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.path, asked))
        if server.fail:
            server.fail -= 1
            return self.send_error(server.status)
        path = server.directory / self.path.lstrip("/")
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        begin = 0
        if asked and self.headers.get("If-Range", tag) == tag:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.validate:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        end = len(content) if server.cut is None else begin + server.cut
        self.wfile.write(content[begin:end])
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Server]:
    """A server of the files of a directory."""
    server = Server(directory)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
