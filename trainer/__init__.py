"""Train, evaluate, track and use SDST models; `accelerate launch` runs `trainer/main.py`."""
