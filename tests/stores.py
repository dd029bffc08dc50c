"""S3 in a thread of the test's own process, and a guard that lets nothing but this machine be asked."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import s3fs
from moto.server import ThreadedMotoServer


@contextmanager
def s3_running() -> Iterator[dict[str, str]]:
    """Gives the environment variables by which it's found."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    s3fs.S3FileSystem.clear_instance_cache()
    yield {
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@contextmanager
def this_machine_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Instead of `unplugged`, which forbids that too; a test that tries another machine fails."""
    tried: list[object] = []
    connect = socket.socket.connect

    def near(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] != "127.0.0.1":
            tried.append(address)
            raise OSError(f"tests run unplugged, and this one asked for {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", near)
    yield
    assert not tried, f"the network was tried: {tried}"
