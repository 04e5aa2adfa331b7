"""An identity provider for tests: its keys, and tokens that it signs."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ISSUER, AUDIENCE = "https://id.example", "isthmus"
RSA, OTHER_RSA = (rsa.generate_private_key(65_537, 2_048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())
OIDC: dict[str, Any] = {"oidc_issuer": ISSUER, "oidc_audience": AUDIENCE}


def jwk(key: Any, kid: str) -> dict[str, Any]:
    maker = jwt.algorithms.ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else jwt.algorithms.RSAAlgorithm
    return {**json.loads(maker.to_jwk(key.public_key())), "kid": kid, "use": "sig"}


def write_keys(path: Path, **keys: Any) -> Path:
    path.write_text(json.dumps({"keys": [jwk(key, kid) for kid, key in keys.items()]}))
    return path


def token(key: Any = RSA, kid: str | None = "rsa", algorithm: str = "RS256", headers: Any = None, **changes: Any) -> str:
    """A token of an agent with the scope `read`; a claim of None is left out."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "agent-7", "iat": now, "exp": now + 300, "scope": "openid read", **changes}
    named = {**(headers or {}), **({} if kid is None else {"kid": kid})}
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm, named)
