"""What georeg writes into gitlab.rb for an import."""

from __future__ import annotations

from georeg_nb import gitlab_rb
from georeg_nb.site import Site


def database_block(site: Site, *, enabled: bool, password: str | None = None) -> str:
    """The whole hash of the site's external database, and no second copy of it in the bundled server (procedures
    2.3).
    """
    database = site.parameters.database
    settings = [
        gitlab_rb.external_database(
            enabled=enabled,
            host=database.host,
            port=database.port,
            user=database.user,
            password=database.password.resolve().reveal() if password is None else password,
            dbname=database.name,
            sslmode=database.sslmode,
            sslrootcert=database.node_sslrootcert,
        )
    ]
    if site.profile.supports("bundled-registry-database"):
        settings.append(gitlab_rb.assignment("postgresql", ["registry", "auto_create"], False))
    return "\n".join(settings)
