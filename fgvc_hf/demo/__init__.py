"""The web demo: `fgvc-hf demo`, and the same app as a Space.

It has no tracking of its own. `app.py` is the page, `handlers.py` what happens on it, `work.py` calls the package, `views.py` draws;
`limits.py`, `check.py` and `clips.py` decide what is let in and for how long it stays. Only `app.py` and `handlers.py` import Gradio.
"""
