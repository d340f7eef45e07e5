"""The set of views that --tta names: shipped, of the recipe, or in a file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from ensemble.recipes.reading import readable_error
from ensemble.recipes.tta_sets import TtaSet
from ensemble.recipes.tta_views import Tta
from folds.errors import MaskensError, did_you_mean, refuse


def find_set(tta: Tta, known: Mapping[Tta, TtaSet]) -> tuple[Tta, TtaSet]:
    """(name, set) of what --tta names; a file's name is its path.

    Args:
        tta: a name, or a TOML file that holds what a recipe's table [tta.NAME] does.
        known: of `known_sets`.

    Raises:
        MaskensError: there is no such set, or a file that can't be used, with all that is wrong in it.
    """
    if tta in known:
        return tta, known[tta]
    path = Path(tta)
    if path.suffix == ".toml" or path.is_file():
        return tta, _read(path)
    raise MaskensError(
        f"--tta {tta}: there are {', '.join(known)}{did_you_mean(tta, known)}; a set of your own is a table "
        "[tta.NAME] of the recipe, or a .toml file with views = [...]."
    )


def _read(path: Path) -> TtaSet:
    try:
        return TtaSet.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise MaskensError(f"can't read the views {path}: {getattr(error, 'strerror', None) or error}") from error
    except ValidationError as error:
        refuse([readable_error(e, ("tta", path.stem)) for e in error.errors()], f"{path} can't be used")
        raise
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is one; numbers of too many digits give another
        raise MaskensError(f"{path} is not valid TOML: {error}") from error
