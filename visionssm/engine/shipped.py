"""The configurations that come with the package, by name."""

from __future__ import annotations

import ast
import shutil
from functools import cache
from pathlib import Path

import visionssm
from visionssm.data.spelling import closest
from visionssm.engine.errors import ConfigError
from visionssm.files import complete_or_absent

BASES = "_base_"


@cache
def shipped_root() -> Path:
    """The folder of the configurations: in an installed package, or beside it in a clone.

    Raises:
        ConfigError: there is none, as after copying the package alone.
    """
    package = Path(visionssm.__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / BASES).is_dir():
            return folder.resolve()
    raise ConfigError(f"the configurations of visionssm are not beside its code in {str(package)!r}; install it anew")


@cache
def shipped_configs() -> dict[str, Path]:
    """Name to file of every configuration, but those that are only a base of others; names are unique."""
    paths = (path for path in shipped_root().rglob("*.py") if path.parent.name != BASES)
    return {path.stem: path for path in sorted(paths, key=lambda path: (path.parent, path.name))}


def find_config(given: str | Path) -> Path:
    """The configuration that a word means: a file, or one that comes with the package, by name or by its place.

    A file that is there is meant first. `configs/vmamba_nano_digits.py` also means the shipped one where this folder
    has no such file, so that commands of the documentation work from any folder.

    Raises:
        ConfigError: a name that no configuration has, with the closest one.

    Examples:
        >>> find_config("vmamba_nano_digits").name
        'vmamba_nano_digits.py'
    """
    path = Path(given).expanduser()
    if not path.parts:
        raise ConfigError(f"{str(given)!r} names no configuration; visionssm train --list shows all")
    if path.is_file() or path.is_absolute():
        return path
    if len(path.parts) == 1 and path.suffix != ".py":
        if path.name not in shipped_configs():
            raise ConfigError(
                f"no configuration {str(given)!r}: no such file, and none of that name comes with visionssm; closest: "
                f"{closest(path.name, shipped_configs())}; visionssm train --list shows all"
            )
        return shipped_configs()[path.name]
    parts = path.parts[1:] if path.parts[0] == "configs" else path.parts
    shipped = shipped_root().joinpath(*parts)
    return shipped if shipped.is_file() and ".." not in parts else path


def about_config(path: Path) -> str:
    """The first line of a configuration's docstring; nothing of the file is run."""
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return told.partition("\n")[0]


def copy_config(given: str | Path, folder: str | Path) -> list[Path]:
    """Copy a shipped configuration and the bases that it reads into a folder, where they can be changed.

    Returns:
        what was written, the configuration first; below `folder` it lies as it does below `configs`.

    Raises:
        ConfigError: it is not one of the package's, or a file of that name is there with other contents, or the folder
            cannot be written into.
    """
    start = find_config(given).resolve()
    if not start.is_relative_to(shipped_root()):
        raise ConfigError(f"{str(given)!r} does not come with visionssm; only its own configurations are copied")
    wanted, files = [start], []
    while wanted:
        file = wanted.pop()
        if file not in files:
            files.append(file)
            wanted += _bases(file)
    targets = {file: Path(folder) / file.relative_to(shipped_root()) for file in files}
    for file, target in targets.items():
        if target.exists() and target.read_bytes() != file.read_bytes():
            raise ConfigError(
                f"{str(target)!r} is there already and differs; nothing was copied, choose another folder"
            )
    try:
        for file, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            with complete_or_absent(target) as partial:
                shutil.copyfile(file, partial)
    except OSError as error:
        raise ConfigError(
            f"cannot write configurations into {str(folder)!r} ({error.strerror or error}); name another folder"
        ) from error
    return list(targets.values())


def _bases(path: Path) -> list[Path]:
    """The files of a configuration's `_base_`, but those of other packages (`mmdet::…`)."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(x, ast.Name) and x.id == BASES for x in node.targets):
            named = ast.literal_eval(node.value)
            names = [named] if isinstance(named, str) else list(named)
            return [(path.parent / name).resolve() for name in names if "::" not in name]
    return []
