"""Load what a model reference on the command line means."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stmp.forecaster import Forecaster
    from stmp_platform.settings import Settings


def load_forecaster(reference: str, settings: Settings) -> Forecaster:
    """Load a forecaster that names its version in its forecasts: ``name/3`` if registered, else the folder given.

    Parameters
    ----------
    reference : str
        A training's ``--out``, its model folder, ``models:/name/version`` or ``models:/name@alias``.

    Raises
    ------
    RegistryError, ConfigError
        If it means nothing that is there.
    CheckpointError
        If the model is damaged.
    """
    from stmp.forecaster import Forecaster
    from stmp_platform.registry import get_alias, resolve

    version = reference
    if reference.startswith("models:/") and "@" in reference:
        # The alias may move between two look-ups; what is loaded is what is named.
        name, _, alias = reference.removeprefix("models:/").partition("@")
        number = get_alias(name, alias, settings)
        version = f"models:/{name}/{number}" if number is not None else reference
    forecaster = Forecaster.load(resolve(version, settings))
    return forecaster.with_version(version.removeprefix("models:/"))


def trained_on(reference: str, settings: Settings) -> str | None:
    """The dataset that a model was trained on, as its training wrote it down; None where that is not known.

    Parameters
    ----------
    reference : str
        As for `load_forecaster`.
    """
    from stmp_platform.files import Folder
    from stmp_platform.registry import dataset_of

    if reference.startswith("models:"):
        return dataset_of(reference, settings)
    out = reference.rstrip("/").removesuffix("/model")
    uri = Folder(out, settings).read_json("config.json").get("run", {}).get("data")
    return None if uri is None else str(uri)
