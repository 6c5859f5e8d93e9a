"""The script that changes one constant of the template tracker at a time."""

import re

import pytest
from training_runs import run


pytestmark = pytest.mark.slow


def test_the_table_has_a_row_for_each_change(tiny_model, processor, tmp_path):
    for part in (tiny_model, processor):
        part.save_pretrained(tmp_path / "tiny")
    output = tmp_path / "table.md"
    options = ("--clips", 2, "--only", "anchor_radius", "least_share", "--output", output)
    done = run("ablate_tracker.py", "--checkpoint", tmp_path / "tiny", *options)
    assert done.returncode == 0, done.stderr
    table = output.read_text()
    assert table == done.stdout
    head, _, before, *rows = table.strip().splitlines()
    assert head == "| 2 rendered clips | value | δavg | AJ | OA |"
    assert re.fullmatch(r"\| as it is \| \| \d+\.\d \| \d+\.\d \| \d+\.\d \|", before)
    changes = [row.split(" | ")[:2] for row in rows]
    assert [change[1] for change in changes[:3]] == ["off: 0", "half: 1", "double: 4"] and len(rows) == 6
    assert all(re.search(r"[+-]\d+\.\d ± \d+\.\d", row) for row in rows)


@pytest.mark.parametrize(
    ("options", "message"), [(("--clips", 1), "--clips must be 2 or more"), (("--only", "nothing"), "invalid choice")]
)
def test_bad_options_are_one_line(options, message):
    done = run("ablate_tracker.py", *options)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1] and not done.stdout
