"""The web demo: `fgvc-hf demo`, and the same app as a Space.

It holds no tracking logic. `page.py` lays out the page, `app.py` connects its events and serves it, `handlers.py` is what happens on them,
`work.py` calls the package, `views.py` draws; `limits.py`, `check.py` and `clips.py` decide which files are accepted and how long they are
kept; `examples.py` lists the clips to try.
"""
