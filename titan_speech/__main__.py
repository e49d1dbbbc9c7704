"""`python -m titan_speech` is the same as `titan-speech`."""

import sys

from titan_speech.cli.main import main

sys.exit(main())
