"""The web demo: `fgvc-hf demo`, and the same app as a Space.

It holds no tracking logic. `page.py` lays out the page, `app.py` connects its events and serves it, `handlers.py` is what happens on them,
`endpoints.py` what programs call; `work.py` calls the package, `views.py` draws. Who comes in and what is kept: `gate.py` bounds requests, `jobs.py` gives
everybody a turn, `house.py` has the sessions and the room, `clips.py` the clips; `limits.py` and `check.py` decide which are accepted. `stopping.py` is the
end; `examples.py` lists the clips to try.
"""
