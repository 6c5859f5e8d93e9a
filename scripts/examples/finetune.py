"""Fine-tune the encoder on videos of your own, without labels.

    python scripts/examples/finetune.py MY_CLIPS outputs/mine

`scripts/train.py --recipe finetune-small` does the same from the command line, and also evaluates, draws and distributes. These are the parts:
pairs of frames of your videos, one reconstructed from the other; textures cut out of them for synthetic pairs with exact flow; and the loop.
Started again with the same arguments it resumes.
"""

import sys
from dataclasses import replace

from accelerate import Accelerator

from fgvc_hf import FgvcModel, default_checkpoint
from fgvc_hf.data.video_folder import VideoFolder
from fgvc_hf.training.experiment import TEXTURE_SIZE
from fgvc_hf.training.joint import JointTraining
from fgvc_hf.training.loop import Training
from fgvc_hf.training.recipes import RECIPES


def main(folder: str, output: str, steps: str = "300") -> None:
    recipe = replace(RECIPES["finetune-small"], steps=int(steps), textures=64)
    videos = VideoFolder(folder, *recipe.clip_settings, seed=recipe.seed)
    textures = videos.texture_images(recipe.textures, *TEXTURE_SIZE)
    model = FgvcModel.from_pretrained(default_checkpoint())
    training = Training(JointTraining(model, recipe), recipe, output, Accelerator(), videos, textures, save_every=100)
    training.run()
    training.end()
    print(f"{output}/last")  # for from_pretrained, or --checkpoint


if __name__ == "__main__":
    main(*sys.argv[1:])
