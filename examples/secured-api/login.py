"""Stands in for the service where people log in: makes a key, writes its public half to
login.jwks.json, and prints a token of a clerk that is good for an hour.

    python examples/secured-api/login.py > token
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import ECKey


def main(folder: Path, name: str = "ann", role: str = "clerk") -> str:
    """Write the public key to `folder` and return a token."""
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
    return jwt.encode({"alg": "ES256", "kid": "try"}, claims, key)


if __name__ == "__main__":
    print(main(Path(__file__).parent, *sys.argv[1:]))
