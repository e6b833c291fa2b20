"""Stands in for the service where people log in: makes a key, writes its public half to
data/login.jwks.json and a token of a clerk that is good for an hour to data/login.token.

    .venv/bin/python examples/secured-api/login.py
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import ECKey


def main(folder: Path, name: str = "ann", role: str = "clerk") -> str:
    """Write the public key to `folder` and return a token, which lies beside it."""
    folder.mkdir(exist_ok=True)
    key = ECKey.generate_key("P-256", parameters={"kid": "try", "use": "sig", "alg": "ES256"})
    public = {"keys": [key.as_dict(private=False)]}
    (folder / "login.jwks.json").write_text(json.dumps(public, indent=2) + "\n")
    now = int(time.time())
    claims = {
        "iss": "https://login.example",
        "aud": "orders",
        "sub": name,
        "roles": [role],
        "iat": now,
        "exp": now + 3600,
    }
    token = jwt.encode({"alg": "ES256", "kid": "try"}, claims, key)
    (folder / "login.token").write_text(token)
    return token


if __name__ == "__main__":
    main(Path(__file__).parents[2] / "data", *sys.argv[1:])
