"""A finished model folder pushed to a repository of the Hugging Face Hub.

In: an exported folder and `ORG/NAME`. Out: one commit that holds the whole folder, in a repository that is made
private where it does not exist. Weights are uploaded first and become visible with the commit, so a reader sees the
model of before or the new one, never half. What an interrupted push had uploaded is not sent again by the next.

The endpoint is `HF_ENDPOINT`, the token what `hf auth login` stored or `HF_TOKEN`. Token and name are looked at before
anything is exported. A push to a public repository must be asked for: what was public once cannot be taken back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.errors import PublishError, TitanSpeechError
from titan_speech.hf.model_card import read_record
from titan_speech.hf.model_folder import INDEX_NAME, HFFolder

if TYPE_CHECKING:
    from huggingface_hub import HfApi


WEIGHTS = (".safetensors", INDEX_NAME)


@dataclass(frozen=True)
class Repository:
    """A repository that can be pushed to as far as can be told without asking the server."""

    api: HfApi
    name: str
    is_public: bool

    @classmethod
    def named(cls, name: str, *, is_public: bool = False) -> Repository:
        """
        Raises:
            PublishError: the library is absent, the name is none, or there is no token.
        """
        try:
            from huggingface_hub import HfApi, get_token
            from huggingface_hub.errors import HFValidationError
            from huggingface_hub.utils import validate_repo_id
        except ModuleNotFoundError as error:
            raise PublishError(f"{error}; publishing comes with the extra: pip install 'titan-speech[hf]'") from error
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise PublishError(f"{name!r} is no name of a repository ({error}); expected ORG/NAME") from error
        if "/" not in name:
            raise PublishError(f"{name!r} does not say whose repository it is; expected ORG/NAME or USER/NAME")
        token = get_token()
        if token is None:
            raise PublishError(
                f"there is no token to publish to {name} with: run `hf auth login`, or set HF_TOKEN to one with write "
                "access"
            )
        return cls(HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token), name, is_public)

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{self.name}"


def publish(folder: Path, repository: Repository, report: Callable[[str], None] = print) -> str:
    """Push `folder`; the address of the commit. The folder is only read.

    Raises:
        ModelError: the folder is no exported model, or lacks weights.
        PublishError: the server cannot be reached or refuses, or the repository is public without being asked for.
    """
    HFFolder.open(folder)
    message = f"titan_speech, step {read_record(folder).step:,}"
    with _said_plainly(folder, repository):
        _make(repository)
        report(f"{repository.url}: uploading {_num_bytes(folder) / 1e9:.2f} GB")
        return _commit(folder, repository, message)


def _make(repository: Repository) -> None:
    """Create the repository where it is not; refuse one that more people can read than was asked for."""
    repository.api.create_repo(repository.name, private=not repository.is_public, exist_ok=True)
    is_private = repository.api.repo_info(repository.name).private
    if not is_private and not repository.is_public:
        raise PublishError(
            f"{repository.url} exists and is public; give --public if the model may be read by everyone, or another "
            "name. Nothing was sent"
        )


def _commit(folder: Path, repository: Repository, message: str) -> str:
    """All files in one commit, which also takes away weights that an earlier model of another size left."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    there = repository.api.list_repo_files(repository.name)
    stale = [name for name in there if name.endswith(WEIGHTS) and name not in names]
    operations = [CommitOperationAdd(name, str(folder / name)) for name in names]
    deletions = [CommitOperationDelete(name) for name in stale]
    return repository.api.create_commit(repository.name, [*operations, *deletions], commit_message=message).commit_url


def _num_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextlib.contextmanager
def _said_plainly(folder: Path, repository: Repository) -> Iterator[None]:
    """Whatever the library, the network or the server make of a push, as one error with the next step."""
    try:
        yield
    except TitanSpeechError:
        raise
    except Exception as error:
        again = f"titan-speech model publish --from {folder} --to {repository.name}"
        raise PublishError(
            f"{repository.url} was not changed: {_reason(error, repository)}. {folder} is complete and stays; push it "
            f"again with `{again}{' --public' if repository.is_public else ''}`"
        ) from error


def _reason(error: Exception, repository: Repository) -> str:
    from httpx import TransportError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the server does not know the token (401); `hf auth login` stores another"
    if status == 403:
        return f"the token may not write to {repository.name} (403); it needs write access there"
    if status is None and isinstance(error, ConnectionError | TransportError):
        return f"{repository.api.endpoint} cannot be reached ({error})"
    cause = f" ({error.__cause__})" if error.__cause__ is not None else ""
    return f"{type(error).__name__}: {str(error).strip()}{cause}"
