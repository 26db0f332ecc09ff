"""P2, P3 and P4: a registry on each site, each on a database of its own from its first image on, replicated by Geo.

The order of the sections keeps the traps closed: a registry is first started with its external database named and not
enabled, so that it never adopts the package's own (on a secondary a read-only copy); the tables are made before it is
enabled; and only registries that work on their own databases are made to replicate. Source: procedures 1.2 to 1.4.
"""

from georeg_nb.procedures.add_registry import checks
from georeg_nb.procedures.add_registry.database import ConnectDatabase, EnableDatabase, MigrateSchema
from georeg_nb.procedures.add_registry.enable import EnableRegistry
from georeg_nb.procedures.add_registry.replication import ReplicateImages, SendNotifications
from georeg_nb.procedures.assess import starting_point_fits
from georeg_nb.procedures.guard import OF_GEO, OF_THE_DATABASE, instance, nodes, pair, registry
from georeg_nb.procedures.import_metadata.checks import registry_works_on_its_database
from georeg_nb.runbook import Procedure

GUARD_EMPTY = Procedure(
    "guard-empty",
    title="Check every prerequisite",
    checks=[
        *OF_GEO,
        instance.gitlab_rb_is_sound,
        instance.no_foreign_jobs,
        checks.registry_is_enabled,
        checks.no_images,
        checks.no_other_database,
        checks.token_fits,
        *OF_THE_DATABASE,
        checks.database_is_unused,
    ],
    pair_checks=[starting_point_fits, pair.sites_fit],
)
ENABLE = Procedure(
    "enable-registry",
    title="Enable the registry",
    checks=[checks.registry_is_enabled],
    steps=[EnableRegistry()],
)
DATABASE = Procedure(
    "new-database",
    title="Put the empty registry on the site's own database",
    checks=[
        checks.no_images,
        checks.once_enabled(nodes.nodes_are_alike),
        checks.once_enabled(registry.not_read_only),
        checks.database_is_unused,
        checks.schema_is_ready,
    ],
    steps=[ConnectDatabase(), MigrateSchema(), EnableDatabase()],
)
NOTIFICATIONS = Procedure(
    "send-notifications",
    title="Tell GitLab on the primary about every push",
    checks=[checks.token_fits, registry_works_on_its_database],
    steps=[SendNotifications()],
)
REPLICATION = Procedure(
    "replicate-images",
    title="Let the secondary pull images from the primary",
    checks=[checks.token_fits, registry_works_on_its_database],
    pair_checks=[registry.same_signing_key],
    steps=[ReplicateImages()],
)
