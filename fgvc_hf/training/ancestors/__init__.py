"""UVC and TimeCycle, the self-supervised methods before FGVC, and what they need. Only `training/experiment.py` and scripts import them."""
