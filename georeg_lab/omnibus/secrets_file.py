"""gitlab-secrets.json: kept as it is, completed where something is missing. Source: procedures 4.1, 7.1.

Only the secrets that the lab's programs use are generated: two nodes that share a file then stay equal.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from georeg_lab.layout import inside
from georeg_lab.omnibus import files
from georeg_lab.omnibus.render import Rendered

SECRETS = "/etc/gitlab/gitlab-secrets.json"
HEX_KEYS = (
    ("gitlab_shell", "secret_token"),
    ("gitlab_rails", "secret_key_base"),
    ("gitlab_rails", "db_key_base"),
    ("gitlab_rails", "otp_key_base"),
    ("registry", "http_secret"),
)
PAIR = ("internal_certificate", "internal_key")


def load(root: Path) -> dict[str, Any]:
    """The file's contents, {} where there is none. Raises ValueError for a file that is no JSON."""
    file = inside(root, SECRETS)
    contents: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return contents


def complete(root: Path, rendered: Rendered, kept: dict[str, Any]) -> None:
    """Generate what is missing, put it into the attributes, and write the file (0600). gitlab.rb's values win."""
    document = {name: dict(values) for name, values in kept.items()}
    for name, key in HEX_KEYS:
        if rendered.section(name).get(key) is None:
            rendered.section(name).write(key, secrets.token_hex(64))
        document.setdefault(name, {})[key] = rendered.section(name)[key]
    registry = rendered.section("registry")
    if any(registry.get(key) is None for key in PAIR):
        from georeg_lab.pki import token_key_pair

        pair = token_key_pair()
        registry.default(PAIR[0], pair.certificate)
        registry.default(PAIR[1], pair.key)
    document["registry"] |= {key: registry[key] for key in PAIR}
    text = json.dumps(document, indent=2) + "\n"
    if document != kept:
        files.write(inside(root, SECRETS), text, 0o600)
    else:
        inside(root, SECRETS).chmod(0o600)
