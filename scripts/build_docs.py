"""Build the site of the documents: the pages of docs/, and a reference generated from the code.

In: docs/*.md, mkdocs.yml, the commands (titan_speech/cli), the configuration schema, docstrings. Out: outputs/site, and
docs/reference/*.md, which git ignores. A link to a page or heading that does not exist ends the build with exit code 1.
It takes about 10 s; torch is not imported, since docstrings are read from the sources. The first build fetches two
scripts with npm, so that the site needs no network, its search and diagrams included; without npm it lacks them.

    python scripts/build_docs.py            # then open outputs/site/index.html
    python scripts/build_docs.py --pages    # the generated pages alone; `zensical serve` then shows edits at once
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import inspect
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from titan_speech.cli.main import COMMANDS, GROUPS, parse  # noqa: E402
from titan_speech.config.fields import config_fields, without_none  # noqa: E402
from titan_speech.config.help import default_text, field_docstrings, type_text  # noqa: E402
from titan_speech.config.schema import SpeechConfig  # noqa: E402
from titan_speech.training.sinks.names import ENDPOINT_METRICS, PROMETHEUS_PREFIX, SECTIONS  # noqa: E402

REFERENCE = ROOT / "docs" / "reference"


class Script(typing.NamedTuple):
    """A script that the theme would fetch from the network when a page is opened."""

    package: str
    member: str
    sha256: str


SCRIPTS = {
    # draws the diagrams; loaded by docs/diagrams.js
    "mermaid.min.js": Script(
        "mermaid@12.3.0",
        "dist/mermaid.min.js",
        "336df803d87a38b70a01e736e666c8f7601d2ce42f5e47c8fafe5d721074b9a3",
    ),
    # lets the search work on pages that are opened from a folder
    "iframe-worker.js": Script(
        "iframe-worker@1.0.4", "shim/index.js", "e8e412dbcfea9b7e31b5ffa288d7b6035915e714c542f4176a0cdbe262fc9609"
    ),
}
"""Names in docs/, where git ignores them: mermaid, of 5.5 MB, is too large for the repository."""
SHIM_URL = "https://unpkg.com/iframe-worker/shim"
SITE = ROOT / "outputs" / "site"
PYTHON_API = {
    "Configuration": {
        "titan_speech.preflight.config_checks": ("load_config",),
        "titan_speech.config.load": ("LoadedConfig",),
    },
    "Token stores": {
        "titan_speech.store.writer": ("StoreWriter",),
        "titan_speech.store.sample": ("SampleInfo",),
        "titan_speech.store.manifest": ("CodecInfo",),
        "titan_speech.store.reader": ("open_store", "Store", "Part"),
    },
    "Tokens and prompts": {
        "titan_speech.tokenization.vocabulary": ("Vocabulary",),
        "titan_speech.tokenization.text_tokenizer": ("TextTokenizer",),
        "titan_speech.tokenization.prompt_template": ("Task", "Parts", "Grammar"),
        "titan_speech.tokenization.normalize": ("normalize",),
    },
    "Codecs": {
        "titan_speech.codec.load": ("load_codec",),
        "titan_speech.codec.base": ("Codec",),
        "titan_speech.codec.wav": ("read_audio", "write_wav"),
    },
    "Data order": {"titan_speech.data.plan": ("DataPlan",)},
    "Training": {"titan_speech.training.callback": ("RunEnd", "RunCallback")},
    "Checkpoints": {"titan_speech.checkpoint.commit": ("read_commit", "committed_checkpoints", "Commit")},
    "Models and speech": {
        "titan_speech.hf.expand": ("ExtendableBackbone",),
        "titan_speech.generate.synthesize": ("SpeechModel",),
    },
    "Errors": {"titan_speech.errors": ()},
}
"""What other programs import, in the order of the flow: names of each module, or all of them where none is listed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", action="store_true", help="write docs/reference/ only")
    only_pages = parser.parse_args().pages
    write_reference()
    if only_pages:
        return 0
    for name, script in SCRIPTS.items():
        fetch_script(ROOT / "docs" / name, script)
    zensical = Path(sys.executable).with_name("zensical")
    environment = {**os.environ, "NO_COLOR": "1"}
    code = subprocess.run([zensical, "build", "--strict", "--clean"], cwd=ROOT, env=environment).returncode
    for page in SITE.rglob("*.html") if code == 0 else ():
        shim = os.path.relpath(SITE / "iframe-worker.js", page.parent)
        page.write_text(page.read_text(encoding="utf-8").replace(SHIM_URL, shim), encoding="utf-8")
    return code


def fetch_script(target: Path, script: Script) -> None:
    """Put a pinned script where the site loads it from, once."""
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == script.sha256:
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = ["npm", "pack", "--silent", "--pack-destination", folder, script.package]
            subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"build_docs: no {script.package} ({error}); the site will not have {target.name}", file=sys.stderr)
            return
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            file = archive.extractfile(f"package/{script.member}")
            data = b"" if file is None else file.read()
    found = hashlib.sha256(data).hexdigest()
    if found != script.sha256:
        raise SystemExit(
            f"build_docs: {script.package} has {script.member} of sha256 {found}, expected {script.sha256}"
        )
    target.write_bytes(data)


def write_reference() -> None:
    REFERENCE.mkdir(exist_ok=True)
    pages = {
        "command_line": command_line,
        "configuration_keys": configuration_keys,
        "metrics": metrics,
        "python_api": python_api,
    }
    for name, page in pages.items():
        (REFERENCE / f"{name}.md").write_text("\n".join(page()) + "\n", encoding="utf-8")


def command_line() -> Iterator[str]:
    """Every command with its help, by group."""
    yield "# Command line\n"
    codes = "0 done, 1 a check found something wrong, 2 bad input"
    yield f"`titan-speech <command>`; exit codes are {codes}; `train` has [more](../checkpoints.md#exit-codes).\n"
    groups = {None: "Run, estimate and generate.", **GROUPS}
    for group, summary in groups.items():
        yield f"## {group or 'Top level'}\n\n{summary}\n"
        for command in COMMANDS:
            if command.group == group:
                yield f"### titan-speech {command.full_name()}\n\n```text\n{help_of(command)}```\n"


def help_of(command: typing.Any) -> str:
    """What `--help` prints, in as many columns as a page is wide."""
    os.environ["COLUMNS"] = "90"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        parse(command, ["--help"])
    return printed.getvalue()


def configuration_keys() -> Iterator[str]:
    """Every table and key with type, default and meaning."""
    yield "# Configuration keys\n"
    yield "Every table of a run's TOML file. On the command line a key is `--table.key value`;"
    yield "`--config-help` prints the same as text. [Configuration](../configuration.md) says how they are used.\n"
    for key, (_, hint) in config_fields(SpeechConfig).items():
        yield from table_of_keys(without_none(hint), key, f"[{key}]")


def table_of_keys(cls: type, name: str, title: str) -> Iterator[str]:
    """Heading and keys of a table, then those of the arrays of tables in it."""
    yield f"## `{title}`\n\n{inspect.getdoc(cls) or ''}\n"
    inner: list[tuple[type, str]] = []
    for key, (entry, hint) in config_fields(cls).items():
        element = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None
        if dataclasses.is_dataclass(element):
            inner.append((typing.cast(type, element), f"{name}.{key}"))
            continue
        heading = f"`{name}.{key}`{{ #{name}.{key} }}"
        yield f"**{heading}** &nbsp; `{type_text(hint)}` &nbsp; {default_text(entry)}\n"
        yield f":   {field_docstrings(cls).get(entry.name, '')}\n"
    for element, path in inner:
        yield from table_of_keys(element, path, f"[[{path}]]")


def metrics() -> Iterator[str]:
    """Every metric of a run with its unit, meaning and name in Prometheus."""
    yield "# Metrics\n"
    yield "Names are the same in metrics.jsonl, TensorBoard and W&B. They are stable: one that is removed or means"
    yield "something else is announced in the changelog one version before. `{by}` is kind, task, source or language;"
    yield "in Prometheus what stands in braces is a label, besides `run`.\n"
    for section in SECTIONS:
        yield f"## {section.title}\n\n{section.when}\n"
        yield "| name | unit | what | in Prometheus |\n|---|---|---|---|"
        for one in section.metrics:
            name = f"`{PROMETHEUS_PREFIX}{one.exported}`" + (", a counter" if one.is_counter else "")
            yield f"| `{one.pattern}` | {one.unit} | {one.what} | {name} |"
        yield ""
    yield "## The endpoint of a node\n\nIn Prometheus alone, with `metrics.prometheus`.\n"
    yield "| name | labels besides `run` | what |\n|---|---|---|"
    for one in ENDPOINT_METRICS:
        yield f"| `{PROMETHEUS_PREFIX}{one.exported}` | {', '.join(one.labels)} | {one.what} |"


def python_api() -> Iterator[str]:
    """Instructions for mkdocstrings, which reads the docstrings."""
    yield "# Python API\n"
    yield "What programs that build on titan_speech import. A suffix of a tensor names its shape: `ids_BL` is batch by"
    yield "length, `codes_F` one code per frame.\n"
    for title, modules in PYTHON_API.items():
        yield f"## {title}\n"
        for module, names in modules.items():
            yield from (f"::: {module}.{name}\n" for name in names)
            if not names:
                yield f"::: {module}\n"


if __name__ == "__main__":
    sys.exit(main())
