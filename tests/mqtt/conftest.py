"""Brokers and certificates for the tests of the MQTT side."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import trustme

from tests.mosquitto import broker, start_mosquitto

__all__ = ["broker", "certificates", "start_mosquitto"]


@dataclasses.dataclass(frozen=True)
class Certificates:
    """Files of a certificate authority, of a server at 127.0.0.1, and of a client."""

    ca: Path
    other_ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    @property
    def listener(self) -> str:
        """The lines that give a mosquitto listener TLS."""
        return f"cafile {self.ca}\ncertfile {self.server}\nkeyfile {self.server_key}"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates made for this run."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    client = authority.issue_cert("client@example.org")
    files = Certificates(
        *(
            directory / name
            for name in ("ca.pem", "other.pem", "server.pem", "server.key", "me.pem", "me.key")
        )
    )
    authority.cert_pem.write_to_path(files.ca)
    trustme.CA().cert_pem.write_to_path(files.other_ca)
    server.cert_chain_pems[0].write_to_path(files.server)
    server.private_key_pem.write_to_path(files.server_key)
    client.cert_chain_pems[0].write_to_path(files.client)
    client.private_key_pem.write_to_path(files.client_key)
    return files
