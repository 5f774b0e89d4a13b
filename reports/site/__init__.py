"""Static pages of a folder of runs (`dashboard`) and a picture of one run (`card`).

The room imports `advice` and the rooms below; only `calibration` and the commands may import it.
"""
