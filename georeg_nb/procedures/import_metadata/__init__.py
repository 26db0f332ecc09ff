"""P6: legacy metadata into the site's own external database, in one step or in three. Source: procedures 2.6.

The order keeps the read-only window short: connection and tables are made before it, and in three steps all manifests
are read before it too, and blobs after it. Whatever fails in the window lets pushes in again.
"""

from georeg_nb.procedures.import_metadata import checks, method
from georeg_nb.procedures.import_metadata.blobs import ImportBlobs
from georeg_nb.procedures.import_metadata.importing import Compare, Import, TakeSnapshot
from georeg_nb.procedures.import_metadata.pre_import import PreImport
from georeg_nb.procedures.import_metadata.prepare import Backup, ClearHalfImport, ConnectDatabase, MigrateSchema
from georeg_nb.procedures.import_metadata.switch import EnableDatabase, RecomputeChecksums, Writable
from georeg_nb.procedures.import_metadata.way_back import HoldCollection
from georeg_nb.procedures.import_metadata.window import LetPushesIn, ReadOnly
from georeg_nb.runbook import Procedure

IMPORT = Procedure(
    "import-metadata",
    title="Import legacy metadata into the site's own database",
    checks=[
        checks.registry_is_legacy,
        checks.no_unnamed_loss,
        method.method_is_settled,
        method.window_is_short_enough,
        checks.image_sync_is_held,
        checks.secondaries_are_proved,
        checks.schema_is_current,
        checks.tags_table_is_empty,
        checks.never_in_use,
        checks.nobody_else_connected,
    ],
    steps=[
        Backup(),
        ConnectDatabase(),
        MigrateSchema(),
        HoldCollection(),
        LetPushesIn(),
        ClearHalfImport(),
        PreImport(),
        ReadOnly(),
        TakeSnapshot(),
        Import(),
        Compare(),
        EnableDatabase(),
        Writable(),
        RecomputeChecksums(),
        ImportBlobs(),
    ],
)
