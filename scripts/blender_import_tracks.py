"""Import tracks that fgvc_hf wrote for Blender (`--output-format blender`) into the open movie clip. It runs inside Blender, and needs no package.

1. Open the clip in the Movie Clip Editor. Its frames must be numbered as in the file: from 1, unless --first-frame said otherwise.
2. Open this file in the Text Editor and run it.
3. In the Movie Clip Editor: Track menu > Import fgvc_hf Tracks, and choose the CSV file.

Each point becomes a track of its name, with a marker on every frame on which it is visible. Header of the file: track,frame,x,y,enabled; x and y are
shares of the clip's width and height from its bottom left corner, which is where Blender counts from too.
"""

import csv

import bpy


HEADER = ["track", "frame", "x", "y", "enabled"]


def import_tracks(path: str, tracks) -> int:
    """Add the points of a file to `clip.tracking.tracks`; their number."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if next(rows, None) != HEADER:
            raise ValueError(f"{path}: is not a file of tracks for Blender, whose header is {','.join(HEADER)}.")
        made = {}
        for name, frame, x, y, enabled in rows:
            if name not in made:
                made[name] = tracks.new(name=name, frame=int(frame))
            marker = made[name].markers.insert_frame(int(frame), co=(float(x), float(y)))
            marker.mute = enabled == "0"
    return len(made)


class CLIP_OT_import_fgvc_hf_tracks(bpy.types.Operator):
    """Import tracks of fgvc_hf into the clip"""

    bl_idname = "clip.import_fgvc_hf_tracks"
    bl_label = "Import fgvc_hf Tracks"
    bl_options = {"REGISTER", "UNDO"}
    filepath: bpy.props.StringProperty(subtype="FILE_PATH")  # ty: ignore[invalid-type-form] - as Blender wants it

    @classmethod
    def poll(cls, context):
        return context.edit_movieclip is not None

    def invoke(self, context, event):
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context):
        try:
            number = import_tracks(self.filepath, context.edit_movieclip.tracking.tracks)
        except (ValueError, OSError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.report({"INFO"}, f"{number} tracks")
        return {"FINISHED"}


def add_to_menu(menu, context):
    menu.layout.operator(CLIP_OT_import_fgvc_hf_tracks.bl_idname)


if __name__ == "__main__":
    bpy.utils.register_class(CLIP_OT_import_fgvc_hf_tracks)
    bpy.types.CLIP_MT_track.append(add_to_menu)
