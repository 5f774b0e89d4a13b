"""Static pages of a folder of runs (`dashboard`). Only the commands may import this room."""
