"""The bundled codec: a convolutional autoencoder on log-mel frames, FSQ with 65,536 codes at 50 Hz, Griffin-Lim.

autoencoder.py   network and quantizer     mel.py   waveform to log-mel and back     embedded.py   the codec itself
"""
