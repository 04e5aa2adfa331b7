"""One broker with every kind of security that Isthmus knows, a listener each, and Kafka's own authorizer.

The plain listener is the tests' own: whoever comes through it may do everything.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from stream.connection_settings import KafkaSettings
from stream.kafka.cluster.local_broker import LocalKafka, free_ports
from stream.kafka.cluster.rights import Kind, Right
from stream.kafka.cluster.security import current_security, use_security
from stream.kafka.cluster.topics import admin_client
from tests.system.certificates import Authority

PASSWORD: Final = "pass-word-of-a-test"
REAUTHENTICATION_MS: Final = 10_000
_LISTENERS: Final = {
    "SCRAM": "SASL_SSL",
    "TOKEN": "SASL_SSL",
    "OPEN": "SASL_PLAINTEXT",
    "MUTUAL": "SSL",
    "EXPIRED": "SSL",
    "ELSEWHERE": "SSL",
}
_UNSECURED: Final = "org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
_MODULES: Final = "org.apache.kafka.common.security"


class SecuredBroker:
    """Listeners by name: SCRAM, TOKEN (whose sessions end after 10 s), OPEN (SASL without TLS), MUTUAL (client certificates), and
    two whose certificates are bad: EXPIRED and ELSEWHERE (of another host).
    """

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "certificates")
        self.stranger = Authority(folder / "stranger", "another authority")
        self._changes = 0
        self._almighty: Any = None
        self._kafka = LocalKafka(folder / "kafka")
        self.ports = dict(zip(_LISTENERS, free_ports(len(_LISTENERS)), strict=True))
        self._kafka.properties = self._properties()

    def __enter__(self) -> Self:
        self._kafka.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._almighty is not None:
            self._almighty.close()
        self._kafka.stop()

    @property
    def plain(self) -> str:
        """Where the tests do what they like."""
        return self._kafka.bootstrap

    def address(self, listener: str) -> str:
        return f"localhost:{self.ports[listener]}"

    @property
    def _admin(self) -> Any:
        """Somebody who may do everything, whoever this process is meanwhile. Made once: a walk over all ACLs asks often."""
        if self._almighty is None:
            now = current_security().settings
            use_security(KafkaSettings())
            try:
                self._almighty = admin_client(self.plain)
            finally:
                use_security(now)
        return self._almighty

    def add_users(self, names: Sequence[str]) -> None:
        """Makes SCRAM users with the password of all."""
        for kind in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):  # a request must not name a user twice
            wanted = [UserScramCredentialUpsertion(name, kind, PASSWORD) for name in names]
            answers = self._admin.alter_user_scram_credentials(wanted)
            assert not any(answers.values()), answers

    def allow(self, user: str, rights: Iterable[Right]) -> None:
        """Gives a user rights, and waits until it has them."""
        assert not self._admin.create_acls([_acl(user, right) for right in rights])["failed"]
        self._wait_for_acls()

    def deny(self, user: str, right: Right) -> None:
        """Takes a right from a user, for good once this returns."""
        acl = _acl(user, right)
        pattern = ACLResourcePatternType.LITERAL
        wanted = ResourcePatternFilter(acl.resource_pattern.resource_type, right.name, pattern)
        self._admin.delete_acls([ACLFilter(acl.principal, "*", acl.operation, acl.permission_type, wanted)])
        self._wait_for_acls()

    def _wait_for_acls(self) -> None:
        """The broker applies changes in their order: once it obeys a new one, it obeys those before."""
        self._changes += 1
        name = f"change-{self._changes}"
        mark = _acl("app", Right("READ", Kind.GROUP, name))
        wanted = ResourcePatternFilter(ResourceType.GROUP, name, ACLResourcePatternType.LITERAL)
        self._admin.create_acls([mark])
        deadline = time.monotonic() + 30
        while not self._admin.describe_acls(ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, wanted))[0]:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def settings(self, listener: str = "SCRAM", **changes: Any) -> KafkaSettings:
        """Right settings for a listener and the user `app`, and changes of them."""
        protocol = _LISTENERS[listener]
        own: dict[str, Any] = {"bootstrap": self.address(listener), "dev": True, "security_protocol": protocol}
        if protocol.endswith("SSL"):
            own["ca_file"] = self.authority.ca_file
        if listener == "MUTUAL":
            own["certificate_file"] = self.authority.folder / "app.pem"
        if listener in {"SCRAM", "OPEN"}:
            own |= {"sasl_mechanism": "SCRAM-SHA-512", "username": "app", "password": PASSWORD}
        given = {**own, **changes}
        return KafkaSettings(**{name: value for name, value in given.items() if value is not None})

    def _properties(self) -> dict[str, str]:
        secured = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        listeners = {"PLAINTEXT": f"127.0.0.1:{self._kafka.port}", **secured}
        kinds = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **_LISTENERS}
        self.authority.issue("app")
        certificates = {
            "broker": self.authority.issue("broker"),
            "EXPIRED": self.authority.issue("expired", days=-1),
            "ELSEWHERE": self.authority.issue("elsewhere", host="kafka.elsewhere.example"),
        }
        properties = {
            "listeners": ",".join(f"{name}://{at}" for name, at in listeners.items())
            + f",CONTROLLER://127.0.0.1:{self._kafka.controller_port}",
            "advertised.listeners": ",".join(f"{name}://{at.replace('127.0.0.1', 'localhost')}" for name, at in listeners.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in kinds.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:app",
            "ssl.principal.mapping.rules": "RULE:^CN=(.*?)$/$1/",
            "listener.name.mutual.ssl.client.auth": "required",
            "auto.create.topics.enable": "true",  # Kafka's default: no client of ours may make use of it
        }
        for listener, kind in _LISTENERS.items():
            properties |= _tls(listener, certificates.get(listener, certificates["broker"]), self.authority.ca_file)
            if kind.startswith("SASL"):
                properties |= _sasl(listener)
        return properties


def _acl(user: str, right: Right) -> ACL:
    resource = ResourcePattern(ResourceType[right.kind.name], right.name)
    return ACL(f"User:{user}", "*", ACLOperation[right.operation], ACLPermissionType.ALLOW, resource)


def _tls(listener: str, keys: Path, ca_file: Path) -> dict[str, str]:
    prefix = f"listener.name.{listener.lower()}.ssl"
    stores = {"keystore": keys, "truststore": ca_file}
    return {
        f"{prefix}.{store}.{key}": value
        for store, path in stores.items()
        for key, value in (("type", "PEM"), ("location", str(path)))
    }


def _sasl(listener: str) -> dict[str, str]:
    prefix = f"listener.name.{listener.lower()}"
    scram = f"{_MODULES}.scram.ScramLoginModule required;"
    found = {f"{prefix}.scram-sha-{bits}.sasl.jaas.config": scram for bits in (256, 512)}
    found[f"{prefix}.plain.sasl.jaas.config"] = f'{_MODULES}.plain.PlainLoginModule required user_app="{PASSWORD}";'
    token = f'{_MODULES}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
    found[f"{prefix}.oauthbearer.sasl.jaas.config"] = token
    found[f"{prefix}.oauthbearer.sasl.server.callback.handler.class"] = _UNSECURED
    if listener == "TOKEN":
        found[f"{prefix}.oauthbearer.connections.max.reauth.ms"] = str(REAUTHENTICATION_MS)
    return found
