"""`titan-speech`: one command line; one file per command group, and one per command with many arguments.

main.py        parses, runs a command, turns errors into messages and exit codes
command.py     what a command is
arguments.py   types and arguments that several commands take
"""
