"""Static pages of a folder of runs (`dashboard`) and a picture of one run (`card`). Only
`calibration` and the commands may import this room."""
