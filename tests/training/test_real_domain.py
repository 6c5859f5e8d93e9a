"""What a run reads of the folder, pack or shards that it is given."""

import pytest

from fgvc_hf.data.clip_pack import packed_clips, write_pack
from fgvc_hf.data.shards import clip_rows, write_shards
from fgvc_hf.training.experiment import TEXTURE_SIZE, parse_recipe, real_domain


@pytest.mark.parametrize("source", ["videos", "pack", "shards", "stream"])
def test_images_are_read_for_recipes_that_render_alone(videos, tmp_path, source):
    if source == "pack":
        write_pack(tmp_path / "clips.pack", packed_clips(videos, 32))
        given = {"pack": tmp_path / "clips.pack"}
    elif source == "videos":
        given = {"videos": videos}
    else:
        write_shards(clip_rows(videos, 32), tmp_path / "shards")
        given = {"shards": str(tmp_path / "shards"), "stream": source == "stream"}
    small = {"crop": "32", "textures": "3"}
    assert real_domain(parse_recipe("joint-small", small), **given)[1].shape == (3, 3, *TEXTURE_SIZE)
    for textures in ("3", "0"):
        assert real_domain(parse_recipe("teacher-small", small | {"textures": textures}), **given)[1] is None
