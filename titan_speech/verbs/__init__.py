"""What `titan-speech` can do: one row of `VERBS` for each command, one file for each room of commands.

In: parsed arguments. Out: an exit code, and text on stdout. A verb names what it takes, an example, and one
function that hands over to its room.
"""

from titan_speech.verbs import checkpoint, config, data, model, plan, speech, store, text

VERBS = (
    *checkpoint.VERBS,
    *config.VERBS,
    *data.VERBS,
    *model.VERBS,
    *plan.VERBS,
    *speech.VERBS,
    *store.VERBS,
    *text.VERBS,
)
ROOMS = {
    "checkpoint": "Checkpoints of a run: looked at, verified, compared, pinned, moved.",
    "config": "What a run is told to do.",
    "data": "What a run reads, and in which order.",
    "model": "Backbones in, checkpoints out.",
    "store": "Token stores on disk.",
    "text": "Documents on their way into a token store.",
}
