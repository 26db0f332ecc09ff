"""P6, one-step: legacy metadata into the site's own external database. Source: procedures 2.6.

The order keeps the read-only window short: connection and tables are made before it; whatever fails in it lets pushes
in again.
"""

from georeg_nb.procedures.import_metadata import checks
from georeg_nb.procedures.import_metadata.importing import Compare, Import, TakeSnapshot
from georeg_nb.procedures.import_metadata.prepare import Backup, ClearHalfImport, ConnectDatabase, MigrateSchema
from georeg_nb.procedures.import_metadata.switch import EnableDatabase, RecomputeChecksums, Writable
from georeg_nb.procedures.import_metadata.window import LetPushesIn, ReadOnly
from georeg_nb.runbook import Procedure

IMPORT = Procedure(
    "import-metadata",
    title="Import legacy metadata into the site's own database",
    checks=[
        checks.registry_is_legacy,
        checks.no_unnamed_loss,
        checks.window_is_short_enough,
        checks.image_sync_is_held,
        checks.secondaries_are_proved,
        checks.schema_is_current,
        checks.tags_table_is_empty,
        checks.nobody_else_connected,
    ],
    steps=[
        Backup(),
        ConnectDatabase(),
        MigrateSchema(),
        LetPushesIn(),
        ClearHalfImport(),
        ReadOnly(),
        TakeSnapshot(),
        Import(),
        Compare(),
        EnableDatabase(),
        Writable(),
        RecomputeChecksums(),
    ],
)
