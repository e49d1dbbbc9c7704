"""The command line: `titan-speech [-h] [--version] <command> ...`.

main.py        finds the command, parses its arguments, runs it; turns errors into messages and exit codes
command.py     what a command is: group, name, summary, example, arguments, run
arguments.py   types of arguments, and arguments that several commands take
completion.py  words completed in a shell

One file per group of commands: train.py, recipes.py, config.py, data.py, estimate.py, store.py (with store_build.py,
store_audit.py and store_score.py), text.py, checkpoint.py, model.py, generate.py, align.py, evaluate.py (with
evaluate_run.py and evaluate_listen.py), report.py, doctor.py. Each exports `COMMANDS`. Whatever is heavy to import is
imported inside a command's `run`, so every `--help` answers without torch, numpy or pyarrow (tests/cli/test_cli.py).
"""
