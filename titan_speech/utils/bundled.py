"""Where the recipes, the examples, the demo's data and its tokenizer are.

In: nothing. Out: a folder with train_configs/, examples/, demo_data/, tokenizer/ and the pages of docs/:
titan_speech/bundled of an installed wheel (setup.py puts it there), else the repository of an editable install.
"""

from __future__ import annotations

from pathlib import Path

from titan_speech.errors import DataError

RECIPES, EXAMPLES = "train_configs", "examples"


def bundled_folder() -> Path:
    """The folder that holds what comes with titan_speech besides code.

    Raises:
        DataError: neither the package nor the folder around it has the recipes.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "bundled", package.parent):
        if (folder / RECIPES).is_dir():
            return folder
    raise DataError(
        f"found no {RECIPES}/ in {package / 'bundled'} or {package.parent}; expected the recipes that come with "
        "titan_speech: install it from a wheel, or with pip install -e from the repository"
    )
