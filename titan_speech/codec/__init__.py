"""Speech codecs: audio to one stream of codes and back.

base.py      the `Codec` protocol, and the input checks that all codecs share
load.py      a codec by name, file or folder
wav.py       audio files in and out, resampled to a codec's rate
xcodec2.py   XCodec2 through transformers
demo/        a small codec with its weights in the package, to try everything without downloads

Training never imports this package: it reads codes from a store, whose manifest identifies the codec by `codec_hash`.
"""
