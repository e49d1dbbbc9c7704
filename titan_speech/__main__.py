"""`python -m titan_speech` is `titan-speech`."""

import sys

from titan_speech.cli.main import main

sys.exit(main())
