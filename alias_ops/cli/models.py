"""MODEL of the command line: ``package.module:factory`` or a saved file, to an nn.Module."""

import difflib
import importlib
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import UserError, one_line

__all__ = ["load_model"]

HOW = "write a function that builds the model and loads them, and pass package.module:function"

# Formats that hold no Python modules, by suffix or by a member of the archive.
FORMATS = {
    ".safetensors": f"holds weights without the model's code; {HOW}",
    ".onnx": "is an ONNX graph, which has no PyTorch layers; pass the model it was exported from",
    "/archive_format": "is a torch.export program, whose layers are gone; pass the model it was exported from",
    "/constants.pkl": "is a TorchScript program, whose layers are compiled; pass the model it was scripted from",
}


def _format_problem(path: Path) -> str:
    """What is wrong with a file that can be recognised without loading it, or ""."""
    members = [path.suffix.lower()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members += archive.namelist()
    return next((problem for ending, problem in FORMATS.items() if any(m.endswith(ending) for m in members)), "")


def _load_file(path: Path, unsafe: bool) -> nn.Module:
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected a file or package.module:factory")
    try:
        problem = _format_problem(path)
        if problem:
            raise UserError(f"{path} {problem}")
        loaded = torch.load(path, map_location="cpu", weights_only=not unsafe)
    except pickle.UnpicklingError as error:
        if unsafe:
            raise UserError(f"{path} is not a file that torch.save wrote ({one_line(error)})") from error
        raise UserError(
            f"{path} holds more than weights, and unpickling that runs any code that is in it; "
            "add --unsafe-load if you trust where the file comes from"
        ) from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} cannot be loaded ({one_line(error)})") from error
    if isinstance(loaded, nn.Module):
        return loaded
    kind = "weights without the model's code" if isinstance(loaded, dict) else f"a {type(loaded).__name__}, not a model"
    raise UserError(f"{path} holds {kind}; {HOW}")


def _import(name: str) -> Any:
    # A console script, unlike `python -m`, does not look for modules where it is run.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"importing {name} failed ({one_line(error)})") from error
        raise UserError(
            f"there is no module {error.name}; run alias-ops where it can be imported from, or install it"
        ) from error
    except Exception as error:
        raise UserError(f"importing {name} failed ({one_line(error)})") from error


def _build(name: str, attribute: str) -> nn.Module:
    found = _import(name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            raise UserError(f"{name} has no {attribute}" + (f"; did you mean {near[0]}?" if near else ""))
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise UserError(
            f"{name}:{attribute} is of type {type(found).__name__}, expected a function that returns the model"
        )
    try:
        model = found()
    except Exception as error:
        raise UserError(f"{name}:{attribute}() failed ({one_line(error)}); it is called without arguments") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{name}:{attribute}() returned a {type(model).__name__}, expected an nn.Module")
    return model


def load_model(spec: str, unsafe: bool) -> nn.Module:
    """The model that MODEL names.

    Args:
        spec: "package.module:factory", "package.module:model", or the path of a file.
        unsafe: unpickle a file, whatever code it runs.

    Returns:
        The nn.Module, as it came.

    Raises:
        UserError: what is wrong with spec, and what to do.
    """
    path = Path(spec)
    if path.exists():
        return _load_file(path, unsafe)
    name, colon, attribute = spec.partition(":")
    importable = all(part.isidentifier() for part in name.split("."))
    if colon and importable and all(part.isidentifier() for part in attribute.split(".")):
        return _build(name, attribute)
    if importable and not path.suffix:
        raise UserError(f"{spec} names no file and no factory, expected package.module:factory")
    raise UserError(f"there is no file {spec}; expected package.module:factory or a saved model")
