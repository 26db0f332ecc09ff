"""G0 for this scenario: everything that must hold on each site, and of the sites as a pair, before the first change."""

from georeg_nb.procedures.assess import starting_point_fits
from georeg_nb.procedures.guard import database, instance, nodes, pair, registry, storage
from georeg_nb.runbook import Procedure

OF_GEO = (
    instance.token_is_administrators,
    instance.version_is_supported,
    instance.package_runs,
    instance.geo_is_licensed,
    instance.role_is_as_named,
    instance.never_promoted,
    instance.main_database_fits,
    instance.geo_is_healthy,
)
OF_THE_DATABASE = (
    nodes.authority_is_there,
    database.database_answers,
    database.database_is_new_enough,
    database.database_is_writable,
    database.database_belongs_to_registry,
    database.bytea_is_hex,
    database.database_is_external,
)

PREFLIGHT = Procedure(
    "preflight",
    title="What every scenario needs",
    checks=[
        instance.token_is_administrators,
        instance.version_is_supported,
        instance.package_runs,
        instance.geo_is_licensed,
        instance.never_promoted,
        instance.gitlab_rb_is_sound,
        instance.no_foreign_jobs,
        *OF_THE_DATABASE,
    ],
    pair_checks=[pair.sites_fit],
)
GUARD = Procedure(
    "guard",
    title="Check every prerequisite",
    checks=[
        *OF_GEO,
        instance.replication_is_on,
        instance.gitlab_rb_is_sound,
        instance.no_foreign_jobs,
        registry.registry_runs,
        registry.registry_is_legacy_or_moved,
        registry.lockfiles_agree,
        registry.no_foreign_database,
        storage.storage_has_one_driver,
        nodes.nodes_are_alike,
        registry.catalog_is_readable,
        registry.not_read_only,
        registry.log_says_enough,
        registry.no_offline_collection,
        registry.notifications_fit,
        *OF_THE_DATABASE,
        database.database_is_empty_or_ours,
    ],
    pair_checks=[
        starting_point_fits,
        pair.sites_fit,
    ],
)

ANSWERS = Procedure(
    "answers",
    title="Do the sites answer, and are they those that the sites file names?",
    checks=[
        instance.token_is_administrators,
        instance.package_runs,
        instance.role_is_as_named,
        registry.registry_runs,
        registry.catalog_is_readable,
    ],
    pair_checks=[instance.versions_are_equal],
)
