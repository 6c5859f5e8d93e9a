"""The plugin for napari: label points on a few frames, track between, correct where it went wrong, and track again.

`napari.yaml` tells napari what is here. Everything but `track_widget.py` works without Qt.
"""
