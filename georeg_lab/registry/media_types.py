"""Media types of manifests, and which of them mean what. Source: registry 1.6, 4.1."""

from __future__ import annotations

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA_1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
BUILDKIT_CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
OCTET_STREAM = "application/octet-stream"

IMAGES = (DOCKER_MANIFEST, OCI_MANIFEST)
LISTS = (DOCKER_LIST, OCI_INDEX)
OCI_LAYERS = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
)


def is_manifest(media_type: str) -> bool:
    """Whether what a manifest names is another manifest rather than a blob."""
    return media_type in IMAGES or media_type in LISTS


def is_non_distributable(media_type: str) -> bool:
    """Whether a layer of this type lies elsewhere and is never part of the registry."""
    return media_type == DOCKER_FOREIGN_LAYER or ".layer.nondistributable." in media_type
