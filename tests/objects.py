"""An object store on this machine: moto's S3 over real HTTP, with a log of its requests and failures on order."""

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from audiorl_cli.data import store
from audiorl_cli.data.store import Url

BUCKET = "speech"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Objects:
    """The store. `log`: method and path of each request. `failing`: what they are to fail with."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self.log: list[tuple[str, str]] = []
        self.failing: Callable[[str, str], str | None] = lambda method, path: None

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        request = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.log.append(request)
        status = self.failing(*request)
        if status is None:
            return self._app(environ, start)  # type: ignore[no-any-return]
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start(status, [("Content-Length", "0")])
        return [b""]

    def sent(self, pattern: str, method: str = "PUT") -> int:
        """How many such requests there were for objects whose path has `pattern`."""
        return sum(method == done and re.search(pattern, path) is not None for done, path in self.log)


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Objects]:
    """A store with one empty bucket, which the environment names until the end."""
    from pyarrow.fs import S3FileSystem

    store._store.cache_clear()  # which is of another environment
    objects = Objects()
    server = make_server("127.0.0.1", 0, objects, threaded=True, request_handler=_Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = {name: os.environ.get(name) for name in ("AWS_ENDPOINT_URL", *ENVIRONMENT)}
    os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_port}")
    try:
        S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], allow_bucket_creation=True).create_dir(BUCKET)
        yield objects
    finally:
        server.shutdown()
        server.server_close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def upload(folder: Path, url: Url) -> Url:
    """Every file below `folder` as an object below `url`."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            (url / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())
    return url


def objects_below(url: Url) -> dict[str, bytes]:
    """Every object below `url`."""
    return {str(folder / name).removeprefix(f"{url}/"): (folder / name).read_bytes() for folder, name in url.below()}
