"""TLS of our clients: whom they trust, and the certificate that they show."""

import ssl
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from stream.errors import IsthmusError


class TlsFiles(Protocol):
    """The settings of a section that name files of TLS."""

    @property
    def ca_file(self) -> Path | None: ...
    @property
    def certificate_file(self) -> Path | None: ...
    @property
    def key_file(self) -> Path | None: ...
    @property
    def key_password(self) -> SecretStr | None: ...


def client_context(files: TlsFiles, section: str) -> ssl.SSLContext:
    """TLS 1.2 or newer, with the server's certificate and host name checked. `section` is that of the settings, for errors.

    Raises:
        IsthmusError: a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=files.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise IsthmusError(f"{section}.ca_file {files.ca_file} is no readable PEM file of certificates ({_words(error)})") from None
    if files.certificate_file is not None:
        secret = files.key_password
        password = "" if secret is None else secret.get_secret_value()  # without one, OpenSSL would ask on the terminal
        try:
            context.load_cert_chain(files.certificate_file, files.key_file, password)
        except (OSError, ssl.SSLError) as error:
            key, words = files.key_file or f"{section}.key_file is not set: in the same file", _words(error)
            raise IsthmusError(
                f"{section}.certificate_file {files.certificate_file} and its key ({key}) cannot be used ({words}): check both "
                f"files, that they belong together, and {section}.key_password"
            ) from None
    return context


def _words(error: OSError) -> str:
    return error.strerror or (error.reason if isinstance(error, ssl.SSLError) else "") or type(error).__name__
