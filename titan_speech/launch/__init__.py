"""`titan-speech train`: the ranks of this machine, started and watched by torch's elastic agent used as a library.

agent.py      starts them, passes signals on, restarts them, keeps their exit codes
rank_logs.py  the files of what they print

Everything here imports torch: cli/train.py checks the configuration, the data and the backbone before.
"""
