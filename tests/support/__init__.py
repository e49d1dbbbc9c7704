"""What tests share: samples, runs, servers and models. Nothing here is collected as a test.

    stores and samples
store_samples.py          a tiny tokenizer; small stores with paired, speech, text and instruction parts
plan_samples.py           a store with every task's data, and configurations over it, for plans and loaders
preference_samples.py     stores of preference pairs with a planted preference
audit_stores.py           sound samples in two languages, some of them replaced by faulty ones
import_samples.py         a unit's samples and the store an importer makes of them
vectorizer_output.py      output of the Inworld trainer's vectorizer
listed_documents.py       documents in memory, for streams and packs
published_vocabularies.py vocabularies from package registries

    runs, and faults planted in them
runs.py                   starts, stops and kills training runs under torchrun
warm.py                   the same runs, forked from a process that has imported everything
warm_imports.py           what that process imports
spawn.py                  a function in several processes on gloo
meet_again.py             a worker that fails in its first life, for the rendezvous
audited_train.py          the training entry that records which files and addresses it opens
counted_train.py          the training entry that counts what waits for the device and for other ranks
digest_train.py           the training entry that records what each step is trained on
delayed_train.py          the training entry with a delay planted on one rank
faulty_train.py           the training entry with a rank that dies or stops at one place
poisoned_train.py         the training entry with spoiled batches: not finite, too high, stopped
pairs_train.py            a training run in the complex rotary form of older revisions
planted_step.py           a compiled step with one defect, for the deviceless proof
alert_faults.py           series of Prometheus, and the fault that fires each alert
bench_variant.py          a benchmark variant whose steps only count
eager_ours.py             this trainer without compilation, for the performance check
slowed_ours.py            this trainer with a loader that sleeps, for the performance check

    servers and browser
s3_server.py              a real S3 server (SeaweedFS) on loopback
fault_proxy.py            a TCP proxy in front of it that injects network faults
hub_server.py             a stand-in for the Hugging Face Hub
webhook_receiver.py       a receiver of webhooks that keeps what is posted, or hangs
browser.py                Chromium without a window

    models and folders
checkpoints.py            small real checkpoints, saved by DCP in a world of one
checkpoint_folders.py     checkpoints of random bytes with real commit markers
hf_folders.py             small Hugging Face folders, written by transformers
xcodec2_folder.py         a tiny XCodec2 with random weights
evaluation_models.py      the models of the `eval-tests` extra
greedy.py                 greedy continuations, by this project's decoding and by transformers
"""
