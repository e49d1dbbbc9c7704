"""`python -m titan_speech` is `titan-speech`."""

import sys

from titan_speech.cli import main

sys.exit(main())
