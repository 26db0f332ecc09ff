"""A manifest push into the database. Source: registry 4.1, 5.2, 6.3, fact 13."""

from __future__ import annotations

from georeg_lab.registry import digests, storage
from georeg_lab.registry import media_types as types
from georeg_lab.registry.backend import InternalError
from georeg_lab.registry.db import Queries
from georeg_lab.registry.http_errors import APIError
from georeg_lab.registry.http_payloads import Payload, Reference
from georeg_lab.registry.importer_images import CONFIG_LIMIT, NO_CONFIG
from georeg_lab.registry.importer_manifests import Descriptor
from georeg_lab.registry.importer_store import Repository, Store, UnknownMediaTypeError
from georeg_lab.registry.storage import PathNotFoundError, Storage


def put_manifest(queries: Queries, files: Storage, repository: str, payload: Payload, tag: str) -> None:
    """Create the manifest with everything that hangs on it, and the tag, in the caller's transaction.

    Raises APIError `MANIFEST_INVALID` for a config or artifact type that the database does not know, InternalError for
    an index without children, db.DatabaseError."""
    store = Store(queries, dynamic_media_types=False)
    row = store.repository(repository)
    manifest = store.find_manifest(row, payload.digest)
    if manifest is None:
        try:
            manifest = _create(queries, store, files, row, payload)
        except UnknownMediaTypeError as error:
            raise APIError("MANIFEST_INVALID", str(error)) from None
    if tag:
        store.create_tag(row, tag, manifest)
        store.mark_published(row)


def _create(queries: Queries, store: Store, files: Storage, row: Repository, payload: Payload) -> int:
    config = payload.config if not payload.is_list else payload.cache_config
    if config is None:
        return _create_list(store, row, payload)
    layers = [child for child in payload.children if child is not config] if payload.is_list else payload.layers
    manifest = store.create_manifest(
        row,
        payload.digest,
        payload.data,
        types.OCI_MANIFEST if payload.is_list else payload.media_type,
        config=_descriptor(config),
        config_payload=_config_payload(files, config),
        total_size=payload.total_size,
        non_conformant=payload.is_list,
    )
    _complete(queries, store, row, payload, manifest)
    kept = [layer for layer in layers if not types.is_non_distributable(layer.media_type)]
    sizes = _blob_sizes(queries, [layer.digest for layer in kept])
    store.create_layers(row, manifest, [Descriptor(x.media_type, sizes.get(x.digest, x.size), x.digest) for x in kept])
    return manifest


def _complete(queries: Queries, store: Store, row: Repository, payload: Payload, manifest: int) -> None:
    """Fill what the import leaves empty: subject, artifact type, the mark of layers that lie elsewhere."""
    subject = store.find_manifest(row, payload.subject.digest) if payload.subject else None
    artifact = None
    if payload.media_type == types.OCI_MANIFEST and payload.config is not None:
        artifact = store.media_type(payload.artifact_type or payload.config.media_type)
    elsewhere = any(types.is_non_distributable(layer.media_type) for layer in payload.layers)
    queries.execute(
        "UPDATE manifests SET subject_id = %s, artifact_media_type_id = %s, non_distributable_layers = %s "
        "WHERE top_level_namespace_id = %s AND repository_id = %s AND id = %s",
        (subject, artifact, elsewhere, row.namespace, row.id, manifest),
    )


def _create_list(store: Store, row: Repository, payload: Payload) -> int:
    if not payload.children:
        raise InternalError("no values to insert")  # recorded: 500, while legacy mode takes an empty index
    manifest = store.create_manifest(row, payload.digest, payload.data, payload.media_type)
    for child in payload.children:
        found = store.find_manifest(row, child.digest)
        if found is None:
            raise APIError("MANIFEST_BLOB_UNKNOWN", child.digest)
        store.add_reference(row, manifest, found)
    return manifest


def _descriptor(reference: Reference) -> Descriptor:
    return Descriptor(reference.media_type, reference.size, reference.digest)


def _config_payload(files: Storage, config: Reference) -> bytes:
    """The config's bytes as the database keeps them: not those of a big one, by its descriptor."""
    if config.size > CONFIG_LIMIT:
        return NO_CONFIG
    try:
        return files.read(storage.blob_path(config.digest))
    except PathNotFoundError:
        raise InternalError("obtaining configuration payload: unknown blob") from None


def _blob_sizes(queries: Queries, wanted: list[str]) -> dict[str, int]:
    keys = [digests.to_bytes(digest) for digest in wanted]
    rows = queries.execute("SELECT digest, size FROM blobs WHERE digest = ANY(%s)", (keys,)) if keys else ()
    return {digests.from_bytes(digest): size for digest, size in rows}
