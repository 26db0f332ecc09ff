"""The faults, by the names of the symptoms that they bring about. Source: procedures 6."""

from __future__ import annotations

import re

from georeg_lab.faults.actions import (
    AccessRules,
    Await,
    Configure,
    DropSlot,
    EmptyDatabase,
    FileForFolder,
    Replace,
    Run,
    Sql,
)
from georeg_lab.faults.switch import Fault
from georeg_lab.sites.node_files import STORAGE

S, P = "secondary", "primary"
DATABASE = (
    "registry['database'] = { 'enabled' => ENABLED, 'host' => '127.0.0.1', 'port' => {database_port}, 'user' => "
    "'registry', 'password' => '{database_password}', 'dbname' => 'registry', 'sslmode' => 'verify-full', "
    "'sslrootcert' => '{database_ca}' }\n"
)
ON, OFF, PREFER = (DATABASE.replace("ENABLED", value) for value in ("true", "false", "'prefer'"))
BY_HAND = "registry['auto_migrate'] = false\n"
ENFORCED = "registry['env'] = { 'REGISTRY_FF_ENFORCE_LOCKFILES' => 'true' }\n"
LOCKS = f"{STORAGE}/docker/registry/lockfiles"
ENDPOINT = (
    "registry['notifications'] = [{ 'name' => 'geo_event', 'url' => "
    "'URL/api/v4/container_registry_event/events', 'maxretries' => 5HEADERS }]\n"
)
HEADERS = ", 'headers' => { 'Authorization' => ['{notification_token}'] }"
READ_ONLY = (
    "registry['storage'] = { 'filesystem' => { 'rootdirectory' => '{storage}' }, 'maintenance' => { 'readonly' => "
    "{ 'enabled' => true } } }\n"
)


def _lock(site: str, kind: str) -> Replace:
    return Replace(site, f"{LOCKS}/{kind}-in-use", lambda text: '{"version":1}')


def _no_replication(rules: str) -> str:
    return re.sub(r"^host\s+replication.*\n", "", rules, flags=re.MULTILINE)


def _superuser_alone(rules: str) -> str:
    return re.sub(r"^(host\s+)all(\s+)all(\s+)127", r"\1all\2gitlab-psql\3 127", rules, flags=re.MULTILINE)


def _other_release(text: str) -> str:
    return text.replace(text.splitlines()[0], "gitlab-ee 19.0.1")


def _other_key(text: str) -> str:
    import json

    from georeg_lab.pki import token_key_pair

    document, pair = json.loads(text), token_key_pair()
    document["registry"] |= {"internal_key": pair.key, "internal_certificate": pair.certificate}
    return json.dumps(document, indent=2) + "\n"


MIGRATED = (EmptyDatabase(S), Configure(S, OFF), Run(S, ("gitlab-ctl", "registry-database", "migrate", "up")))

_ALL = (
    Fault(
        "pending-migrations",
        1,
        "the secondary's registry is switched to an external database without tables",
        (EmptyDatabase(S), Configure(S, ON + BY_HAND)),
    ),
    Fault(
        "tags-table-not-empty",
        2,
        "the secondary was imported, the lock file is gone, and its registry is still legacy",
        (
            *MIGRATED,
            _lock(S, "database"),  # put back to what was there before the import
            Run(S, ("gitlab-ctl", "registry-database", "import")),
            Replace(S, f"{LOCKS}/database-in-use"),
        ),
    ),
    Fault(
        "database-read-only",
        3,
        "default_transaction_read_only is on in the secondary's registry database",
        (
            Sql(
                "registry",
                S,
                ("ALTER DATABASE registry SET default_transaction_read_only = on",),
                ("ALTER DATABASE registry RESET default_transaction_read_only",),
            ),
        ),
    ),
    Fault(
        "registry-on-replicated-database",
        4,
        "the secondary's registry is switched to the bundled database",
        (Configure(S, "registry['database'] = { 'enabled' => true }\n" + BY_HAND),),
    ),
    Fault(
        "filesystem-metadata-in-use",
        6,
        "the database is switched on over legacy metadata",
        (_lock(S, "filesystem"), Configure(S, ON + BY_HAND + ENFORCED)),
    ),
    Fault(
        "database-in-use-but-off",
        7,
        "the secondary's storage belongs to a database, and its registry is legacy",
        (_lock(S, "database"), Configure(S, ENFORCED)),
    ),
    Fault(
        "both-lockfiles",
        8,
        "both lock files lie in the secondary's storage",
        (_lock(S, "database"), _lock(S, "filesystem"), Configure(S, ENFORCED)),
    ),
    Fault(
        "lockfiles-out-of-reach",
        9,
        "the registry cannot look into the folder of the lock files",
        (FileForFolder(S, LOCKS), Configure(S, ENFORCED)),
    ),
    Fault(
        "bytea-output-escape",
        10,
        "bytea_output is escape in the secondary's registry database",
        (
            Sql(
                "registry",
                S,
                ("ALTER DATABASE registry SET bytea_output = 'escape'",),
                ("ALTER DATABASE registry RESET bytea_output",),
            ),
        ),
    ),
    Fault(
        "schema-not-writable",
        11,
        "somebody else owns the secondary's registry database",
        (
            Sql(
                "registry",
                S,
                ("ALTER DATABASE registry OWNER TO postgres",),
                ("ALTER DATABASE registry OWNER TO registry",),
            ),
        ),
    ),
    Fault(
        "table-missing",
        12,
        "a table is gone from the secondary's migrated database",
        (*MIGRATED, Sql("registry", S, ("ALTER TABLE public.blobs RENAME TO blobs_of_old",), dbname="registry")),
    ),
    Fault(
        "listen-address-trap",
        14,
        "postgresql['listen_address'] becomes the host of the primary's bundled registry database",
        (
            Configure(
                P,
                "postgresql['listen_address'] = '127.0.0.1'\n"
                "registry['database'] = { 'enabled' => true, 'port' => {main_port} }\n" + BY_HAND,
            ),
        ),
    ),
    Fault(
        "migration-in-reconfigure-fails",
        15,
        "the password of the secondary's registry database is wrong",
        (Configure(S, ON.replace("{database_password}", "not-the-password")),),
    ),
    Fault(
        "images-hidden-by-release",
        16,
        "both nodes have the files of GitLab 19.0.1",
        tuple(Replace(site, "/opt/gitlab/version-manifest.txt", _other_release) for site in (P, S)),
    ),
    Fault(
        "prefer-adopted-empty-database",
        17,
        '"prefer" and no lock file: the secondary\'s registry takes an empty database',
        (EmptyDatabase(S), Replace(S, f"{LOCKS}/database-in-use"), Configure(S, PREFER + ENFORCED)),
    ),
    Fault(
        "registry-not-enabled-here",
        20,
        "the secondary's registry is not enabled",
        (Configure(S, "registry['enable'] = false\n"),),
    ),
    Fault("read-only-mode-on", 22, "the secondary's registry refuses pushes", (Configure(S, READ_ONLY),)),
    Fault(
        "storage-driver-missing",
        23,
        "read-only mode alone was set: no storage driver is left",
        (Configure(S, "registry['storage'] = { 'maintenance' => { 'readonly' => { 'enabled' => true } } }\n"),),
    ),
    Fault(
        "no-geo-events",
        24,
        "the primary's registry notifies nobody",
        (Configure(P, "registry['notifications'] = []\n"),),
    ),
    Fault(
        "geo-events-refused",
        25,
        "the primary's endpoint does not send GitLab's secret",
        (Configure(P, "gitlab_rails['registry_notification_secret'] = 'another-secret-of-gitlab'\n"),),
    ),
    Fault(
        "secondary-sends-events",
        26,
        "notifications are configured on the secondary",
        (Configure(S, ENDPOINT.replace("URL", "{secondary}").replace("HEADERS", HEADERS)),),
    ),
    Fault(
        "issuers-differ",
        28,
        "the secondary's tokens have another issuer",
        (Configure(S, "gitlab_rails['registry_issuer'] = 'another-issuer'\n"),),
    ),
    Fault(
        "signing-keys-differ",
        29,
        "the secondary signs with a key of its own",
        (Replace(S, "/etc/gitlab/gitlab-secrets.json", _other_key), Configure(S, "")),
    ),
    Fault(
        "primary-registry-out-of-reach",
        31,
        "the secondary pulls from a port where nothing listens",
        (Configure(S, "gitlab_rails['geo_registry_replication_primary_api_url'] = 'https://127.0.0.1:9'\n"),),
    ),
    Fault(
        "rails-password-missing",
        37,
        "the secondary's Rails has no password of the main database",
        (Configure(S, "gitlab_rails['db_password'] = nil\n"),),
    ),
    Fault(
        "replication-address-missing",
        38,
        "the primary's pg_hba.conf has no rule for replication",
        (AccessRules(_no_replication), Await(S, "postgresql/current", "no pg_hba.conf entry for replication")),
    ),
    Fault(
        "rails-password-wrong",
        39,
        "the role gitlab has another password",
        (
            Sql(
                "main",
                P,
                ("ALTER ROLE gitlab PASSWORD 'another-password'",),
                ("ALTER ROLE gitlab PASSWORD '{main_password}'",),
            ),
        ),
    ),
    Fault(
        "not-a-secondary",
        40,
        "the secondary goes by a name that no Geo site has",
        (Configure(S, "gitlab_rails['geo_node_name'] = 'nobody'\n"),),
    ),
    Fault(
        "primary-name-unknown",
        41,
        "the primary goes by a name that no Geo site has",
        (Configure(P, "gitlab_rails['geo_node_name'] = 'nobody'\n"),),
    ),
    Fault(
        "secondary-migrates-itself",
        42,
        "the secondary would migrate the replicated database",
        (Configure(S, "gitlab_rails['auto_migrate'] = true\n"),),
    ),
    Fault("replication-slot-missing", 44, "the secondary's slot is gone on the primary", (DropSlot(),)),
    Fault(
        "all-services-down",
        46,
        "every service of the secondary is stopped",
        (Run(S, ("gitlab-ctl", "stop"), ("gitlab-ctl", "start")),),
    ),
    Fault(
        "localhost-refused",
        47,
        "the primary's pg_hba.conf lets the role gitlab in from nowhere",
        (AccessRules(_superuser_alone),),
    ),
    Fault(
        "status-outdated",
        48,
        "the secondary's Sidekiq is down, and its last report two hours old",
        (
            Run(S, ("gitlab-ctl", "stop", "sidekiq"), ("gitlab-ctl", "start", "sidekiq")),
            Sql(
                "main",
                P,
                (
                    "UPDATE geo_node_statuses SET updated_at = now() - interval '2 hours' WHERE geo_node_id ="
                    " (SELECT id FROM geo_nodes WHERE name = 'secondary')",
                ),
                (
                    "UPDATE geo_node_statuses SET updated_at = now() WHERE geo_node_id ="
                    " (SELECT id FROM geo_nodes WHERE name = 'secondary')",
                ),
                dbname="gitlabhq_production",
            ),
        ),
    ),
    Fault(
        "oauth-application-missing",
        50,
        "the secondary's OAuth application is gone",
        (
            Sql(
                "main",
                P,
                ('UPDATE geo_nodes SET oauth_application_id = NULL WHERE NOT "primary"',),
                ('UPDATE geo_nodes SET oauth_application_id = 1 WHERE NOT "primary"',),
                dbname="gitlabhq_production",
            ),
        ),
    ),
    Fault(
        "database-hash-overwritten",
        51,
        "a second assignment of registry['database'] drops the primary's external host",
        (Configure(P, OFF + "registry['database'] = { 'enabled' => true }\n" + BY_HAND),),
    ),
    Fault(
        "database-certificate-missing",
        53,
        "sslrootcert of the secondary's registry names no file",
        (Configure(S, ON.replace("{database_ca}", "/etc/gitlab/ssl/not-there.crt") + BY_HAND),),
    ),
    Fault(
        "endpoint-without-header",
        56,
        "the primary's geo_event endpoint has no Authorization header",
        (Configure(P, ENDPOINT.replace("URL", "{primary}").replace("HEADERS", "")),),
    ),
    Fault(
        "registry-url-with-path",
        57,
        "the secondary's registry_external_url has a path",
        (Configure(S, "registry_external_url '{registry}/registry'\n"),),
    ),
    Fault(
        "internal-url-points-back",
        58,
        "the primary's internal_url is the secondary's address",
        (
            Sql(
                "main",
                P,
                ("UPDATE geo_nodes SET internal_url = '{secondary}/' WHERE \"primary\"",),
                ('UPDATE geo_nodes SET internal_url = NULL WHERE "primary"',),
                dbname="gitlabhq_production",
            ),
        ),
    ),
    Fault(
        "primary-url-outdated",
        63,
        "Geo's record of the primary has an old address",
        (
            Sql(
                "main",
                P,
                ("UPDATE geo_nodes SET url = 'https://old.example.com/' WHERE \"primary\"",),
                ("UPDATE geo_nodes SET url = '{primary}/' WHERE \"primary\"",),
                dbname="gitlabhq_production",
            ),
        ),
    ),
)
FAULTS: dict[str, Fault] = {fault.name: fault for fault in _ALL}
