"""Tracking of whole data sets: clips from many kinds of source to rows in Parquet, in this process or on a Ray cluster.

source (clip_sources) ─ clips ─▶ engine (local, Ray) ─▶ work on each clip (clip_tracking) ─ rows ─▶ finished rows ─▶ shards
"""
