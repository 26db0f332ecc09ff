"""What a node's root folder holds before its first reconfigure: gitlab.rb, secrets, certificates, programs, version."""

from __future__ import annotations

import json
import os
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path

from georeg_lab import states
from georeg_lab.layout import Lab, inside
from georeg_lab.omnibus.profiles import profile
from georeg_lab.pki import Authority, host_key_pair, token_key_pair

STORAGE = "/var/opt/gitlab/gitlab-rails/shared/registry"
DATABASE_CA = "/etc/gitlab/ssl/registry-database-ca.crt"

# program on the node → module of the lab that stands in for it
PROGRAMS = {
    "usr/bin/gitlab-ctl": "georeg_lab.omnibus.ctl",
    "usr/bin/gitlab-psql": "georeg_lab.rails.psql",
    "usr/bin/gitlab-rake": "georeg_lab.rails.rake",
    "usr/bin/gitlab-rails": "georeg_lab.rails.runner",
    "opt/gitlab/embedded/bin/registry": "georeg_lab.omnibus.registry_process",
    "opt/gitlab/embedded/bin/ruby": "georeg_lab.omnibus.ruby",
    "opt/gitlab/embedded/bin/psql": "georeg_lab.omnibus.psql",
    "opt/gitlab/embedded/bin/chpst": "georeg_lab.omnibus.chpst",
    "opt/gitlab/embedded/bin/curl": "georeg_lab.omnibus.curl",
}

ADDRESS = "external_url 'https://127.0.0.1:{gitlab}'\n"
REGISTRY = "registry_external_url 'https://127.0.0.1:{registry}'\n"
GEO = """\
roles(['geo_{role}_role'])
gitlab_rails['geo_node_name'] = '{site}'
"""
# all sites share a machine, so that each has ports of its own, a registry that is yet to be enabled included
PORTS = """
puma['port'] = {puma}
registry['registry_http_addr'] = '127.0.0.1:{registry_http}'

postgresql['port'] = {postgresql}
"""
DATABASE = """\
gitlab_rails['db_host'] = '127.0.0.1'
gitlab_rails['db_port'] = {postgresql}
gitlab_rails['db_password'] = '{main_password}'
"""

NOTIFICATIONS = """
registry['notifications'] = [
  {{
    'name' => 'geo_event',
    'url' => 'https://127.0.0.1:{gitlab}/api/v4/container_registry_event/events',
    'timeout' => '500ms',
    'maxretries' => 5,
    'backoff' => '1s',
    'headers' => {{ 'Authorization' => ['{notification_token}'] }}
  }}
]
"""

TRACKING = """
geo_postgresql['port'] = {geo_postgresql}
geo_secondary['db_host'] = '127.0.0.1'
geo_secondary['db_port'] = {geo_postgresql}
geo_secondary['db_password'] = '{tracking_password}'
"""
GEO_PORTS = """\
geo_postgresql['port'] = {geo_postgresql}
geo_secondary['db_port'] = {geo_postgresql}
"""
REPLICATION = """
gitlab_rails['geo_registry_replication_enabled'] = true
gitlab_rails['geo_registry_replication_primary_api_url'] = 'https://127.0.0.1:{primary_registry}/'
gitlab_rails['registry_notification_secret'] = '{notification_token}'
"""


# From 19.0 on an unset registry database is "prefer". A secondary cannot leave it so: its default database is the
# primary's read-only copy, and reconfigure would fail in migrating it (procedures 1.4, 4.4).
NOT_PREFERRED = "\nregistry['database']['enabled'] = false\n"

EXTERNAL = """
registry['database'] = {{
  'enabled' => {enabled},
  'host' => '127.0.0.1',
  'port' => {registry_database},
  'user' => 'registry',
  'password' => '{registry_password}',
  'dbname' => 'registry',
  'sslmode' => 'verify-full',
  'sslrootcert' => '{ca}'
}}
"""
BUNDLED = "\nregistry['database']['enabled'] = {enabled}\n"

FAST_LOOKUP = """\
UsePAM yes
Match User git
  AuthorizedKeysCommand /opt/gitlab/embedded/service/gitlab-shell/bin/gitlab-shell-authorized-keys-check git %u %k
  AuthorizedKeysCommandUser git
Match all
"""

REGISTRY_ONLY = """
# a host with a registry alone, behind the load balancer of its site
gitlab_rails['enable'] = false
puma['enable'] = false
sidekiq['enable'] = false
nginx['enable'] = false
postgresql['enable'] = false
registry['registry_http_addr'] = '127.0.0.1:{registry_http}'
"""


@dataclass(frozen=True)
class Secrets:
    """The lab's secrets, each a file (0600) in <lab>/secrets, made once."""

    folder: Path

    def value(self, name: str, prefix: str = "") -> str:
        """The secret of this name; letters and digits, the first a letter, at least 32 characters."""
        path = self.folder / name
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            path.write_text(f"{prefix or 'x'}{secrets.token_hex(20)}\n")
        return path.read_text().strip()

    @property
    def gitlab_token(self) -> str:
        """Personal access token of root, the same on both sites: it lies in the replicated database."""
        return self.value("gitlab-token", "glpat-")

    def registry_database(self, site: str) -> str:
        """Password of the role `registry` in the site's external database."""
        return self.value(f"{site}-registry-database")


def gitlab_rb(lab: Lab, site: str, node: str, *, database: bool = False) -> str:
    """The node's gitlab.rb in the lab's state; without Geo no setting that Geo needs. `database`: a metadata database
    is in use; before its import it is only named. Source: procedures 2.1, 2.3, 2.4."""
    ports, kept, state = lab.ports, Secrets(lab.secrets), states.of(lab)
    primary = site == "primary"
    text = ADDRESS + (REGISTRY if state.registry(site) != "none" else "")
    if node == site:
        text += (GEO if state.geo else "") + PORTS + (DATABASE if state.geo else "")
        text += GEO_PORTS if not state.geo and not primary else ""
        text += TRACKING if state.geo and not primary else ""
        text += REPLICATION if state.replication and not primary else ""
    else:
        text += REGISTRY_ONLY
    text += NOTIFICATIONS if state.replication and primary else ""
    text += {"external": EXTERNAL, "bundled": BUNDLED}.get(state.registry(site), "")
    legacy = state.geo and state.secondary == "legacy" and not primary
    if node == site and legacy and profile(lab.gitlab_version).database_default == "prefer":
        text += NOT_PREFERRED
    return text.format(
        site=site,
        role="primary" if site == "primary" else "secondary",
        gitlab=ports.gitlab(site),
        registry=ports.registry(site),
        registry_http=ports.registry_http(node),
        puma=ports.puma(site),
        postgresql=ports.postgresql(site),
        geo_postgresql=ports.geo_postgresql(site),
        primary_registry=ports.registry("primary"),
        main_password=kept.value("main-database"),
        tracking_password=kept.value("tracking-database"),
        notification_token=kept.value("notification-token"),
        enabled=str(database).lower(),
        registry_database=ports.registry_database(site),
        registry_password=kept.registry_database(site),
        ca=DATABASE_CA,
    )


def gitlab_secrets() -> str:
    """gitlab-secrets.json, the same on both sites as after step 15 of procedures 2.1."""
    pair = token_key_pair()
    document = {
        "gitlab_rails": {name: secrets.token_hex(64) for name in ("secret_key_base", "db_key_base", "otp_key_base")},
        "gitlab_shell": {"secret_token": secrets.token_hex(64)},
        "registry": {
            "http_secret": secrets.token_hex(64),
            "internal_certificate": pair.certificate,
            "internal_key": pair.key,
        },
    }
    return json.dumps(document, indent=2) + "\n"


def write_gitlab_rb(lab: Lab, site: str, *, database: bool = False) -> None:
    """Write gitlab.rb of each of the site's nodes."""
    for node in lab.registry_nodes(site):
        text = gitlab_rb(lab, site, node, database=database)
        _write(lab.node_root(node), "/etc/gitlab/gitlab.rb", text, 0o600)


@dataclass(frozen=True)
class Shared:
    """What all sites of a Geo installation have in common, and an instance of its own has for itself alone (procedures
    2.1, steps 14 to 16): the text of gitlab-secrets.json, the SSH server's keys, and how it looks keys up."""

    secrets: str = field(default_factory=gitlab_secrets, repr=False)
    host_key: tuple[str, str] = field(default_factory=host_key_pair, repr=False)
    fast_lookup: bool = True


def write_site(lab: Lab, site: str, shared: Shared) -> None:
    """Fill the root folders of the site's nodes."""
    write_gitlab_rb(lab, site)
    for node in lab.registry_nodes(site):
        _write_node(lab, site, node, shared)


def _write_node(lab: Lab, site: str, node: str, shared: Shared) -> None:
    root, authority = lab.node_root(node), Authority(lab.pki)
    _write(root, "/etc/gitlab/gitlab-secrets.json", shared.secrets, 0o600)
    _write(root, "/etc/gitlab/disable-postgresql-upgrade", "")
    private, public = shared.host_key
    _write(root, "/etc/ssh/ssh_host_ed25519_key", private, 0o600)
    _write(root, "/etc/ssh/ssh_host_ed25519_key.pub", public)
    _write(root, "/etc/ssh/sshd_config", FAST_LOOKUP if shared.fast_lookup else "UsePAM yes\n", 0o600)
    certificate, key = authority.issue(site)
    _write(root, "/etc/gitlab/ssl/127.0.0.1.crt", certificate.read_text())
    _write(root, "/etc/gitlab/ssl/127.0.0.1.key", key.read_text(), 0o600)
    ca = authority.certificate_file.read_text()
    for path in (DATABASE_CA, "/etc/gitlab/trusted-certs/lab-ca.crt", "/opt/gitlab/embedded/ssl/certs/cacert.pem"):
        _write(root, path, ca)
    _write(
        root, "/opt/gitlab/version-manifest.txt", f"gitlab-ee {lab.gitlab_version}\n\nComponent  Installed Version\n"
    )
    manifest = {"manifest_format": 2, "software": {}, "build_version": lab.gitlab_version}
    _write(root, "/opt/gitlab/version-manifest.json", json.dumps(manifest) + "\n")
    storage = inside(root, STORAGE)
    if node == site:
        storage.mkdir(parents=True, exist_ok=True)
    else:  # the same storage, as by a network file system
        storage.parent.mkdir(parents=True, exist_ok=True)
        storage.symlink_to(os.path.relpath(inside(lab.node_root(site), STORAGE), storage.parent))
    write_programs(root)


def write_programs(root: Path) -> None:
    """The node's executables: scripts that find their root from where they lie and start the module that stands in."""
    for path, module in PROGRAMS.items():
        up = "/".join([".."] * path.count("/"))
        script = f'#!/bin/sh\nroot=$(cd "$(dirname "$0")/{up}" && pwd -P) || exit 1\n'
        script += f'exec "{sys.executable}" -m {module} --root "$root" "$@"\n'
        _write(root, f"/{path}", script, 0o755)


def _write(root: Path, path: str, text: str, mode: int = 0o644) -> None:
    file = inside(root, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=mode)
    file.chmod(mode)
    file.write_text(text)
