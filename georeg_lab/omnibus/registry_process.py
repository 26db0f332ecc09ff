"""`/opt/gitlab/embedded/bin/registry`: runs the drop-in, or the real binary, below a node's root.

A node's config.yml holds the node's own paths ("/var/opt/gitlab/…"). The process gets a copy in which they point below
the root: `<root>/run/registry/<digest>.yml`, 0600 since it holds the same secrets.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from georeg_lab.layout import Lab, inside, log_command, root_from_environment
from georeg_lab.omnibus import files
from georeg_lab.omnibus.chpst import read_env_dir
from georeg_lab.omnibus.peer import without_peer
from georeg_lab.releases import of_node

ENV_DIR = "/opt/gitlab/etc/registry/env"
# keys of config.yml that hold paths
PATHS = (
    "storage.filesystem.rootdirectory auth.token.rootcertbundle database.host database.sslcert database.sslkey "
    "database.sslrootcert http.tls.certificate http.tls.key http.debug.tls.certificate http.debug.tls.key"
)
PATH_LISTS = "http.tls.clientcas http.debug.tls.clientcas"
PATH_OPTIONS = ("--log-directory",)
KEPT_SECONDS = 600  # copies that no process was started with for so long are removed


def below(root: Path, value: Any) -> Any:
    """A node's absolute path as a real one; anything else unchanged."""
    if not isinstance(value, str) or not value.startswith("/") or Path(value).is_relative_to(root.parent):
        return value
    return str(inside(root, value))


def translate(config: dict[str, Any], root: Path) -> dict[str, Any]:
    """A copy of config.yml with all paths below the root."""
    result = _copy(config)
    if isinstance(result.get("database"), dict):
        result["database"] = without_peer(root, result["database"])
    for key in PATHS.split():
        holder, name = _holder(result, key)
        if holder is not None and name in holder:
            holder[name] = below(root, holder[name])
    for key in PATH_LISTS.split():
        holder, name = _holder(result, key)
        if holder is not None and isinstance(holder.get(name), list):
            holder[name] = [below(root, item) for item in holder[name]]
    http = result.get("http")
    if isinstance(http, dict) and http.get("net") == "unix":
        http["addr"] = below(root, http.get("addr"))
    return result


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value


def _holder(config: dict[str, Any], key: str) -> tuple[dict[str, Any] | None, str]:
    *folders, name = key.split(".")
    holder: Any = config
    for folder in folders:
        holder = holder.get(folder) if isinstance(holder, dict) else None
    return (holder if isinstance(holder, dict) else None), name


def translated_file(file: Path, root: Path) -> Path:
    """Path of the translated copy of a configuration file; the file itself if it cannot be read as YAML."""
    import yaml

    try:
        config = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError):
        return file
    if not isinstance(config, dict):
        return file
    text = yaml.safe_dump(translate(config, root), sort_keys=False)
    folder = root / "run" / "registry"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.yml"
    for old in folder.glob("*.yml"):
        if old != target and time.time() - old.stat().st_mtime > KEPT_SECONDS:
            old.unlink(missing_ok=True)
    if target.exists():
        os.utime(target)
        return target
    files.write(target, text, 0o600)
    return target


def arguments(argv: list[str], root: Path) -> list[str]:
    """The registry's arguments with its paths translated: configuration files, and folders of options."""
    result: list[str] = []
    for at, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if option in PATH_OPTIONS and equals:
            result.append(f"{option}={below(root, value)}")
        elif word.startswith("-"):
            result.append(word)
        elif at and argv[at - 1] in PATH_OPTIONS:
            result.append(below(root, word))
        else:
            file = Path(below(root, word))
            is_file = word.endswith((".yml", ".yaml")) and file.is_file()
            result.append(str(translated_file(file, root)) if is_file else below(root, word))
    return result


def environment(root: Path) -> dict[str, str]:
    """The caller's environment with the registry's own variables, paths in them below the root."""
    variables = {name: below(root, value) for name, value in read_env_dir(inside(root, ENV_DIR)).items()}
    result = {**os.environ, **variables, "GEOREG_NODE_ROOT": str(root)}
    result["GEOREG_REGISTRY_VERSION"] = of_node(root).registry
    named = result.get("REGISTRY_CONFIGURATION_PATH")
    if named:
        result["REGISTRY_CONFIGURATION_PATH"] = str(translated_file(Path(below(root, named)), root))
    return result


def command(root: Path) -> list[str]:
    """What runs the registry: the real binary that the lab's settings name, else the drop-in."""
    try:
        binary = Lab.of_root(root).settings.get("registry_binary")
    except FileNotFoundError:
        binary = None
    return [str(binary)] if binary else [sys.executable, "-m", "georeg_lab.registry"]


def main(argv: list[str], root: Path) -> None:
    """Replace this process by the registry."""
    root = root.resolve()
    words = [*command(root), *arguments(argv, root)]
    os.execvpe(words[0], words, environment(root))  # noqa: S606


if __name__ == "__main__":
    ROOT = root_from_environment()
    if sys.argv[1:2] != ["serve"]:
        log_command(ROOT, ["registry", *sys.argv[1:]])
    main(sys.argv[1:], ROOT)
