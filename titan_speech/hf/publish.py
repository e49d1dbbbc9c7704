"""Push an exported model folder to a repository of the Hugging Face Hub.

In: an exported folder and `ORG/NAME`. Out: one commit with the files of the export, in a repository that is created as
private if it does not exist. Weights are uploaded first and become visible with the commit, so a reader sees the
previous model or the new one, never a mixture. What an interrupted push uploaded is not sent again by the next one.

Only files an export consists of are sent (model/exported_files.py); others are named and left out, and a symbolic link
in the place of one is refused, so neither a `.env` nor a linked secret can become public. The endpoint is
`HF_ENDPOINT`, the token what `hf auth login` stored or `HF_TOKEN`. Token and name are checked before anything is
exported. Pushing to a public repository has to be requested: what was public once cannot be taken back.
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
from titan_speech.hf.model_folder import HFFolder
from titan_speech.model.exported_files import INDEX_NAME, find_exported_files
from titan_speech.utils.printable import one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WEIGHTS = ("*.safetensors", INDEX_NAME)
"""What an earlier model of another size may have left in the repository."""


@dataclass(frozen=True)
class Repository:
    """A repository that can be pushed to, as far as is known without asking the server."""

    api: HfApi
    name: str
    is_public: bool

    @classmethod
    def named(cls, name: str, *, is_public: bool = False) -> Repository:
        """Check a name and find the token.

        Args:
            name: `ORG/NAME` or `USER/NAME`.
            is_public: everyone may read the repository.

        Raises:
            PublishError: huggingface_hub is not installed, the name is not valid, or there is no token.
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
            raise PublishError(f"{name!r} is not the name of a repository ({error}); expected ORG/NAME") from error
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
    """Push a folder, which is only read.

    Args:
        folder: an exported model.
        repository: where it goes.
        report: takes lines of progress.

    Returns:
        The address of the commit.

    Raises:
        ModelError: the folder is not an exported model, or lacks weights.
        PublishError: a file of it is a symbolic link, the server cannot be reached or refuses, or the repository is
            public although a private one was requested.
    """
    files = _files_to_send(folder, report)
    HFFolder.open(folder)
    message = f"titan_speech, step {read_record(folder).step:,}"
    with _translate_errors(folder, repository):
        repository.api.create_repo(repository.name, private=not repository.is_public, exist_ok=True)
        _check_visibility(repository)
        num_bytes = sum((folder / name).stat().st_size for name in files)
        report(f"{repository.url}: uploading {num_bytes / 1e9:.2f} GB")
        commit = repository.api.upload_folder(
            repo_id=repository.name,
            folder_path=folder,
            allow_patterns=list(files),
            delete_patterns=list(WEIGHTS),
            commit_message=message,
        )
        return commit.commit_url


def _files_to_send(folder: Path, report: Callable[[str], None]) -> tuple[str, ...]:
    """Names of the files of the export; what else is in the folder is reported."""
    if not folder.is_dir():
        return ()  # HFFolder.open says what is wrong
    found = find_exported_files(folder)
    if found.links:
        raise PublishError(
            f"{folder} is not sent: not a regular file: {', '.join(found.links)}; symbolic links are not followed. "
            "Put the files in their place, or export the model again"
        )
    if found.others:
        report(f"{folder}: not published, as no export has such files: {', '.join(map(one_line, found.others))}")
    return found.files


def _check_visibility(repository: Repository) -> None:
    """Refuse a repository that more people can read than was requested."""
    is_private = repository.api.repo_info(repository.name).private
    if not is_private and not repository.is_public:
        raise PublishError(
            f"{repository.url} exists and is public; give --public if the model may be read by everyone, or another "
            "name. Nothing was sent"
        )


@contextlib.contextmanager
def _translate_errors(folder: Path, repository: Repository) -> Iterator[None]:
    """Turn what the library, the network or the server raise into one error with the next step."""
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
