"""The web demo: `fgvc-hf demo`, and the same app as a Space.

It holds no tracking logic. `page.py` lays out the page, `app.py` connects its events and serves it, `handlers.py` handles them, and `endpoints.py`
is the API for programs. `work.py` calls the package, `views.py` draws. `middleware.py` limits requests, `jobs.py` is the queue, `server_state.py` has
the sessions and the disk space, `clips.py` the clips; `limits.py` and `check.py` decide which are accepted. `stopping.py` ends the server;
`examples.py` lists the clips to try.
"""
