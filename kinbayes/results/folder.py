"""Results as Zarr folders, a group a folder, written part by part along the draws and read when asked for."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from arviz import InferenceData

_ZARR = {"zarr_format": 3, "consolidated": False}
_ORDER = "variables_in_order"  # a folder knows none


def append(folder: Path, group: str, dataset: xr.Dataset) -> None:
    """Write a group, or append its draws to those that are there."""
    texts = {name: (v.dims, v.values.astype(object), v.attrs) for name, v in _of_kind(dataset, "U").items()}
    dataset = _replaced(dataset, texts).assign_attrs({_ORDER: list(dataset.data_vars)})
    if not (folder / group).exists():
        # Draws hardly become smaller, and take a while over it.
        encoding = {name: {"compressors": None} for name in dataset.variables if name not in texts}
        dataset.to_zarr(folder, group=group, mode="a", encoding=encoding, **_ZARR)
    elif "draw" in dataset.dims:
        dataset.to_zarr(folder, group=group, append_dim="draw", **_ZARR)


def finish(folder: Path, attrs: Mapping[str, object]) -> None:
    """Write the attributes of a result."""
    zarr.open_group(folder, mode="r+").attrs.put(dict(attrs))


def opened(folder: Path) -> InferenceData:
    """Return the groups of a folder; their arrays are read when they are asked for."""
    groups = {path.name: open_group(folder, path.name) for path in sorted(folder.iterdir()) if path.is_dir()}
    return InferenceData(attrs=zarr.open_group(folder, mode="r").attrs.asdict(), **groups)


def open_group(folder: Path, group: str) -> xr.Dataset:
    """Return a group, whose arrays are read when they are asked for."""
    found = xr.open_dataset(folder, group=group, engine="zarr", chunks=None, consolidated=False)
    texts = {
        name: (v.dims, np.array(v.values.tolist(), dtype=str), v.attrs) for name, v in _of_kind(found, "TO").items()
    }
    found = _replaced(found, texts)
    order = found.attrs.pop(_ORDER)
    return found[order]


def _of_kind(dataset: xr.Dataset, kinds: str) -> dict[str, xr.Variable]:
    return {str(name): v for name, v in dataset.variables.items() if v.dtype.kind in kinds}


def _replaced(dataset: xr.Dataset, texts: Mapping[str, tuple]) -> xr.Dataset:
    """Return a group with other variables and coordinates in the place of some."""
    coords = {name: text for name, text in texts.items() if name in dataset.coords}
    return dataset.assign({name: text for name, text in texts.items() if name not in coords}).assign_coords(coords)
