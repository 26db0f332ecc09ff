"""The Linux package on a node: rendered files, services, detached commands, and the importer's log."""

from georeg_nb.omnibus.control import CLUSTER, GITLAB_RB, RECONFIGURE, SECRETS, Lockfiles, Omnibus
from georeg_nb.omnibus.importer import NOT_ENABLED, ImportLog, Window, predict_step_two, predict_window
from georeg_nb.omnibus.rendered import (
    BUNDLED_DATABASE,
    GITLAB_YML,
    LOCKFILES,
    REGISTRY_CONFIG,
    REGISTRY_FOLDER,
    REGISTRY_SERVICE,
    GitlabYml,
    RegistryConfig,
    Service,
    parse_status,
)

__all__ = [
    "BUNDLED_DATABASE",
    "CLUSTER",
    "GITLAB_RB",
    "GITLAB_YML",
    "LOCKFILES",
    "NOT_ENABLED",
    "RECONFIGURE",
    "REGISTRY_CONFIG",
    "REGISTRY_FOLDER",
    "REGISTRY_SERVICE",
    "SECRETS",
    "GitlabYml",
    "ImportLog",
    "Lockfiles",
    "Omnibus",
    "RegistryConfig",
    "Service",
    "Window",
    "parse_status",
    "predict_step_two",
    "predict_window",
]
