"""Static pages of a folder of runs (`dashboard`) and a picture of one run (`card`). Only the
commands may import this room."""
