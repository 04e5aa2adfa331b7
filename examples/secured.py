"""The options of the examples for a broker with SASL over TLS."""

import argparse
import ssl
from pathlib import Path
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--username", help="user of SASL over TLS with SCRAM-SHA-512; without it, the broker is open")
    parser.add_argument("--password-file", type=Path)
    parser.add_argument("--ca-file", type=Path, help="PEM file with the authorities that sign the brokers' certificates")


def parsed(*names: str) -> argparse.Namespace:
    """The command line: arguments of these names, and the options above."""
    parser = argparse.ArgumentParser()
    for name in names:
        parser.add_argument(name)
    add_options(parser)
    return parser.parse_args()


def client_options(options: argparse.Namespace) -> dict[str, Any]:
    """What aiokafka's clients take."""
    if options.username is None:
        return {}
    return {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": options.username,
        "sasl_plain_password": options.password_file.read_text().strip(),
        "ssl_context": ssl.create_default_context(cafile=options.ca_file),
    }
