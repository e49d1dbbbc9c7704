"""Check samples of a token store before training on it.

store --> choose_samples.py      N samples, the same for the same seed, from every part
             |
             v
          checks.py      one function per check          rules.py     their names and thresholds
             |                                           measures.py  rates, scripts, histograms
             v
          check_samples.py   every check on every sample of a language
             |
             v
          report.py      counts and shares per language, the worst samples, JSON; the exit code of `store audit`
             |
             v
          reencode.py    codes that come back from their own sound: are they shifted?
             |
             v
          page.py        one HTML file by page.html.j2: tables, charts, players      sound.py  codes to wav
"""
