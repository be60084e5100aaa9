"""Reading results: files of NetCDF, and the folders of runs, ended or not."""

import os
from pathlib import Path

import arviz as az
import numpy as np
import xarray as xr
from arviz import InferenceData

from kinbayes.results.checkpoint import Checkpoint, Stored
from kinbayes.results.folder import open_group, opened
from kinbayes.results.scales import from_scale
from kinbayes.results.store import LAYOUT, LAYOUT_ATTR, ParameterTable, StoreError, draw_groups, root_attrs


def load(path: str | os.PathLike[str]) -> InferenceData:
    """Read a stored result.

    Parameters
    ----------
    path
        A NetCDF file that `save` wrote, or `InferenceData.to_netcdf` from such a result; or the checkpoint of a run,
        which may be going on, or have been killed.

    Returns
    -------
    The InferenceData. That of a file is in memory: the file is closed and may be written again. The arrays of a
    checkpoint whose run has ended are read when they are asked for. Of another checkpoint there are the draws that it
    has, and what was measured.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    StoreError
        If it is no NetCDF file, one that kinbayes did not write, or one of a newer kinbayes; or a checkpoint that has
        no draws yet.
    CheckpointError
        If the folder is no checkpoint, or one of a newer kinbayes.
    """
    path = Path(path)
    if path.is_dir():
        return _of_checkpoint(Checkpoint(path, is_writable=False))
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; kinbayes.load reads the NetCDF file of a run")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as root:
            layout = root.attrs.get(LAYOUT_ATTR)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} is no readable NetCDF file ({error}); was it cut off, or is it of another kind?"
        ) from error
    if layout is None:
        raise StoreError(f"{path} is a NetCDF file, but not one of kinbayes; read it with arviz.from_netcdf")
    if layout > LAYOUT:
        raise StoreError(
            f"{path} has layout {layout}, but this kinbayes reads layouts up to {LAYOUT}; update kinbayes to read it"
        )
    with az.rc_context({"data.load": "eager"}):
        idata = az.from_netcdf(str(path), engine="h5netcdf")
    idata.attrs = {
        name: value.item() if isinstance(value, np.generic) else value for name, value in idata.attrs.items()
    }
    return idata


def _of_checkpoint(checkpoint: Checkpoint) -> InferenceData:
    result = checkpoint.path / "result"
    if result.is_dir():
        return opened(result)
    plan, rows = checkpoint.plan, checkpoint.num_rows
    what = f"{checkpoint.path} holds a run that has not ended"
    if plan["kind"] != "sample":
        raise StoreError(f"{what}, and a search has no result before its end; go on with it by resume=True")
    first = plan["asked"]["warmup"] if plan["asked"]["keep_warmup"] else 0
    if rows <= first:
        raise StoreError(f"{what}, and has no draws yet; go on with it by resume=True")
    draws = {name: np.asarray(Stored(checkpoint, name, first, rows)) for name in checkpoint.arrays}
    table = ParameterTable(**plan["parameters"])
    u, log_prior, log_likelihood = (draws.pop(name) for name in ("position", "log_prior", "log_likelihood"))
    theta = np.stack([from_scale(u[..., k], scale) for k, scale in enumerate(table.scales)], axis=-1)
    stats = {"lp": log_prior + log_likelihood, "log_prior": log_prior, **draws}
    said = {
        **plan["attributes"],
        "stopped": "unfinished",
        "converged": False,
        "not_converged_because": [f"it has not ended: {rows - first} of {checkpoint.capacity - first} draws are there"],
    }
    data = checkpoint.path / "data"
    measured = {name: open_group(data, name).load() for name in ("observed_data", "constant_data")}
    return InferenceData(attrs=root_attrs(said), **draw_groups(table, theta, stats), **measured)
