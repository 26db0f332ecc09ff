"""What differs between versions of the package, as data. Source: procedures 3.2 and the recorded cases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

OLDEST, NEWEST = (17, 3), (19, 3)
Version = tuple[int, int, int]

# first version -> default of registry['database']['enabled']; before the first entry there are no database defaults
DATABASE_DEFAULTS: dict[Version, Any] = {(18, 3, 0): False, (18, 7, 0): "false", (19, 0, 0): "prefer"}
# fixed in several release lines at once: (major, minor) -> first patch; every later line has it
NO_THRESHOLD = {(18, 10): 8, (18, 11): 5, (19, 0): 2}
PORT_FOLLOWS = {(18, 11): 6, (19, 0): 3}


@dataclass(frozen=True)
class Profile:
    """One version's behaviour. Attributes say what the version does; see `profile` for since when."""

    version: str
    database_default: Any  # None: registry['database'] has no defaults at all
    threshold_default: bool  # every notification endpoint gets `threshold`
    port_follows_postgresql: bool  # registry database port = postgresql['port'] unless set
    prefer_needs_bundled: bool  # "prefer" without the bundled PostgreSQL becomes the string "false"
    draintimeout: bool  # config.yml has http.draintimeout
    auto_migrate: bool  # reconfigure migrates the registry's database
    migrates_any_truth: bool  # …for every truthy `enabled`, the string "false" too
    waits_for_database: bool  # …after waiting for the server
    wrapper_stops_for_up: bool  # registry-database asks to stop the registry for `migrate up`
    wrapper_drops_rights: bool  # registry-database runs the binary through chpst
    wrapper_changes_folder: bool  # registry-database runs in the registry's folder
    wrapper_config_in_folder: bool  # …and takes config.yml from there
    gc_stats: bool  # registry-database gc-stats


def parse_version(text: str) -> Version:
    """`18.7.7`, `18.7.7-ee`, `18.7.7+ee.0`, `18.7` -> (18, 7, 7). Raises ValueError outside 17.3 to 19.3."""
    found = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-+].*)?", text)
    if not found:
        raise ValueError(f"{text!r} is no version such as 18.7.7")
    version = (int(found[1]), int(found[2]), int(found[3] or 0))
    if not OLDEST <= version[:2] <= NEWEST:
        raise ValueError(f"version {text} is not known here: 17.3 to 19.3")
    return version


def profile(text: str) -> Profile:
    """The profile of a package version. Raises ValueError."""
    version = parse_version(text)
    defaults = [default for since, default in DATABASE_DEFAULTS.items() if version >= since]
    return Profile(
        version=".".join(map(str, version)),
        database_default=defaults[-1] if defaults else None,
        threshold_default=not _fixed(version, NO_THRESHOLD),
        port_follows_postgresql=_fixed(version, PORT_FOLLOWS),
        prefer_needs_bundled=version >= (18, 7, 0),
        draintimeout=version >= (18, 10, 0),
        auto_migrate=version >= (18, 3, 0),
        migrates_any_truth=(18, 3, 0) <= version < (18, 7, 0),
        waits_for_database=version >= (18, 6, 0),
        wrapper_stops_for_up=version < (17, 10, 0),
        wrapper_drops_rights=version >= (18, 7, 0),
        wrapper_changes_folder=version >= (18, 4, 0),
        wrapper_config_in_folder=version >= (19, 1, 0),
        gc_stats=version >= (18, 10, 0),
    )


def _fixed(version: Version, lines: dict[tuple[int, int], int]) -> bool:
    line = version[:2]
    return version[2] >= lines[line] if line in lines else line > max(lines)
