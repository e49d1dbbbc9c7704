"""One self-contained page of what happened in a run, or in several: `titan-speech report RUN [RUN ...]`.

    metrics_log.py   metrics.jsonl -> a column and a curve per metric, and the events between steps
    run.py           a run folder  -> `Run`: its metrics, configuration, checkpoints, logs, as a page needs them
    chart.py         curves        -> a chart as inline SVG with what a pointer reads from it
    blocks.py        what a section is made of: tiles, charts, tables, facts, text, sound
    sections/        runs          -> `Section`s, one file each; a section that has nothing to show is left out
    reference.py     runs of a recipe -> bands of its curves (references/), and where another run leaves them
    page.py          sections      -> HTML: templates/, with a style sheet and a script of its own inside
    trace.py         spans, ledger -> a trace of the run for Perfetto
    listening.py     clips of several systems -> a blind listening page, and its key
    serve.py         the same page on loopback while the run trains

Everything in a run folder may have been written by somebody else: it is parsed with limits, and escaped on the page.
"""
