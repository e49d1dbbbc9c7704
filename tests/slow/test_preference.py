"""Preference training as a whole: TRL's loss and gradients, resume, layouts, references, and a planted preference."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from tests.model.test_model import debug_model, transformers_twin
from tests.support.hf_folders import write_backbone
from tests.support.preference_samples import SCORER, write_mixed, write_pairs
from tests.support.runs import ROOT, figures, kill, metrics_lines, start_run, train, train_and_kill_after, train_well
from titan_speech.checkpoint.index_reader import read_index
from titan_speech.checkpoint.provenance import read_provenance
from titan_speech.config.schema_training import PreferenceConfig
from titan_speech.data.pack_layout import ANSWER_SHIFT, encode_labels
from titan_speech.health.rollback import ROLLBACKS_NAME
from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set
from titan_speech.training.preference_loss import AnswerCrossEntropy, PreferenceLoss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

pytestmark = pytest.mark.slow

CONFIG = "tests/assets/preference.toml"
NUM_ROWS, NUM_PAIRS, PROMPT_TOKENS = 1024, 3, 6
Pair = tuple[torch.Tensor, torch.Tensor]
"""Ids of the chosen and of the rejected answer, each after the same prompt."""


def random_pairs() -> list[Pair]:
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for lengths in [(9, 20), (30, 12), (17, 17)][:NUM_PAIRS]:
        prompt = torch.randint(0, NUM_ROWS, (PROMPT_TOKENS,), generator=generator)
        answers = [torch.randint(0, NUM_ROWS, (length,), generator=generator) for length in lengths]
        pairs.append((torch.cat([prompt, answers[0]]), torch.cat([prompt, answers[1]])))
    return pairs


SETTINGS = {
    "sigmoid": PreferenceConfig(loss="dpo", beta=0.1),
    "sigmoid_norm": PreferenceConfig(loss="dpo_norm", beta=2.0),
    "ipo": PreferenceConfig(loss="ipo", beta=0.1),
    "simpo": PreferenceConfig(loss="simpo", beta=2.0, target_margin=1.0),
}
"""By TRL's name of the loss."""


def loss_of_trl(
    name: str, pairs: list[Pair], policy: PreTrainedModel, reference: PreTrainedModel, folder: Path
) -> torch.Tensor:
    """The loss of TRL's trainer on padded pairs; its gradients are in `policy`."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    longest = max(len(answer) for pair in pairs for answer in pair)
    rows = [answer for which in (0, 1) for answer in (pair[which] for pair in pairs)]
    ids_BL = torch.stack([torch.nn.functional.pad(row, (0, longest - len(row))) for row in rows])
    mask_BL = torch.stack([(torch.arange(longest) < len(row)).long() for row in rows])
    completion_BL = mask_BL * (torch.arange(longest) >= PROMPT_TOKENS)
    dataset = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = SETTINGS[name]
    shared = {"output_dir": str(folder / "out"), "use_cpu": True, "report_to": "none", "bf16": False}
    policy.zero_grad()
    if name == "simpo":
        from trl.experimental.cpo import CPOConfig, CPOTrainer  # pyright: ignore[reportMissingImports]

        args = CPOConfig(
            **shared, loss_type="simpo", cpo_alpha=0.0, beta=settings.beta, simpo_gamma=settings.target_margin
        )
        trainer = CPOTrainer(model=policy, args=args, train_dataset=dataset, processing_class=tokenizer)
        logits_BLV = policy(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).logits
        labels_BL: Any = torch.where(completion_BL.bool(), ids_BL, -100)  # TRL names tensors by their legacy types
        logp_B: Any = trainer.get_batch_logps(logits_BLV, labels_BL, average_log_prob=True)
        losses, _, _ = trainer.cpo_loss(logp_B[:NUM_PAIRS], logp_B[NUM_PAIRS:])
        loss = losses.mean()
    else:
        from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportMissingImports]

        args = DPOConfig(
            **shared, loss_type=[name], beta=settings.beta, gradient_checkpointing=False, disable_dropout=False
        )
        trainer = DPOTrainer(
            model=policy, ref_model=reference, args=args, train_dataset=dataset, processing_class=tokenizer
        )
        batch = {"input_ids": ids_BL, "attention_mask": mask_BL, "completion_mask": completion_BL}
        loss = trainer.compute_loss(policy, batch)
    loss.backward()
    return loss.detach()


def packed_loss(settings: PreferenceConfig, pairs: list[Pair], model, reference, packs: list[list[int]]):
    """Our loss of the pairs in these packs; its gradients are in `model`. Reference: another model, or None."""
    seq_len = 192
    answers = AnswerCrossEntropy.Config(num_rows=NUM_ROWS, num_streams=1, kind_boundaries=(8, 9), seq_len=seq_len)
    loss = PreferenceLoss.Config(num_chunks=4, loss_fn=answers, settings=settings).build()
    loss.num_pairs = torch.tensor(float(len(pairs)))
    ids_BL = torch.zeros(len(packs), seq_len, dtype=torch.int64)
    labels_BL = torch.full_like(ids_BL, -100)
    positions_BL = torch.zeros_like(ids_BL)
    for pack, numbers in enumerate(packs):
        end = 0
        for number, row in enumerate((answer for pair in numbers for answer in pairs[pair]), 1):
            span = slice(end, end + len(row))
            ids_BL[pack, span], positions_BL[pack, span] = row, torch.arange(len(row))
            trained = slice(end + PROMPT_TOKENS - 1, end + len(row) - 1)
            labels = torch.from_numpy(encode_labels(row[PROMPT_TOKENS:].numpy(), 0))
            labels_BL[pack, trained] = labels + (number << ANSWER_SHIFT)
            end += len(row)
        positions_BL[pack, end:] = torch.arange(seq_len - end)

    def hidden(some) -> torch.Tensor:
        loss.set_lm_head(some.lm_head)
        some._skip_lm_head = True
        return some(ids_BL, positions_BL, some.get_attention_masks(positions_BL))

    if reference is not None:
        with torch.no_grad():
            loss.reference_BA = loss.log_probabilities(hidden(reference), labels_BL)
    model.zero_grad()
    value, _ = loss(hidden(model), labels_BL)
    value.backward()
    return value.detach()


def moved(family: str):
    """A model some steps away from the debug model."""
    model = debug_model(family, NUM_ROWS)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator) * parameter.std())
    return model


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_and_gradients_are_those_of_trl(name: str, tmp_path: Path) -> None:
    pairs, model, reference = random_pairs(), moved("llama3"), debug_model("llama3", NUM_ROWS)
    shutil.copytree(Path("tokenizer/tiny"), tmp_path, dirs_exist_ok=True)
    with_tokenizer(tmp_path)
    twin = transformers_twin("llama3", model)
    expected = loss_of_trl(name, pairs, twin, transformers_twin("llama3", reference), tmp_path)
    settings = SETTINGS[name]
    value = packed_loss(settings, pairs, model, reference if settings.has_reference else None, [[0, 1], [2]])
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    ours, theirs = model.layers["0"].feed_forward.w2.weight.grad, twin.model.layers[0].mlp.down_proj.weight.grad
    assert theirs.abs().max() > 1e-6
    print(
        f"{name}: loss {float(value):.7f} and {float(expected):.7f}; "
        f"gradient apart by {float((ours - theirs).norm() / theirs.norm()):.2e}"
    )
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5 * float(theirs.abs().max()))
    ours, theirs = model.tok_embeddings.weight.grad, twin.model.embed_tokens.weight.grad
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5 * float(theirs.abs().max()))


def with_tokenizer(folder: Path) -> None:
    """What transformers wants next to tokenizer.json."""
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|end_of_text|>", '
        '"eos_token": "<|end_of_text|>", "bos_token": "<|begin_of_text|>"}'
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_packed_pairs_have_the_gradient_of_pairs_alone(name: str) -> None:
    pairs, model, reference = random_pairs(), moved("qwen3"), debug_model("qwen3", NUM_ROWS)
    found = {}
    for packs in ([[0, 1], [2]], [[0], [1], [2]], [[2, 0, 1]]):
        settings = replace(SETTINGS[name], sft_weight=0.2)
        value = packed_loss(settings, pairs, model, reference if settings.has_reference else None, packs)
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found[str(packs)] = value, gradient
    (value, gradient), *others = found.values()
    for other_value, other_gradient in others:
        torch.testing.assert_close(other_value, value)
        assert float((other_gradient - gradient).norm() / gradient.norm()) < 1e-5


@pytest.fixture(scope="module")
def pairs_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "store", num_pairs=48, max_codes=60)


def preference_of(run: dict[int, dict]) -> dict[int, dict[str, float]]:
    kept = ("loss", "preference/", "grad_norm")
    return {step: {k: v for k, v in record.items() if k.startswith(kept)} for step, record in run.items()}


def assert_near(found: dict[int, dict[str, float]], expected: dict[int, dict[str, float]], tolerance: float) -> None:
    assert sorted(found) == sorted(expected)
    for step, wanted in expected.items():
        assert found[step].keys() == wanted.keys()
        for name, value in wanted.items():
            gap = abs(found[step][name] - value) / max(abs(value), 1e-2)
            assert gap < tolerance, f"step {step}, {name}: {found[step][name]} instead of {value}"


@pytest.fixture(scope="module")
def straight(pairs_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From a seed checkpoint, so that every layout starts from the same weights."""
    folder = tmp_path_factory.mktemp("straight")
    finished = train(folder / "seed", *on(pairs_store), "--checkpoint.create_seed_checkpoint", config=CONFIG)
    assert finished.returncode == 0, finished.output[-4000:]
    train_well(folder / "run", *on(pairs_store), *seeded(folder), config=CONFIG)
    return folder / "run"


def on(store: Path) -> tuple[str, ...]:
    return ("--data.source.0.store", str(store))


def seeded(folder: Path) -> tuple[str, ...]:
    return ("--checkpoint.initial_load_path", str(folder / "seed" / "checkpoint" / "step-0"))


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    checkpoint = run / "checkpoint" / f"step-{step}"
    names = read_index(checkpoint / ".metadata").state_dict_metadata
    state = {name: torch.empty(entry.size) for name, entry in names.items() if hasattr(entry, "size")}
    dcp.load(state, checkpoint_id=str(checkpoint), no_dist=True)
    return state


SHARDED = ("--parallelism.data_parallel_shard_degree", "2")


def test_a_killed_run_ends_with_the_weights_of_a_straight_one(
    straight: Path, pairs_store: Path, tmp_path: Path
) -> None:
    words = (*on(pairs_store), *seeded(straight.parent))
    train_and_kill_after(tmp_path / "run", 3, *words, config=CONFIG)
    resumed = train_well(tmp_path / "run", *words, config=CONFIG)
    expected = preference_of(figures(straight))
    assert preference_of(resumed) == expected
    found, wanted = weights(tmp_path / "run", 4), weights(straight, 4)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    (tmp_path / "run" / "reference.parquet").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint" / "step-4")
    without = train(tmp_path / "run", *words, config=CONFIG)
    assert without.returncode != 0
    assert "the log-probabilities of the reference, is missing" in without.output
    assert "Traceback" not in (tmp_path / "run" / "logs" / "rank-0.log").read_text()  # the launcher has one


@pytest.mark.parametrize(
    "layout",
    [
        (2, ()),
        (2, ("--parallelism.tensor_parallel_degree", "2")),
        (2, ("--parallelism.context_parallel_degree", "2")),
        (2, ("--parallelism.data_parallel_shard_degree", "1", "--parallelism.data_parallel_replicate_degree", "2")),
        (4, (*SHARDED, "--parallelism.data_parallel_replicate_degree", "2", "--training.local_batch_packs", "1")),
        (2, (*SHARDED, "--parallelism.fsdp_reshard_after_forward", "never")),
        (1, ("--compile.enable", "true")),
        (1, ("--loss.num_chunks", "1")),
        (1, ("--training.local_batch_packs", "1")),
    ],
    ids=["fsdp", "tp", "cp", "ddp", "hsdp", "zero-2", "compiled", "full-logits", "accumulation"],
)
def test_layouts_agree(layout: tuple[int, tuple[str, ...]], straight: Path, pairs_store: Path, tmp_path: Path) -> None:
    world_size, words = layout
    words = (*words, *on(pairs_store), *seeded(straight.parent))
    found = train_well(tmp_path / "run", *words, world_size=world_size, config=CONFIG)
    assert_near(preference_of(found), preference_of(figures(straight)), 3e-3)


def test_a_precomputed_reference_equals_a_live_one(pairs_store: Path, tmp_path: Path) -> None:
    """Of a LoRA run, whose model without its adapters is the reference."""
    write_backbone(tmp_path / "base")
    base = ("--model.initial", str(tmp_path / "base"), "--model.flavor", "initial", "--lora.rank", "4")
    base += ("--tokenizer.path", str(tmp_path / "base"))
    words = (*on(pairs_store), *base, "--optimizer.lr", "2e-2")
    once = preference_of(train_well(tmp_path / "once", *words, config=CONFIG))
    live = preference_of(train_well(tmp_path / "live", *words, "--preference.reference", "adapters_off", config=CONFIG))
    assert_near(live, once, 1e-4)
    assert once[4]["preference/margin"] > once[1]["preference/margin"] + 0.01
    assert not (tmp_path / "live" / "reference.parquet").exists()


@pytest.mark.parametrize("loss", ["dpo", "dpo_norm", "ipo", "simpo"])
def test_a_planted_preference_is_learned(loss: str, tmp_path: Path) -> None:
    """Chosen answers have codes of one set, rejected ones of another; pairs that were held out show it too."""
    store = write_pairs(tmp_path / "store", num_pairs=32, max_codes=60)
    make_held_out_set([store], tmp_path / "gold", HeldOutOptions(num_ce=4, num_decode=0))
    beta = {"dpo": "0.1", "dpo_norm": "5", "ipo": "0.1", "simpo": "2"}[loss]
    words = ("--preference.loss", loss, "--preference.beta", beta, "--training.target_tokens", "16384")
    words += ("--data.held_out", json.dumps([str(tmp_path / "gold")]), "--validation.every_steps", "16")
    run = train_well(tmp_path / "run", *on(store), *words, config=CONFIG)
    print(loss, {k: round(v, 3) for k, v in run[16].items() if k.startswith("preference/") and k.count("/") == 1})
    assert run[16]["preference/accuracy"] > 0.95
    assert run[16]["preference/loss"] < run[1]["preference/loss"]
    assert run[16]["preference/chosen_logp"] > run[1]["preference/chosen_logp"]
    before, after = (one for one in metrics_lines(tmp_path / "run") if one.get("event") == "validation")
    shown = {name: after[f"validation/gold/preference/{name}"] for name in ("pairs", "accuracy", "margin", "loss")}
    print("held out", {name: round(value, 3) for name, value in shown.items()})
    assert shown["accuracy"] == 1
    assert shown["loss"] < before["validation/gold/preference/loss"]
    if loss != "simpo":  # the reference is the model itself before the first step
        assert before["validation/gold/preference/margin"] == pytest.approx(0, abs=1e-6)


def test_a_run_that_drifts_from_its_reference_stops_before_it_is_saved(pairs_store: Path, tmp_path: Path) -> None:
    words = (*on(pairs_store), "--optimizer.lr", "3e-3", "--preference.max_drift", "0.3", "--checkpoint.cadence")
    finished = train(tmp_path / "run", *words, "[{every = 1}]", "--training.target_tokens", "16384", config=CONFIG)
    assert finished.returncode != 0
    assert "nats per token from the reference, beyond preference.max_drift 0.3" in finished.output
    assert "Traceback" not in (tmp_path / "run" / "logs" / "rank-0.log").read_text()
    [step] = (step for step in figures(tmp_path / "run") if abs(drift_at(tmp_path / "run", step)) > 0.3)
    assert step == max(figures(tmp_path / "run")) > 2
    assert f"The last good checkpoint is step {step - 2}" in finished.output  # step N reads with the weights of N - 1
    assert not (tmp_path / "run" / "checkpoint" / f"step-{step}").exists()


def test_a_drift_lowers_the_rate_and_training_ends_within_it(pairs_store: Path, tmp_path: Path) -> None:
    """Each breach goes back and halves the rate; what comes of it is the same where the run is cut once more."""
    words = (*on(pairs_store), "--preference.max_drift", "0.6", "--health.max_breaches", "6")
    words += ("--checkpoint.cadence", "[{every = 1}]", "--training.target_tokens", "6144")
    train_with_restarts(tmp_path / "run", *words)
    breaches = json.loads((tmp_path / "run" / ROLLBACKS_NAME).read_text())
    found = figures(tmp_path / "run")
    print([(one["spike"], one["back_to"], one["breach"]) for one in breaches])
    assert len(breaches) >= 1
    assert all(one["back_to"] <= one["spike"] - 2 for one in breaches)
    assert all("beyond preference.max_drift" in one["breach"] for one in breaches)
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert all(abs(drift_at(tmp_path / "run", step)) <= 0.6 for step in found)
    assert found[6]["lr"] == pytest.approx(1e-3 * 0.5 ** len(breaches))
    record = read_provenance(tmp_path / "run" / "checkpoint" / "step-6")
    assert record is not None
    assert record.rate_factor == 0.5 ** len(breaches)
    assert record.trained_budget is not None
    assert record.trained_budget.final_lr == pytest.approx(found[6]["lr"])
    shutil.rmtree(tmp_path / "run" / "checkpoint" / "step-6")
    (tmp_path / "run" / ROLLBACKS_NAME).unlink()  # checkpoints know them too
    train_with_restarts(tmp_path / "run", *words)
    assert preference_of(figures(tmp_path / "run"))[6] == preference_of(found)[6]
    assert figures(tmp_path / "run")[6]["lr"] == found[6]["lr"]


def train_with_restarts(folder: Path, *words: str) -> None:
    process = start_run(folder, *words, config=CONFIG, launch=("--max-restarts", "6"))
    try:
        assert process.wait(900) == 0, (folder / "log.txt").read_text()[-4000:]
    finally:
        kill(process)


def drift_at(run: Path, step: int) -> float:
    return figures(run)[step]["preference/chosen_drift"]


SHORT = ("--training.seq_len", "128", "--training.global_batch_tokens", "512", "--training.local_batch_packs", "4")


def test_a_round_of_answers_pairs_and_training_moves_a_model_to_what_is_liked(tmp_path: Path) -> None:
    """By the commands alone: a model learns codes of two sets, a program scores its own answers, and after DPO on
    the pairs it says more of what the program likes and still ends its answers."""
    mixed = write_mixed(tmp_path / "mixed")
    (tmp_path / "scorer.py").write_text(SCORER)
    learned = ("--preference.loss", "none", "--data.source.0.task", "tts", "--optimizer.lr", "3e-3")
    train_well(tmp_path / "sft", *on(mixed), *SHORT, *learned, "--training.target_tokens", "61440", config=CONFIG)
    before = answers_of(tmp_path, "sft", "first")
    start = ("--stage.from", str(tmp_path / "sft"), "--stage.continue_data", "false", "--optimizer.lr", "3e-4")
    steps = ("--training.target_tokens", "10240", "--data.phase", "dpo")
    train_well(tmp_path / "dpo", *on(tmp_path / "first"), *SHORT, *start, *steps, config=CONFIG)
    after = answers_of(tmp_path, "dpo", "second")
    print("liked before and after", before, after)
    assert 0.3 < before < 0.7
    assert after > before + 0.1


def answers_of(folder: Path, run: str, output: str) -> float:
    """Make pairs of a run's answers; the mean share of codes that are liked, over all answers that were ended."""
    command = [sys.executable, "-m", "titan_speech", "align", "pairs", "--run", str(folder / run)]
    command += ["--prompts", str(folder / "mixed"), "--output", str(folder / output), "--answers", "4", "--limit", "32"]
    command += ["--scorer", f"{sys.executable} {folder / 'scorer.py'}", "--reward", "liked=1", "--max-sec", "0.4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    lines = (folder / f"{output}.answers" / "answers.jsonl").read_text().splitlines()
    answers = [answer for line in lines for answer in json.loads(line)["answers"]]
    ended = [answer["scores"]["liked"] for answer in answers if answer["stopped"]]
    assert len(ended) > len(answers) / 2
    return sum(ended) / len(ended)
