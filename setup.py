"""What pyproject.toml cannot say: a wheel also holds the recipes, the examples with the pages that walk through them,
and the demo's data and tokenizer.

They stay where people look for them, at the top of the repository, and are copied to titan_speech/bundled when a wheel
is built (4 MB). An editable install copies nothing: titan_speech/cli/recipes.py finds the repository.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BUNDLED = ("train_configs", "examples", "demo_data", "tokenizer")


class BuildWithBundledFiles(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for name in BUNDLED:
            target = Path(self.build_lib, "titan_speech", "bundled", name)
            shutil.copytree(name, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        pages = Path(self.build_lib, "titan_speech", "bundled", "docs")
        pages.mkdir(parents=True, exist_ok=True)
        for page in Path("docs").glob("*.md"):
            shutil.copyfile(page, pages / page.name)


setup(cmdclass={"build_py": BuildWithBundledFiles})
