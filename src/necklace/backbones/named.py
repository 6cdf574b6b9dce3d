"""Weights by name, `backbone.pretrained=true`: the file in the cache of torchvision or timm, or fetched into it.

A fetch is announced on stderr: a plan of a study needs the file's content for the runs' identity, and may be the first to ask.
"""

import logging
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from hydra.utils import get_class

TIMEOUT_S = 30


def weights_file(backbone: Mapping[str, Any], fetch: bool = True) -> Path | None:
    """The weights file that a backbone's config asks for; None for none.

    Args:
        backbone: The resolved node, with `pretrained`: null, a file, or true for the weights of the network's name.
        fetch: Whether these are fetched where they are not in the cache.

    Raises:
        FileNotFoundError: There is no such file, or it could not be fetched.
        ValueError: `pretrained` is something else, or true for a backbone without weights by name.
    """
    pretrained = backbone.get("pretrained")
    if pretrained is not True:
        return given_file(pretrained)
    by_name: Callable[[str | None, bool], Path] | None = getattr(get_class(backbone["_target_"]), "weights_by_name", None)
    if by_name is None:
        raise ValueError(f"backbone.pretrained=true: {backbone['_target_']} has no weights by name; give a file or null")
    return by_name(backbone.get("name"), fetch)


def given_file(pretrained: Any) -> Path | None:
    """The file that `pretrained` names; None for null and false.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no path.
    """
    if pretrained is None or pretrained is False:
        return None
    if not isinstance(pretrained, str | Path):
        raise ValueError(f"backbone.pretrained={pretrained!r}: must be true, a weights file or null")
    if not Path(pretrained).is_file():
        raise FileNotFoundError(f"backbone.pretrained={pretrained}: there is no such file")
    return Path(pretrained)


def torchvision_file(name: str, fetch: bool = True) -> Path:
    """The file of torchvision's default weights of a network, in torch's cache.

    Raises:
        FileNotFoundError: It is not in the cache, and was not or could not be fetched.
    """
    import torchvision  # here: its import takes half a second

    address = torchvision.models.get_model_weights(name).DEFAULT.url  # pyright: ignore[reportAttributeAccessIssue]
    path = _torch_cache() / Path(urlparse(address).path).name
    if path.is_file():
        return path

    def download() -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The digits behind the dash are the beginning of the file's sha256.
        torch.hub.download_url_to_file(address, str(path), path.stem.rpartition("-")[2], progress=False)
        return path

    return _fetched(download, path.name, path, "put that file there") if fetch else _missing(path)


def timm_file(name: str, fetch: bool = True) -> Path:
    """The file of timm's default weights of a network, in the cache of the hub that timm uses, or in torch's.

    Raises:
        FileNotFoundError: It is not in a cache, and was not or could not be fetched.
        ValueError: timm has no weights for it.
    """
    import timm
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    known: Any = timm.get_pretrained_cfg(name)
    if known is None or not (known.hf_hub_id or known.url):
        raise ValueError(f"backbone.pretrained=true: timm has no weights for {name}; give a file or null")
    title = f"{known.architecture}.{known.tag}" if known.tag else str(known.architecture)
    by_hand = _torch_cache() / f"{title}.safetensors"
    of_address = _torch_cache() / Path(urlparse(known.url or "").path).name
    repository, _, revision = (known.hf_hub_id or "").partition("@")
    names = [known.hf_hub_filename] if known.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    cached = [try_to_load_from_cache(repository, file, revision=revision or None) for file in names if repository]
    for path in (by_hand, *(Path(path) for path in cached if isinstance(path, str)), of_address):
        if path.is_file():
            return path

    def download() -> Path:
        if not repository:
            by_hand.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(known.url, str(of_address), progress=False)
            return of_address
        for file in names[:-1]:
            try:
                return Path(hf_hub_download(repository, file, revision=revision or None))
            except Exception as error:
                if "EntryNotFound" not in type(error).__name__ or "Local" in type(error).__name__:
                    raise
        return Path(hf_hub_download(repository, names[-1], revision=revision or None))

    remedy = f"put the {names[0]} of {repository} there under that name" if repository else "put the weights there"
    return _fetched(download, title, by_hand, remedy) if fetch else _missing(by_hand)


def _torch_cache() -> Path:
    """Where torch keeps weights: $TORCH_HOME/hub/checkpoints."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _missing(path: Path) -> Path:
    raise FileNotFoundError(f"backbone.pretrained=true: {path} is not there")


def _fetched(download: Callable[[], Path], title: str, place: Path, remedy: str) -> Path:
    """Fetch a file; where that fails, say which file belongs where."""
    print(f"backbone.pretrained=true: fetching the weights {title}", file=sys.stderr, flush=True)
    try:
        with _timeout():
            return download()
    except Exception as error:  # of urllib, http.client, httpx, the hub's own; a wrong checksum
        cause: BaseException = error
        while cause.__cause__ or cause.__context__:  # the network's own words are the innermost
            cause = cause.__cause__ or cause.__context__ or cause
        reason = (" ".join(str(cause).split()) or type(cause).__name__)[:160]
        raise FileNotFoundError(
            f"backbone.pretrained=true: {place} is not there and {title} could not be fetched ({reason});"
            f" {remedy}, or give a file with backbone.pretrained=FILE"
        ) from error


@contextmanager
def _timeout() -> Iterator[None]:
    """A limit on waiting for the network, which torch does not set; the hub's library tries for half a minute, here quietly."""
    before, hub = socket.getdefaulttimeout(), logging.getLogger("huggingface_hub")
    level = hub.level
    socket.setdefaulttimeout(TIMEOUT_S)
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
        hub.setLevel(level)
