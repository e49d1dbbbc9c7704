"""What `titan-speech` can do: one row of `VERBS` for each command.

In: parsed arguments. Out: an exit code, and text on stdout. A verb names what it takes, an example, and one
function here that hands over to its room. Rooms are imported when their verb runs, so that `titan-speech
--help` needs neither torch nor numpy.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EXIT_DONE, EXIT_FOUND_WRONG, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Argument:
    """One argument of a verb, as argparse takes it."""

    name: str
    help: str
    type: Callable[[str], object] = str
    default: object = None
    required: bool = False
    is_switch: bool = False
    choices: tuple[str, ...] | None = None
    dest: str | None = None

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        if not self.name.startswith("-"):
            parser.add_argument(self.name, help=self.help, type=self.type)
        elif self.is_switch:
            parser.add_argument(self.name, help=self.help, action="store_true")
        else:
            parser.add_argument(
                self.name,
                help=self.help,
                type=self.type,
                default=self.default,
                required=self.required,
                choices=self.choices,
                dest=self.dest,
            )


@dataclass(frozen=True)
class Verb:
    """One command; `run` gets the parsed arguments and, if it takes a configuration, the words for that.

    With `is_deferred` the room has the arguments too, and `run` gets all words: what a verb of a heavy room takes is
    then said only once.
    """

    room: str | None
    name: str
    summary: str
    example: str
    run: Callable[[argparse.Namespace, list[str]], int]
    arguments: tuple[Argument, ...] = ()
    takes_config: bool = False
    is_deferred: bool = False

    @property
    def words(self) -> list[str]:
        return [self.room, self.name] if self.room else [self.name]

    @property
    def prog(self) -> str:
        return " ".join(["titan-speech", *self.words])


def new_parser(new: Callable[..., argparse.ArgumentParser], verb: Verb, **options: object) -> argparse.ArgumentParser:
    config = "\nA configuration is --job.config_file FILE and any --table.key value; see --config-help."
    return new(
        description=verb.summary + (config if verb.takes_config else ""),
        epilog=f"example:\n  {verb.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )


def natural(text: str) -> int:
    """A whole number from 0, also written 1_000 or 1e9."""
    try:
        value = int(text) if "e" not in text.lower() else float(text)
    except ValueError:
        value = -1
    if not value >= 0 or value % 1:  # infinity and NaN too
        raise argparse.ArgumentTypeError(f'"{text}" is no whole number from 0')
    return int(value)


def positive(text: str) -> int:
    value = natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is not at least 1')
    return value


def not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f'"{text}" is no number from 0')
    return value


def naturals(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    return tuple(natural(part) for part in text.split(","))


def config_show(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.config.load import load_config
    from titan_speech.config.resolved import resolved_toml

    print(resolved_toml(load_config(words)), end="")
    return EXIT_DONE


def config_check(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.config.budget import describe_budget
    from titan_speech.config.load import load_config

    loaded = load_config(words, world_size=args.world_size)
    print(f"no problems in {', '.join(str(path) for path in loaded.files)}")
    print(describe_budget(loaded.config, args.world_size))
    return EXIT_DONE


def data_order(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.config.budget import smallest_world
    from titan_speech.config.load import load_config
    from titan_speech.data.order_report import order_digest, order_lines

    config = load_config(words, world_size=args.world_size).config
    world_size = args.world_size or smallest_world(config.parallelism)
    if args.digest:
        print(order_digest(config, args.start, args.count, world_size))
        return EXIT_DONE
    for line in order_lines(config, args.start, args.count, world_size):
        print(line)
    return EXIT_DONE


def data_show(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.config.load import load_config
    from titan_speech.data.show import show_lines

    for line in show_lines(load_config(words).config, args.slots, args.source):
        print(line)
    return EXIT_DONE


def model_expand(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.hf.expand import expand
    from titan_speech.hf.rows import NewRows

    record = expand(args.source, args.output, NewRows(args.new_rows, args.scale, args.seed))
    print(f"{args.output}: {record.num_base:,} rows grown to {record.num_rows:,}, vocabulary {record.vocabulary}")
    return EXIT_DONE


def model_convert(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.hf.convert import export_model, import_model
    from titan_speech.hf.rows import NewRows
    from titan_speech.layouts import LAYOUTS

    if args.to:
        export_model(args.source, args.output, LAYOUTS[args.layout])
    else:
        import_model(args.source, args.output, LAYOUTS[args.layout], NewRows())
    print(f"{args.output}: {'to' if args.to else 'from'} layout {args.layout}")
    return EXIT_DONE


def model_export(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.hf.export import EXPORT_DTYPES, Checkpoint, export

    checkpoint = Checkpoint.open(args.checkpoint)
    export(checkpoint, args.output, EXPORT_DTYPES[args.dtype])
    print(f"{args.output}: step {checkpoint.step} in {args.dtype}")
    return EXIT_DONE


def data_phases(args: argparse.Namespace, words: list[str]) -> int:
    from pathlib import Path

    from titan_speech.data.phase_report import phases_json, phases_text

    print((phases_json if args.json else phases_text)(Path(args.run_folder)))
    return EXIT_DONE


def generate(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.evaluate import generate_verb as room

    parser = new_parser(argparse.ArgumentParser, args.verb, prog=args.verb.prog)
    room.add_arguments(parser)
    room.run(parser.parse_args(words))
    return EXIT_DONE


def sample(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.evaluate import sample as room

    parser = new_parser(argparse.ArgumentParser, args.verb, prog=args.verb.prog)
    room.add_arguments(parser)
    room.run(parser.parse_args(words))
    return EXIT_DONE


def store_describe(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.store.describe import describe_store, describe_store_json

    print((describe_store_json if args.json else describe_store)(args.path))
    return EXIT_DONE


def store_verify(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.store.verify import verify_store

    verification = verify_store(args.path, args.workers, args.quick)
    print(verification)
    return EXIT_DONE if verification.is_sound else EXIT_FOUND_WRONG


def store_push(args: argparse.Namespace, words: list[str]) -> int:
    from pathlib import Path

    from titan_speech.config.tables import StorageTable
    from titan_speech.remote.store_copy import push_store
    from titan_speech.remote.url import S3Url

    print(push_store(Path(args.path), S3Url.parse(args.url), StorageTable(endpoint_url=args.endpoint_url)))
    return EXIT_DONE


def store_pull(args: argparse.Namespace, words: list[str]) -> int:
    from pathlib import Path

    from titan_speech.config.tables import StorageTable
    from titan_speech.remote.store_copy import pull_store
    from titan_speech.remote.url import S3Url

    print(pull_store(S3Url.parse(args.url), Path(args.path), StorageTable(endpoint_url=args.endpoint_url)))
    return EXIT_DONE


def store_merge(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.store import merge_command as command

    parser = new_parser(argparse.ArgumentParser, args.verb, prog=args.verb.prog)
    command.add_arguments(parser)
    command.run(parser.parse_args(words))
    return EXIT_DONE


def store_migrate(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.store import migrate_command as command

    parser = new_parser(argparse.ArgumentParser, args.verb, prog=args.verb.prog)
    command.add_arguments(parser)
    command.run(parser.parse_args(words))
    return EXIT_DONE


def store_gold(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.store import gold_command as command

    parser = new_parser(argparse.ArgumentParser, args.verb, prog=args.verb.prog)
    command.add_arguments(parser)
    command.run(parser.parse_args(words))
    return EXIT_DONE


def store_audit(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.store.audit import command

    parser = new_parser(argparse.ArgumentParser, args.verb, prog=args.verb.prog)
    command.add_arguments(parser)
    return EXIT_DONE if command.run(parser.parse_args(words)) else EXIT_FOUND_WRONG


def store_build(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.corpus import build_command as room

    parser = new_parser(argparse.ArgumentParser, args.verb, prog=args.verb.prog)
    room.add_arguments(parser)
    room.run(parser.parse_args(words))
    return EXIT_DONE


def text_prepare(args: argparse.Namespace, words: list[str]) -> int:
    try:
        from titan_speech.corpus.text import command as room
    except ModuleNotFoundError as error:
        from titan_speech.errors import DataError

        raise DataError(f"{error}; it comes with the extra: pip install 'titan-speech[text]'") from error

    parser = new_parser(argparse.ArgumentParser, args.verb, prog=args.verb.prog)
    room.add_arguments(parser)
    room.run(parser.parse_args(words))
    return EXIT_DONE


_WORLD_SIZE = Argument("--world-size", "number of processes of the run", type=positive)
_STORE_PATH = Argument("path", "folder of a token store, or s3://bucket/prefix")
_STORE_URL = Argument("url", "s3://bucket/prefix")
_ENDPOINT = Argument("--endpoint-url", "server that is not Amazon's (default: AWS_ENDPOINT_URL)", default="")

VERBS = (
    Verb(
        "config",
        "show",
        "Print the resolved configuration as TOML, each value with its origin.",
        "titan-speech config show --job.config_file train_configs/demo.toml --training.seq_len 1024",
        config_show,
        takes_config=True,
    ),
    Verb(
        "config",
        "check",
        "Name every problem of a configuration at once, or print the budget derived from it.",
        "titan-speech config check --job.config_file train_configs/demo.toml --world-size 2",
        config_check,
        (_WORLD_SIZE,),
        takes_config=True,
    ),
    Verb(
        "data",
        "order",
        "Print, or digest as one line, what all ranks of a run read together, slot by slot.",
        "titan-speech data order --job.config_file train_configs/demo.toml --start 0 --count 16 --world-size 2",
        data_order,
        (
            Argument("--start", "first global slot (default: 0)", type=natural, default=0),
            Argument("--count", "number of slots (default: 16)", type=positive, default=16),
            Argument("--world-size", "processes to simulate (default: the fewest that fit)", type=positive),
            Argument("--digest", "one digest of all these slots, equal at any world size", is_switch=True),
        ),
        takes_config=True,
    ),
    Verb(
        "data",
        "show",
        "Print packs with the trained tokens in colour and a border for each document.",
        "titan-speech data show --job.config_file train_configs/demo.toml --slots 0,1 --source tts",
        data_show,
        (
            Argument("--slots", "global slots between commas (default: 0)", type=naturals, default=(0,)),
            Argument("--source", "show as many of this source's first packs instead"),
        ),
        takes_config=True,
    ),
    Verb(
        "model",
        "expand",
        "Grow a backbone's Hugging Face folder by the speech vocabulary.",
        "titan-speech model expand --from models/Llama-3.2-1B --output models/Llama-3.2-1B-speech",
        model_expand,
        (
            Argument(
                "--from", "folder with config.json, safetensors and tokenizer", type=Path, required=True, dest="source"
            ),
            Argument("--output", "folder to write; must not exist", type=Path, required=True),
            Argument(
                "--new-rows",
                "where new rows come from (default: mean_cov, mean and covariance of the old)",
                default="mean_cov",
                choices=("mean_cov", "mean", "normal"),
            ),
            Argument("--scale", "factor of the covariance (default: 1.0)", type=not_negative, default=1.0),
            Argument("--seed", "seed of the new rows (default: 0)", type=natural, default=0),
        ),
    ),
    Verb(
        "model",
        "convert",
        "Bring a model of another speech trainer into this vocabulary, or one of ours into theirs.",
        "titan-speech model convert --from models/Llasa-1B --layout llasa --output models/Llasa-1B-here",
        model_convert,
        (
            Argument("--from", "Hugging Face folder", type=Path, required=True, dest="source"),
            Argument("--layout", "token layout of the other side", required=True, choices=("inworld", "llasa")),
            Argument("--to", "convert one of ours to the layout, instead of from it", is_switch=True),
            Argument("--output", "folder to write; must not exist", type=Path, required=True),
        ),
    ),
    Verb(
        "model",
        "export",
        "Write a checkpoint as a Hugging Face folder that transformers and vLLM load.",
        "titan-speech model export --checkpoint outputs/demo --output outputs/demo-hf",
        model_export,
        (
            Argument("--checkpoint", "run folder (its newest) or .../step-N", type=Path, required=True),
            Argument("--output", "folder to write; must not exist", type=Path, required=True),
            Argument(
                "--dtype",
                "type of the weights (default: bfloat16)",
                default="bfloat16",
                choices=("bfloat16", "float16", "float32"),
            ),
        ),
    ),
    Verb(
        "data",
        "phases",
        "Print the phases of a run: where each lies, what it read of each stream, what was carried over.",
        "titan-speech data phases outputs/demo",
        data_phases,
        (
            Argument("run_folder", "run folder (job.dump_folder)"),
            Argument("--json", "as JSON", is_switch=True),
        ),
    ),
    Verb(
        None,
        "generate",
        "Speak texts with an exported model, in a voice of its own or one to clone, and write wav files.",
        'titan-speech generate --model outputs/demo-hf --text "please hold the line" --output outputs/line.wav',
        generate,
        is_deferred=True,
    ),
    Verb(
        None,
        "sample",
        "Speak one text with a trained run and write it as a wav file.",
        'titan-speech sample --run outputs/demo --text "please hold the line" --output outputs/demo/sample.wav',
        sample,
        is_deferred=True,
    ),
    Verb(
        "store",
        "build",
        "Build a token store from arrays, WebDataset, MDS, parquet, JSONL, audio or text.",
        "titan-speech store build --from inworld --input vectorized --dataset-source podcasts --output stores/podcasts "
        "--tokenizer tokenizer/tiny --name podcasts --licence CC-BY-4.0 --codec-name xcodec2 --codec-hash HASH",
        store_build,
        is_deferred=True,
    ),
    Verb(
        "store",
        "describe",
        "Print what a token store holds: parts, languages, tokens, hours, versions.",
        "titan-speech store describe demo_data",
        store_describe,
        (_STORE_PATH, Argument("--json", "print it as JSON", is_switch=True)),
    ),
    Verb(
        "store",
        "verify",
        "Read every byte of a token store and name all that is wrong (exit code 1).",
        "titan-speech store verify demo_data --workers 8",
        store_verify,
        (
            _STORE_PATH,
            Argument("--workers", "shards read at once (default: one a core)", type=positive),
            Argument("--quick", "compare the files and their sizes only", is_switch=True),
        ),
    ),
    Verb(
        "store",
        "push",
        "Send a token store to object storage, file by file with its sha256; goes on where it was stopped.",
        "titan-speech store push my_store s3://bucket/my_store",
        store_push,
        (Argument("path", "folder of a token store"), _STORE_URL, _ENDPOINT),
    ),
    Verb(
        "store",
        "pull",
        "Fetch a token store from object storage into a new folder; goes on where it was stopped.",
        "titan-speech store pull s3://bucket/my_store my_store",
        store_pull,
        (_STORE_URL, Argument("path", "folder that is not there yet"), _ENDPOINT),
    ),
    Verb(
        "store",
        "migrate",
        "Bring a store to another tokenizer or normalization, or say what must be rebuilt or encoded again.",
        "titan-speech store migrate stores/all --tokenizer tokenizer/qwen3 --old-tokenizer tokenizer/llama3 --plan",
        store_migrate,
        is_deferred=True,
    ),
    Verb(
        "store",
        "gold",
        "Cut a frozen validation set out of stores, which training never reads.",
        "titan-speech store gold demo_data --output gold --num-ce 150 --num-decode 16 --by sample",
        store_gold,
        is_deferred=True,
    ),
    Verb(
        "store",
        "merge",
        "Make one store of several of one codec, tokenizer and normalization; all or nothing.",
        "titan-speech store merge stores/youtube stores/studio --output stores/all",
        store_merge,
        is_deferred=True,
    ),
    Verb(
        "store",
        "audit",
        "Look at samples of every language, write a page to read and listen to; exit code 1 above thresholds.",
        "titan-speech store audit demo_data --tokenizer tokenizer/tiny --output audit.html",
        store_audit,
        is_deferred=True,
    ),
    Verb(
        "text",
        "prepare",
        "Clean documents, drop copies and what breaks a rule, and report what went and why; text for store build.",
        "titan-speech text prepare --from text-parquet --preset fineweb --input fineweb/ --output prepared/fineweb "
        "--tokenizer tokenizer/tiny --workers 16",
        text_prepare,
        is_deferred=True,
    ),
)
ROOMS = {
    "config": "What a run is told to do.",
    "data": "What a run reads, and in which order.",
    "model": "Backbones in, checkpoints out.",
    "store": "Token stores on disk.",
    "text": "Documents on their way into a token store.",
}
