"""A site's container registry over HTTP: what is in it, what it answers to a push, and a small image of our own."""

from georeg_nb.registry_api.client import MANIFEST_TYPES, Head, Identity, Manifest, RegistryAPI
from georeg_nb.registry_api.images import digest_of, hashes_to, small_image

__all__ = ["MANIFEST_TYPES", "Head", "Identity", "Manifest", "RegistryAPI", "digest_of", "hashes_to", "small_image"]
