"""Speech codecs: audio to one stream of codes and back.

base.py      the `Codec` protocol, and the checks that all codecs share
load.py      a codec by name, file or folder
wav.py       audio files in and out, resampled to a codec's rate
xcodec2.py   XCodec2 through transformers
demo/        a small codec with its weights in the package, for trying everything without downloads

Training never imports this package: it reads codes from a store whose manifest names the codec by its `codec_hash`.
"""
