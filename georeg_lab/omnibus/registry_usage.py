"""Usage texts of `gitlab-ctl registry-database`. Source: run; those of the subcommands: packaging source."""

from __future__ import annotations

GC_STATS_COMMAND = "  gc-stats               Show online garbage collection health statistics\n"
GLOBAL = """\
Usage:
  gitlab-ctl registry-database command subcommand [options]

GLOBAL OPTIONS:
  -h, --help      Usage help

COMMANDS:
  migrate                Manage schema migrations
  import                 Import filesystem metadata into the database
"""
MIGRATE = """\
Manage migrations

Usage:
  gitlab-ctl registry-database migrate SUBCOMMAND [options]

Subcommands:
  down        Apply down migrations
  status      Show migration status
  up          Apply up migrations
  version     Show current migration version

Options:
  -h, --help   help for migrate
"""
UP = """\
Apply up migrations

Usage:
  gitlab-ctl registry-database migrate up [options]

Options:
  -d, --dry-run                do not commit changes to the database
  -h, --help                   help for up
  -l, --limit int              limit the number of migrations (all by default)
  -s, --skip-post-deployment   do not apply post deployment migrations
"""
DOWN = """\
Apply down migrations

Usage:
  gitlab-ctl registry-database migrate down [options]

Options:
  -d, --dry-run     do not commit changes to the database
  -f, --force       no confirmation message
  -h, --help        help for down
  -l, --limit int   limit the number of migrations (all by default)
"""
STATUS = """\
Show migration status

Usage:
  gitlab-ctl registry-database migrate status [options]

Options:
  -h, --help                   help for status
  -s, --skip-post-deployment   ignore post deployment migrations
  -u, --up-to-date             check if all known migrations are applied

"""
IMPORT = """\
Import filesystem metadata into the database

See documentation at https://gitlab.com/gitlab-org/container-registry/-/blob/master/docs/database-import-tool.md

Usage:
  gitlab-ctl registry-database import [options]

Options:
  -B, --common-blobs                Import all blob metadata from common storage
  -c, --row-count                   Count and log number of rows across relevant database tables on (pre)import completion
  -d, --dry-run                     Do not commit changes to the database
  -e, --require-empty-database      Abort import if the database is not empty
  -p, --pre-import                  Import immutable repository-scoped data to speed up a following import
  -r, --all-repositories            Import all repository-scoped data
  -h, --help                        Help for import
  -1, --step-one pre-import         Perform step one of a multi-step import: alias for pre-import
  -2, --step-two all-repositories   Perform step two of a multi-step import: alias for all-repositories
  -3, --step-three common-blobs     Perform step three of a multi-step import: alias for common-blobs
  -l, --log-to-stdout               Write detailed log to standard output instead of showing progress bars
"""  # noqa: E501
GC_STATS = """\
Show online garbage collection health statistics

Usage:
  gitlab-ctl registry-database gc-stats [options]

Options:
  -f, --format FORMAT   Output format: 'text' (default) or 'json'
  -l, --limit INT       Maximum number of sample entries to display per category, pass 0 to show all entries (default: 10)
  -h, --help            Help for gc-stats
"""  # noqa: E501
