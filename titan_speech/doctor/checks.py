"""The checks of the doctor that train nothing: stores, an audit of samples, the estimate.

In: a checked configuration. Out: a `DoctorOutcome` each. Errors of this project become failures with their own advice.
"""

from __future__ import annotations

from collections.abc import Sequence

from titan_speech.config.schema import SpeechConfig
from titan_speech.doctor.outcome import DoctorOutcome, Verdict
from titan_speech.utils.text_table import amount, counted, gigabytes, hours

AUDITED_SAMPLES = 400
"""Of each store; above its number of parts, of which each must be sampled."""
LITTLE_MEMORY = 0.92
"""Of the device; above it fragmentation may not fit."""
MANY_EPOCHS = 4.0


def stores(config: SpeechConfig) -> DoctorOutcome:
    """Everything the run reads opens, fits together and has the sizes that the manifests say."""
    from titan_speech.store.verify import verify_store

    check_inputs(config)
    places = sorted({source.store for source in config.data.source})
    found = [verify_store(place, quick=True, storage=config.storage) for place in places]
    broken = [str(one) for one in found if not one.is_sound]
    samples = sum(one.num_samples for one in found)
    size = gigabytes(sum(one.num_bytes for one in found))
    text = f"{counted(len(places), 'store')}, {amount(samples, 'samples')}, {size}"
    if broken:
        return DoctorOutcome(
            "stores", Verdict.FAIL, text, "\n".join([*broken, "titan-speech store verify names every file"])
        )
    if shifted := _shifted_codes(config, places):
        return DoctorOutcome("stores", Verdict.FAIL, f"{text}, codes are shifted", "\n".join(shifted))
    if not config.data.held_out:
        advice = "no held-out set: titan-speech store held-out makes one for [data] held_out, and the run is validated"
        return DoctorOutcome("stores", Verdict.WARN, text, advice)
    return DoctorOutcome("stores", Verdict.PASS, f"{text}, {counted(len(config.data.held_out), 'held-out set')}")


def _shifted_codes(config: SpeechConfig, places: Sequence[str]) -> list[str]:
    """Datasets whose codes are shifted against those of the held-out sets."""
    from titan_speech.data.code_shift import HeldOutCodes, count_stored_codes
    from titan_speech.store.reader import open_store

    if not config.data.held_out:
        return []
    held_out, found = HeldOutCodes.read(config.data.held_out, config.storage), list[str]()
    for place in places:
        parts = open_store(place, config.storage).parts
        samples_per_part = -(-AUDITED_SAMPLES // max(len(parts), 1))
        for dataset in sorted({part.dataset_source for part in parts}):
            of_dataset = [part for part in parts if part.dataset_source == dataset]
            counts_K = count_stored_codes(of_dataset, samples_per_part)
            if shifted := held_out.compare(counts_K, frozenset([dataset])):
                found.append(f"the codes of {dataset} in {place}: {shifted}")
    return found


def audit(config: SpeechConfig) -> DoctorOutcome:
    """Samples of every language pass the checks of `store audit`."""
    from titan_speech.audit.check_samples import audit as audit_store
    from titan_speech.audit.choose_samples import choose
    from titan_speech.audit.reencode import chosen_codes, reencode
    from titan_speech.audit.rules import Thresholds, read_thresholds
    from titan_speech.audit.sound import AUTO_CODEC, open_sound
    from titan_speech.store.reader import open_store
    from titan_speech.tokenization.text_tokenizer import TextTokenizer

    tokenizer = TextTokenizer.load(config.tokenizer.path)
    thresholds: Thresholds = read_thresholds(None, {})
    above, shifted, num_samples, languages = [], list[str](), 0, set[str]()
    for place in sorted({source.store for source in config.data.source}):
        store = open_store(place, config.storage)
        parts = choose(store, max(AUDITED_SAMPLES, len(store.parts)), config.data.seed)
        report = audit_store(store, parts, tokenizer, thresholds, seed=0, num_codes=65_536, num_random=0)
        codec = open_sound(config.generation_check.codec or AUTO_CODEC, store).codec
        codes = chosen_codes(parts) if codec is not None else []
        if codec is not None and codes and (reencoded := reencode(codec, codes)).shift:
            shifted.append(f"{place}: {reencoded}")
        num_samples += report.num_samples
        languages |= {language.language for language in report.languages}
        above += [
            f"{place}, {language.language}: {result.rule.title.lower()}, {result.num_found} of {result.num_checked}"
            for language in report.languages
            for result in language.above_threshold
        ]
    text = f"{counted(num_samples, 'sample')} of {counted(len(languages), 'language')}"
    if shifted:
        return DoctorOutcome("audit", Verdict.FAIL, f"{text}, codes are shifted", "\n".join(shifted))
    if above:
        shown = above[:6] + ([f"and {len(above) - 6} more"] if len(above) > 6 else [])
        advice = "\n".join(["above the thresholds; titan-speech store audit STORE shows the samples", *shown])
        return DoctorOutcome(
            "audit", Verdict.WARN, f"{text}, {counted(len(above), 'check')} above the threshold", advice
        )
    return DoctorOutcome("audit", Verdict.PASS, text)


def estimate(config: SpeechConfig, name: str, world_size: int, gpu: str) -> tuple[DoctorOutcome, float | None]:
    """Memory fits, no stream is read too often, checkpoints have their space.

    Returns:
        The outcome, and the predicted tokens per second and GPU, if any.
    """
    from titan_speech.estimate.devices import DEVICES
    from titan_speech.estimate.estimate_run import estimate_runs
    from titan_speech.estimate.result import EstimateRequest

    found = estimate_runs([EstimateRequest(config, name, world_size, DEVICES[gpu])])[0]
    memory, speed = found.memory, found.speed
    device = f" of {gigabytes(memory.device_bytes)}" if memory.device_bytes else ""
    text = f"{found.request.device.title} x {world_size:,}: {gigabytes(memory.needed_bytes)}{device}"
    text += f", {hours(speed.run_hours)} predicted" if speed else ""
    text += f", {gigabytes(found.storage.most_bytes)} of checkpoints"
    rate = speed.tokens_per_sec_per_gpu if speed else None
    if memory.fits is False:
        advice = (
            "lower training.local_batch_packs, raise activation_checkpoint.kind to full, or give more GPUs; "
            "titan-speech estimate shows what the memory is used for"
        )
        return DoctorOutcome("estimate", Verdict.FAIL, text, advice), rate
    remarks = []
    if memory.device_bytes and memory.needed_bytes > LITTLE_MEMORY * memory.device_bytes:
        remarks.append("little memory is left: lower training.local_batch_packs if the run ends out of memory")
    remarks += [
        f"{stream.source} {stream.language or ''}: {stream.epochs:.1f} epochs; cap its language or add data"
        for stream in found.data.streams
        if stream.epochs is not None and stream.epochs > MANY_EPOCHS
    ]
    verdict = Verdict.WARN if remarks else Verdict.PASS
    return DoctorOutcome("estimate", verdict, text, "\n".join(remarks[:6])), rate


def check_inputs(config: SpeechConfig) -> None:
    """Open the tokenizer, the stores and the held-out sets, plan the data, and read the sizes of the backbone.

    Raises:
        DataError, VocabularyError, ModelError, ConfigError: one of them is damaged, or does not fit the others; or a
            bound of the generation check has the name of no measure, or its speaker encoder is not there.
    """
    from titan_speech.data.plan import DataPlan
    from titan_speech.data.validation_set import open_validation_sets
    from titan_speech.evaluate.models.voices import open_voice_encoder
    from titan_speech.generate.measures import check_bounds
    from titan_speech.hf.config_json import model_of_stage, model_shape
    from titan_speech.tokenization.prompt_template import Grammar
    from titan_speech.tokenization.text_tokenizer import TextTokenizer

    check_bounds(config.generation_check)
    if config.generation_check.voice:
        open_voice_encoder(config.generation_check.voice)
    model_shape(model_of_stage(config))
    tokenizer = TextTokenizer.load(config.tokenizer.path)
    plan = DataPlan.from_config(config, Grammar(tokenizer.vocabulary()), tokenizer)
    open_validation_sets(config, plan, tokenizer)
