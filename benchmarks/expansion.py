"""Initial losses of a backbone with an extended vocabulary, by the initialization of its new rows.

    python benchmarks/expansion.py --json outputs/expansion.json

A small Llama is trained on the bundled text with its own vocabulary, as a published backbone is; then its vocabulary is
extended with each initialization, and its loss on the bundled speech and text is measured before the first step, and
after some steps on them. A real backbone has more to lose than this one learned in 300 steps of text: the ranking
carries over, not the size of the differences.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.machine import write_results
from titan_speech.data.pack_layout import split_labels
from titan_speech.data.plan import DataPlan
from titan_speech.hf.expand import expand
from titan_speech.hf.row_initialization import NewRows
from titan_speech.preflight.config_checks import load_config
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.vocabulary import TokenKind, token_kinds

# Shape legend: B packs, L tokens.

WAYS = {
    "mean": NewRows("mean"),
    "mean_cov, scale 1e-9": NewRows("mean_cov", 1e-9),
    "mean_cov, scale 0.01": NewRows("mean_cov", 0.01),
    "mean_cov, scale 0.1": NewRows("mean_cov", 0.1),
    "mean_cov, scale 1": NewRows("mean_cov", 1.0),
    "normal, std 0.02": NewRows("normal"),
}
TEXT_STEPS, SPEECH_STEPS, TEXT_LR, SPEECH_LR = 300, 60, 3e-3, 1e-3
NUM_HELD_BACK = 8


@dataclass(frozen=True)
class Result:
    """Losses in nats per token."""

    way: str
    start: float
    start_codes: float
    start_text: float
    after: float
    """After `SPEECH_STEPS` steps, on packs not trained on."""


def packs(plan: DataPlan, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, labels and positions of consecutive slots."""
    taken = [plan.pack(slot) for slot in range(first, first + count)]
    ids_BL = torch.from_numpy(np.stack([pack.ids_S for pack in taken]).astype(np.int64))
    labels_BL = split_labels(torch.from_numpy(np.stack([pack.labels_S for pack in taken])))[0]
    return ids_BL, labels_BL, torch.from_numpy(np.stack([pack.positions_S for pack in taken]).astype(np.int64))


def losses(model: LlamaForCausalLM, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each trained token, and the token. Positions separate the documents of a pack."""
    ids_BL, labels_BL, positions_BL = batch
    logits_BLV = model(ids_BL, attention_mask=document_mask(positions_BL), position_ids=positions_BL).logits
    trained_BL = labels_BL >= 0
    return F.cross_entropy(logits_BLV[trained_BL], labels_BL[trained_BL], reduction="none"), labels_BL[trained_BL]


def document_mask(positions_BL: torch.Tensor) -> torch.Tensor:
    """Causal inside a document, shape [B, 1, L, L], additive."""
    document_BL = (positions_BL == 0).cumsum(1)
    same_BLL = document_BL[:, :, None] == document_BL[:, None, :]
    causal_LL = torch.ones(positions_BL.shape[1], positions_BL.shape[1], dtype=torch.bool).tril()
    return torch.where(same_BLL & causal_LL, 0.0, -torch.inf)[:, None]


def train(model: LlamaForCausalLM, plan: DataPlan, first: int, steps: int, lr: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    for step in range(steps):
        loss = losses(model, packs(plan, first + 4 * step, 4))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def backbone(folder: Path, plan: DataPlan) -> float:
    """A small Llama trained on the bundled text, and its last loss."""
    tokenizer = TextTokenizer.load("tokenizer/tiny")
    sizes = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    frame = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "tie_word_embeddings": True}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=tokenizer.num_base, num_key_value_heads=2, **sizes, **frame))
    train(model, plan, NUM_HELD_BACK, TEXT_STEPS, TEXT_LR)
    model.save_pretrained(folder)
    shutil.copy("tokenizer/tiny/tokenizer.json", folder)
    with torch.no_grad():
        return float(losses(model, packs(plan, 0, NUM_HELD_BACK))[0].mean())


def measure(way: str, base: Path, folder: Path, plan: DataPlan) -> Result:
    expand(base, folder, WAYS[way], lambda _: None)
    model = LlamaForCausalLM.from_pretrained(folder)
    held_back = packs(plan, 0, NUM_HELD_BACK)
    with torch.no_grad():
        loss, token = losses(model, held_back)
    kind = token_kinds(token, plan.vocabulary.kind_boundaries)
    code, text = kind == TokenKind.CODE, kind == TokenKind.TEXT
    train(model, plan, NUM_HELD_BACK, SPEECH_STEPS, SPEECH_LR)
    with torch.no_grad():
        after = losses(model, held_back)[0].mean()
    return Result(way, *(round(float(x), 3) for x in (loss.mean(), loss[code].mean(), loss[text].mean(), after)))


def plans() -> tuple[DataPlan, DataPlan]:
    """Text alone, and everything."""
    config = load_config(["--job.config_file", "tests/assets/small.toml"]).config
    text = [replace(source, share=1.0) for source in config.data.source if source.task == "text"]
    text_only = replace(config, data=replace(config.data, source=tuple(text)))
    return DataPlan.load(text_only), DataPlan.load(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    began = time.perf_counter()
    text_plan, plan = plans()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text_loss = backbone(folder / "base", text_plan)
        print(f"backbone: {text_loss:.3f} nats a token of text after {TEXT_STEPS} steps")
        results = []
        for number, way in enumerate(WAYS):
            results.append(measure(way, folder / "base", folder / str(number), plan))
            print(f"{way:22} start {results[-1].start:7.3f}  after {SPEECH_STEPS} steps {results[-1].after:7.3f}")
    report = {
        "text_loss_of_backbone": round(text_loss, 3),
        "log_rows": round(float(np.log(plan.vocabulary.num_rows)), 3),
        "torch": torch.__version__,
        "duration_sec": round(time.perf_counter() - began),
        "results": [asdict(result) for result in results],
    }
    write_results(arguments.json, report)


if __name__ == "__main__":
    main()
