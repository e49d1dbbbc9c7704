"""Looking at some samples of a store the way a careful person would, before anything is trained on them.

store --> choose.py    N samples, the same for the same seed, every part covered      (read: what is known of each)
             |
             v
          rules.py     what is looked for, and which share of it is too much   (checks, rates, scripts, neighbours)
             |
             v
          report.py    counts and shares by language, the worst samples               (thresholds, histogram)
             |
             +------>  exit code, JSON (as_json)
             v
          page.py      one HTML file: tables, histograms, players                     (charts, style, sound)

`command.py` is the verb.
"""
