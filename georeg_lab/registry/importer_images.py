"""Bringing one manifest over: its config, its layers, its children, its rows.

Source: registry 1.6, 6.1–6.4."""

from __future__ import annotations

from georeg_lab.registry import digests
from georeg_lab.registry import media_types as types
from georeg_lab.registry.db import DatabaseError
from georeg_lab.registry.import_log import Logger
from georeg_lab.registry.importer_manifests import (
    DIGEST_SKIPPED,
    BlobUnknownError,
    Descriptor,
    ManifestEmptyError,
    ManifestMalformedError,
    ManifestSchema1Error,
    ManifestUnknownError,
    RepositoryFiles,
    StoredManifest,
)
from georeg_lab.registry.importer_store import Repository, Store, UnknownMediaTypeError
from georeg_lab.registry.storage import StorageError

CONFIG_LIMIT = 256_000
NO_CONFIG = b"null"


class ManifestSkipError(Exception):
    """The manifest cannot be brought over, and the import goes on without it."""

    def __init__(self, where: str = "") -> None:
        super().__init__(f"{where}the manifest is invalid and its (pre)import should be skipped")


class ImageImport:
    """Writes the manifests of one repository."""

    def __init__(self, store: Store, repository: Repository, files: RepositoryFiles, log: Logger) -> None:
        self.store = store
        self.repository = repository
        self.files = files
        self.log = log

    def add(self, manifest: StoredManifest) -> int:
        """Bring a manifest over; a row that is there is kept. Returns its id.

        Raises ManifestSkipError, and what ends the import: DatabaseError, StorageError, digests.DigestError,
        ManifestMalformedError."""
        if manifest.is_list:
            return self._add_list(manifest)
        return self._add_image(manifest)

    def _find(self, digest: str) -> int | None:
        try:
            return self.store.find_manifest(self.repository, digest)
        except (DatabaseError, digests.DigestError) as error:
            raise DatabaseError(f"searching for manifest: {error}") from None

    # --- images

    def _add_image(self, manifest: StoredManifest) -> int:
        config = manifest.config
        assert config is not None
        non_conformant = bool(manifest.children)
        fields = {"non_conformant": non_conformant}
        log = self.log.bind(digest=config.digest, media_type=config.media_type, size=config.size, **fields)
        log.info("importing configuration")
        payload = self._config_payload(config, log)
        self.store.link_blobs(self.repository, [config])
        layers = self._layers(manifest, non_conformant)
        found = self._find(manifest.digest)  # only now: blobs and links are brought over again in any case
        if found is not None:
            return found
        try:
            row = self.store.create_manifest(
                self.repository,
                manifest.digest,
                manifest.payload,
                types.OCI_MANIFEST if non_conformant else manifest.media_type,
                config=config,
                config_payload=payload,
                total_size=config.size + manifest.counted_size + sum(layer.size for layer in manifest.layers),
                non_conformant=non_conformant,
            )
        except UnknownMediaTypeError as error:
            raise DatabaseError(f"creating manifest: mapping config media type: {error}") from None
        self.store.create_layers(self.repository, row, layers)
        return row

    def _config_payload(self, config: Descriptor, log: Logger) -> bytes:
        if config.size > CONFIG_LIMIT:
            return NO_CONFIG  # what the real program writes for a payload that it never read
        try:
            return self.files.read_blob(config.digest)
        except BlobUnknownError as error:
            log.warning("configuration blob not linked, skipping", error=str(error))
        except DIGEST_SKIPPED as error:
            log.warning("broken configuration layer link, skipping", error=str(error))
        except (digests.DigestError, StorageError) as error:
            raise StorageError(f"obtaining configuration payload: {error}") from None
        raise ManifestSkipError

    def _layers(self, manifest: StoredManifest, non_conformant: bool) -> list[Descriptor]:
        """The layers that are linked; their blobs and links are made. Raises ManifestSkipError."""
        layers = [layer for layer in manifest.layers if not types.is_non_distributable(layer.media_type)]
        linked: list[Descriptor] = []
        try:
            for number, layer in enumerate(layers, start=1):
                log = self.log.bind(
                    digest=layer.digest, media_type=layer.media_type, size=layer.size, non_conformant=non_conformant
                )
                log.info("importing layer", count=number, total=len(layers))
                try:
                    self.files.stat_blob(layer.digest)
                except BlobUnknownError:
                    log.warning("blob is not linked to repository, skipping blob import")
                except DIGEST_SKIPPED as error:
                    log.warning("broken layer link, skipping manifest import", error=str(error))
                    raise ManifestSkipError("importing layers: ") from None
                except (digests.DigestError, StorageError) as error:
                    raise StorageError(f"importing layers: {error}") from None
                else:
                    linked.append(layer)
        finally:
            self.store.link_blobs(self.repository, linked)
        return linked

    # --- lists

    def _add_list(self, manifest: StoredManifest) -> int:
        """Bring a list over with the children that can be read. The row comes first and stays when a child fails."""
        parent = self._find(manifest.digest)
        if parent is None:
            try:
                parent = self.store.create_manifest(
                    self.repository, manifest.digest, manifest.payload, manifest.media_type
                )
            except UnknownMediaTypeError as error:
                raise DatabaseError(f"creating manifest list: mapping media type: {error}") from None
        for number, child in enumerate(manifest.children, start=1):
            log = self.log.bind(digest=child.digest, count=number, total=len(manifest.children))
            stored = self._read_child(child.digest, log)
            if stored is None:
                continue
            log.info("importing manifest referenced in list", type=stored.type_name)
            if stored.children or stored.is_list:
                raise ManifestMalformedError(
                    f"unknown manifest class digest={child.digest} repository={self.repository.path}"
                )
            self.store.add_reference(self.repository, parent, self._add_image(stored))
        return parent

    def _read_child(self, digest: str, log: Logger) -> StoredManifest | None:
        try:
            return self.files.read_manifest(digest)
        except ManifestUnknownError as error:
            log.warning("unknown manifest revision, skipping", error=str(error))
        except ManifestEmptyError as error:
            log.warning("empty manifest payload, skipping", error=str(error))
        except ManifestSchema1Error as error:
            log.warning("skipping v1 manifest", error=str(error))
        except DIGEST_SKIPPED as error:
            log.warning("broken manifest link, skipping", error=str(error))
        except (digests.DigestError, StorageError, ManifestMalformedError) as error:
            text = f'retrieving manifest "{digest}" from filesystem: {error}'
            raise ManifestMalformedError(f'retrieving referenced manifest "{digest}" from filesystem: {text}') from None
        return None
