"""Whether the brokers let this process in, found out by a short connection of our own, with the reason in words.

The clients try again and again and report, after half a minute, that no broker answers: aiokafka hides a wrong password, a wrong
authority and an expired certificate under one KafkaConnectionError. So before the first client of an address is made, one
connection goes through TLS, ApiVersions, SaslHandshake (KIP-43) and SaslAuthenticate (KIP-152). What a retry may mend, such as a
broker that is away, is left to the clients.
"""

import socket
import ssl
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from kafka.net.sasl import get_sasl_mechanism

from stream.errors import IsthmusError
from stream.kafka.cluster.client_security import security_options
from stream.kafka.cluster.security import Security, current_security

TIMEOUT_S: Final = 3.0
_API_VERSIONS, _SASL_HANDSHAKE, _SASL_AUTHENTICATE = 18, 17, 36
_UNSUPPORTED_MECHANISM, _ILLEGAL_STATE = 33, 34
_EXPIRED, _NOT_YET_VALID = 10, 9
_OTHER_HOST: Final = {62, 64}
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""
_MAX_ANSWER: Final = 1 << 20


class AccessError(IsthmusError):
    """The broker is there and does not let this process in: trying again changes nothing."""


class NoAnswerError(IsthmusError):
    """Nobody answers at an address, or not in time; the message says how."""


class Door:
    """Lets clients be made for the addresses that have let this process in once, with one security."""

    def __init__(self) -> None:
        self._passed: set[tuple[str, Security]] = set()

    def check(self, bootstrap: str | Iterable[str], timeout_s: float = TIMEOUT_S) -> None:
        """Returns once a broker has let us in, or if none answers, which is the clients' affair.

        Raises:
            AccessError: all brokers that answer refuse us.
        """
        text = bootstrap if isinstance(bootstrap, str) else ",".join(bootstrap)
        security = current_security()
        if (text, security) in self._passed:
            return
        refused = _refusal(text, security, timeout_s)
        if isinstance(refused, AccessError):
            raise refused
        if refused is None:
            self._passed.add((text, security))


door: Final = Door()


def reason_of(bootstrap: str, error: BaseException) -> str:
    """Says why the brokers do not let us in or do not answer; if they do both, names the client's error."""
    refused = _refusal(bootstrap, current_security(), TIMEOUT_S)
    if refused is not None:
        return str(refused)
    return f"{type(error).__name__}, although a broker at {bootstrap} lets this process in"


def refusal(address: str, timeout_s: float = TIMEOUT_S) -> IsthmusError | None:
    """Why the broker at one address does not let us in; None if it does. A NoAnswerError: nobody answers there."""
    try:
        _enter(address, current_security(), timeout_s)
    except IsthmusError as error:  # of the token server and of our certificate's files too
        return error
    return None


def _refusal(bootstrap: str, security: Security, timeout_s: float) -> AccessError | NoAnswerError | None:
    """Why no broker lets us in; None if one does. A refusal says more than no answer."""
    found: AccessError | NoAnswerError | None = NoAnswerError(f"{bootstrap!r} names no broker: write host:port")
    deadline = time.monotonic() + timeout_s
    for address in filter(None, (part.strip() for part in bootstrap.split(","))):
        try:
            _enter(address, security, max(0.1, deadline - time.monotonic()))
        except NoAnswerError as error:
            found = found if isinstance(found, AccessError) else error
        except AccessError as error:
            found = error
        else:
            return None
    return found


def _enter(address: str, security: Security, timeout_s: float) -> None:
    host, _, port = address.rpartition(":")
    with _named(address):
        where = host.strip("[]"), int(port)
        with socket.create_connection(where, timeout_s) as plain:
            if security.ssl_context is None:
                with _plain_errors_named(address, where, security):
                    _authenticate(_Conversation(plain, address), security)
                return
            with (
                _tls_errors_named(address, where, security),
                security.ssl_context.wrap_socket(plain, server_hostname=where[0]) as tls,
            ):
                _authenticate(_Conversation(tls, address), security)


@contextmanager
def _named(address: str) -> Iterator[None]:
    """Names what is wrong below TLS."""
    check = "check kafka.bootstrap or --bootstrap"
    try:
        yield
    except socket.gaierror:
        raise NoAnswerError(f"the host of {address} is not known: {check}") from None
    except TimeoutError:
        raise NoAnswerError(f"no broker answers in time at {address}: {check}") from None
    except ValueError:
        raise NoAnswerError(f"{address} is no address of a broker: write host:port") from None
    except OSError as error:
        what = error.strerror or str(error) or type(error).__name__
        raise NoAnswerError(f"no broker answers at {address} ({what}): {check}") from None


@contextmanager
def _plain_errors_named(address: str, where: tuple[str, int], security: Security) -> Iterator[None]:
    try:
        yield
    except ConnectionError:
        if not _speaks_tls(where):
            raise
        protocol = "SASL_SSL" if security.settings.sasl_mechanism else "SSL or SASL_SSL"
        raise AccessError(
            f"the broker at {address} expects TLS, and kafka.security_protocol is {security.settings.security_protocol}: set it to "
            f"{protocol}, and kafka.ca_file"
        ) from None


@contextmanager
def _tls_errors_named(address: str, where: tuple[str, int], security: Security) -> Iterator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise AccessError(_certificate_trouble(address, error, security)) from None
    except ssl.SSLError as error:
        reason = (error.reason or type(error).__name__).replace("_", " ").lower()
        if "alert" in reason:
            raise AccessError(_OUR_CERTIFICATE.format(address=address, reason=reason)) from None
        if not _speaks_plain(address, where):
            raise
        protocol = "SASL_PLAINTEXT" if security.settings.sasl_mechanism else "PLAINTEXT"
        raise AccessError(
            f"the broker at {address} speaks no TLS there, and kafka.security_protocol is {security.settings.security_protocol}: "
            f"set it to {protocol}, or name the port of its TLS listener"
        ) from None


def _speaks_tls(where: tuple[str, int]) -> bool:
    """Whether TLS begins at an address; nothing is sent through it, so the certificate does not matter."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(where, TIMEOUT_S) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def _speaks_plain(address: str, where: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(where, TIMEOUT_S) as plain:
            _Conversation(plain, address).ask(_API_VERSIONS, 0, b"")
    except OSError:
        return False
    return True


_OUR_CERTIFICATE: Final = (
    "the broker at {address} refuses our certificate ({reason}): check kafka.certificate_file and kafka.key_file, and that the "
    "broker trusts the authority that signed it"
)


def _certificate_trouble(address: str, error: ssl.SSLCertVerificationError, security: Security) -> str:
    host = address.rpartition(":")[0]
    if error.verify_code == _EXPIRED:
        return f"the certificate of the broker at {address} has expired: it must be renewed on the broker, or this clock is wrong"
    if error.verify_code == _NOT_YET_VALID:
        return f"the certificate of the broker at {address} is not valid yet: check this machine's clock"
    if error.verify_code in _OTHER_HOST:
        return (
            f"the certificate of the broker at {address} is for another host than {host}: name the broker in kafka.bootstrap as "
            "its certificate does, or have one issued for this name"
        )
    authorities = security.settings.ca_file or "the system's, since kafka.ca_file is not set"
    return (
        f"the certificate of the broker at {address} is not signed by a known authority ({authorities}; {error.verify_message}): "
        "set kafka.ca_file to the PEM file of the authority that signed it"
    )


class _Conversation:
    """Requests and answers in Kafka's protocol over one socket."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        self.address = address
        self._connection = connection
        self._number = 0

    def ask(self, api: int, version: int, body: bytes) -> bytes:
        """Returns an answer without its header. Raises ConnectionError if the broker hangs up, or is no broker."""
        self._number += 1
        request = struct.pack(">hhih", api, version, self._number, 7) + b"isthmus" + body
        self._connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", self._read(4))
        if not 4 <= size <= _MAX_ANSWER:
            raise ConnectionError("what listens there is no broker")
        return self._read(size)[4:]

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self._connection.recv(size - len(parts))
            if not part:
                raise ConnectionError("it closes the connection")
            parts += part
        return bytes(parts)


def _authenticate(conversation: _Conversation, security: Security) -> None:
    """Goes through SASL; without a mechanism, asks for one that no broker has, to learn whether it wants SASL."""
    conversation.ask(_API_VERSIONS, 0, b"")
    mechanism = security.settings.sasl_mechanism
    code, offered = _handshake(conversation, mechanism or "NONE")
    if mechanism is None:
        if code == _UNSUPPORTED_MECHANISM:
            protocol = "SASL_SSL" if security.ssl_context else "SASL_PLAINTEXT"
            raise AccessError(
                f"the broker at {conversation.address} expects SASL: set kafka.security_protocol to {protocol}, and "
                f"kafka.sasl_mechanism to one that it offers: {', '.join(offered)}"
            )
        return
    if code == _ILLEGAL_STATE:
        protocol = "SSL" if security.ssl_context else "PLAINTEXT"
        raise AccessError(f"the broker at {conversation.address} wants no SASL there: set kafka.security_protocol to {protocol}")
    if code:
        offer = ", ".join(offered) or "none"
        raise AccessError(
            f"the broker at {conversation.address} does not offer {mechanism}: set kafka.sasl_mechanism to one that it offers: "
            f"{offer}"
        )
    _prove(conversation, mechanism, security)


def _handshake(conversation: _Conversation, mechanism: str) -> tuple[int, list[str]]:
    """The error code, and the mechanisms that the broker offers."""
    answer = conversation.ask(_SASL_HANDSHAKE, 1, struct.pack(">h", len(mechanism)) + mechanism.encode())
    code, count = struct.unpack_from(">hi", answer)
    offered, position = [], 6
    for _ in range(count):
        (length,) = struct.unpack_from(">h", answer, position)
        offered.append(answer[position + 2 : position + 2 + length].decode())
        position += 2 + length
    return code, offered


def _prove(conversation: _Conversation, mechanism: str, security: Security) -> None:
    """Authenticates, with kafka-python's own mechanisms."""
    if security.tokens is not None:
        security.tokens.token()  # raises in words; the client below would hide them
    proof: Any = get_sasl_mechanism(mechanism)(host="", **security_options())
    while not proof.is_done():
        token: bytes = proof.auth_bytes()
        answer = conversation.ask(_SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
        code, length = struct.unpack_from(">hh", answer)
        if code:
            raise AccessError(_wrong_proof(conversation.address, mechanism, security))
        position = 4 + max(0, length)
        (size,) = struct.unpack_from(">i", answer, position)
        try:
            proof.receive(answer[position + 4 : position + 4 + max(0, size)])
        except (ValueError, KeyError) as error:
            raise AccessError(f"the broker at {conversation.address} does not prove that it knows our password") from error


def _wrong_proof(address: str, mechanism: str, security: Security) -> str:
    kafka = security.settings
    if mechanism == "OAUTHBEARER":
        check = "check kafka.token_url, kafka.client_id and kafka.scope"
        return f"the broker at {address} refuses the token of {kafka.client_id}: {check}"
    return f"the broker at {address} refuses user {kafka.username} ({mechanism}): check kafka.username and kafka.password"
