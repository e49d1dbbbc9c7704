"""`titan-speech recipes`: the recipes and examples that come with titan_speech, copied to where they can be edited.

In: the name of a recipe (`demo`, `tour/s1`, `pt_s1`) or of an example (`own_voice`). Out: in the folder of --output the
same paths as in the repository: the recipe, the files it extends, and the bundled stores and tokenizer it reads, or the
example with the page that walks through it. The commands of the documents then work there as they are written. Existing
files are never replaced. They come from titan_speech/bundled of an installed wheel (setup.py puts it there), else from
the repository of an editable install.
"""

from __future__ import annotations

import argparse
import difflib
import filecmp
import re
from collections.abc import Iterator
from pathlib import Path

from titan_speech.cli.arguments import local_folder
from titan_speech.cli.command import Argument, Command
from titan_speech.errors import DataError
from titan_speech.utils.files import write_atomically
from titan_speech.utils.text_table import counted, table_lines

RECIPES, EXAMPLES = "train_configs", "examples"


def bundled_folder() -> Path:
    """The folder of the recipes, examples and data that come with titan_speech.

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


def recipes_list(args: argparse.Namespace) -> None:
    root = bundled_folder()
    rows = [("recipe", "what it trains")]
    rows += [(name, _title(root / RECIPES / f"{name}.toml")) for name in recipe_names(root)]
    rows += [("", ""), ("example", "what it walks through")]
    rows += [(name, _title(root / EXAMPLES / name / "README.md")) for name in example_names(root)]
    print("\n".join(table_lines(rows)))


def recipes_copy(args: argparse.Namespace) -> None:
    root = bundled_folder()
    files = sorted(set(files_of(root, args.name)))
    differing = [
        file for file in files if (args.output / file).exists() and not filecmp.cmp(root / file, args.output / file)
    ]
    if differing:
        raise DataError(
            f"found {args.output / differing[0]} with other content than the bundled file"
            + (f", and {len(differing) - 1} more" if differing[1:] else "")
            + "; nothing was copied, since your changes would be lost: choose another folder with --output"
        )
    missing = [file for file in files if not (args.output / file).exists()]
    for file in missing:
        write_atomically(args.output / file, (root / file).read_bytes())
    folders = ", ".join(sorted({f"{file.parts[0]}/" for file in files}))
    there = len(files) - len(missing)
    rest = f" ({there:,} more {'was' if there == 1 else 'were'} there already)" if there else ""
    print(f"copied {counted(len(missing), 'file')} to {args.output}{rest}: {folders}")
    print("next, in that folder:")
    if args.name in example_names(root):
        print(f"  the steps of {walk_of(root, args.name)}")
    else:
        print(f"  titan-speech train {RECIPES}/{args.name}.toml")


def _title(path: Path) -> str:
    """The first line of a recipe or a README, without its mark."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip(".\n")


def recipe_names(root: Path) -> list[str]:
    """Files of the recipes without `.toml`; those of shared/ are only extended."""
    names = [path.relative_to(root / RECIPES).with_suffix("").as_posix() for path in (root / RECIPES).rglob("*.toml")]
    return sorted((name for name in names if not name.startswith("shared/")), key=lambda name: ("/" in name, name))


def example_names(root: Path) -> list[str]:
    return sorted(path.parent.name for path in (root / EXAMPLES).glob("*/README.md"))


def bundled_names() -> list[str]:
    """Names of all recipes and examples."""
    root = bundled_folder()
    return [*recipe_names(root), *example_names(root)]


def walk_of(root: Path, name: str) -> str:
    """The page whose steps use an example, as its README names it."""
    pages = re.findall(r"docs/\w+\.md", (root / EXAMPLES / name / "README.md").read_text(encoding="utf-8"))
    assert pages, f"the README of {name} names no page of docs/"
    return pages[0]


def files_of(root: Path, name: str) -> Iterator[Path]:
    """Files that a recipe or an example needs, relative to the bundled folder.

    Raises:
        DataError: there is neither a recipe nor an example of this name.
    """
    if name in example_names(root):
        yield from _files_below(root, Path(EXAMPLES, name))
        yield Path(walk_of(root, name))
        yield from _files_below(root, Path("demo_data"))  # its scripts make the data of the walk from these
        yield from _files_below(root, Path("tokenizer/tiny"))
        configurations = sorted((root / EXAMPLES / name).glob("*.toml"))
    elif name in recipe_names(root):
        configurations = [root / RECIPES / f"{name}.toml"]
    else:
        near = difflib.get_close_matches(name, bundled_names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DataError(f"found no recipe or example {name!r}; {hint}titan-speech recipes list prints their names")
    for path in configurations:
        yield from _files_of_configuration(root, path)


def _files_of_configuration(root: Path, path: Path) -> Iterator[Path]:
    from titan_speech.config.load import read_config

    loaded = read_config(["--job.config_file", str(path)], lambda config, context: [])
    yield from (file.resolve().relative_to(root) for file in loaded.files)
    config = loaded.config
    read = {config.tokenizer.path, *config.data.held_out, *(source.store for source in config.data.source)}
    for folder in read:
        if folder and "://" not in folder and (root / folder).is_dir() and not Path(folder).is_absolute():
            yield from _files_below(root, Path(folder))


def _files_below(root: Path, folder: Path) -> Iterator[Path]:
    for path in (root / folder).rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(root)


COMMANDS = (
    Command(
        "recipes",
        "list",
        "List the recipes and examples that come with titan_speech.",
        "titan-speech recipes list",
        recipes_list,
    ),
    Command(
        "recipes",
        "copy",
        "Copy a recipe or example, with what it extends and the bundled data it reads, to edit and run it.",
        "titan-speech recipes copy demo",
        recipes_copy,
        (
            Argument("name", "a name of titan-speech recipes list", words=bundled_names),
            Argument("--output", "folder to copy to (default: the current one)", type=local_folder, default=Path()),
        ),
    ),
)
