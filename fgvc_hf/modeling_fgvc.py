"""The model: features of frames, the probabilistic map between two frames, and the session step.

* Features leave the encoder as they are. Matching normalises them to unit length over channels in float32.
* [`FgvcModel.match`] is the probabilistic map (Eq. 1 of the paper) from every cell of one frame to a window of another.
* [`FgvcModel.step`] carries the targets of a session to its next frame: preprocess, encode, propagate, read out.
* The model knows no videos, processors or uploads; [`fgvc_hf.Tracker`] puts these together.
"""

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_fgvc import FIELDS, FgvcConfig
from .encoder.backbone import FgvcBasicBlock, FgvcBottleneckBlock, FgvcEncoder
from .encoder.coarse_to_fine import FgvcAttention, FgvcAttentionLayer, FgvcCoarseToFineHead
from .encoder.fused_encoder import FusedEncoder, fused_for_inference, modules_of
from .encoder.loading import MOST, check_finite, check_size, load_complete, one_at_a_time
from .encoder.shapes import check_pixel_values, check_stride
from .matching.probability_map import probability_map, window_correlation
from .matching.pyramid import unit_length
from .tracking.encoded_frame import EncodedFrame
from .tracking.prompts import whole_number
from .tracking.results import FgvcVideoOutput
from .tracking.session import FgvcInferenceSession


CHANGING_MODES = threading.Lock()
EVALUATED: dict[int, int] = {}  # ids of modules in training mode, and how many contexts keep them in evaluation mode


@dataclass
class FgvcModelOutput(ModelOutput):
    """
    Output of [`FgvcModel.forward`].

    Args:
        features (`torch.Tensor` of shape `(batch, [frames,] channels, h, w)`):
            Features, not normalised; `h` and `w` are the input size divided by the stride, rounded up. Those of a fine model are
            not negative.
        hidden_states (`tuple[torch.Tensor]`, *optional*):
            Input of each residual block, and the output of the last; frames merged into the batch.
        attentions (`tuple[torch.Tensor]`, *optional*):
            Of a coarse-to-fine model: weights (windows, heads, n, n) of each layer of attention, where `attn_implementation` is
            `"eager"`; windows hold n cells, and those of all frames are merged.
    """

    features: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class FgvcMatchOutput(ModelOutput):
    """
    The probabilistic map from each cell of one frame to the window around it in another (Eq. 1 of the paper).

    Args:
        log_probs (`torch.Tensor` of shape `(batch, h, w, (2r+1)^2)`, float32):
            Log-probabilities over the window in dy-major order; -inf outside the frame.
        flow (`torch.Tensor` of shape `(batch, h, w, 2)`, float32): Expected displacement (x, y), in pixels of the input.
        entropy (`torch.Tensor` of shape `(batch, h, w)`, float32): Entropy of the map, in nats.
        occluded (`torch.Tensor` of shape `(batch, h, w)`, bool):
            Whether the best match of a cell has another cell as its own best match (Eq. 7).
    """

    log_probs: torch.Tensor | None = None
    flow: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    occluded: torch.Tensor | None = None


class FgvcPreTrainedModel(PreTrainedModel):
    """Initialisation, and the entry points to loading and saving, of FGVC models."""

    config: FgvcConfig
    base_model_prefix = "fgvc"
    main_input_name = "pixel_values"
    input_modalities = ["video"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["FgvcBasicBlock", "FgvcBottleneckBlock", "FgvcAttentionLayer"]
    _can_record_outputs = {"hidden_states": [FgvcBasicBlock, FgvcBottleneckBlock], "attentions": FgvcAttention}
    _keep_in_fp32_modules_strict = ["bn1", "bn2", "downsample.1"]  # bfloat16 rounds the running statistics off

    @classmethod
    @one_at_a_time
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As in the base class, for one thread at a time, and with all weights from the checkpoint; see [`load_complete`]."""
        return load_complete(super().from_pretrained, pretrained_model_name_or_path, *model_args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """As in the official code: He-normal convolutions, and residual branches that start at zero."""
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            if getattr(module, "starts_at_zero", False):
                init.zeros_(module.weight)
            else:
                init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            init.constant_(module.weight, 0 if getattr(module, "starts_at_zero", False) else 1)
            init.ones_(cast(torch.Tensor, module.running_var))
            for tensor in (module.bias, module.running_mean, module.num_batches_tracked):
                init.zeros_(cast(torch.Tensor, tensor))


class FgvcModel(FgvcPreTrainedModel):
    """
    Features for pixel-wise video correspondence (FGVC, ICCV 2023), and the propagation of targets through video with them.

    [`~FgvcModel.forward`] encodes frames, [`~FgvcModel.match`] maps one frame to another. On an [`FgvcInferenceSession`],
    [`~FgvcModel.propagate_in_video_iterator`] carries targets through a video and [`~FgvcModel.step`] to one frame at a time.
    [`fgvc_hf.Tracker`] is the API for whole videos.

    Args:
        config ([`FgvcConfig`]): The encoder, and how its features are matched.
        encoder (`torch.nn.Module`, *optional*): For `config.encoder="external"`: anything that turns `(N, 3, H, W)` into feature
            maps `(N, C, h, w)`; see [`model_from_backbone`].
    """

    @one_at_a_time
    def __init__(self, config: FgvcConfig, encoder: nn.Module | None = None):
        super().__init__(config)
        check_size(config)
        if (encoder is None) != (config.encoder == "resnet"):
            raise ValueError("a model needs an encoder of its own exactly if config.encoder is 'external'.")
        self.encoder = FgvcEncoder(config) if encoder is None else encoder
        self.head = FgvcCoarseToFineHead(config) if config.fine_size else None
        self._fused: FusedEncoder | None = None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> FgvcModelOutput:
        """
        Encode frames.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, H, W)` or `(batch, frames, 3, H, W)`):
                Frames as [`FgvcImageProcessorPil`] gives them.

        Returns:
            [`FgvcModelOutput`] whose `features` have the leading dimensions of `pixel_values`.

        Raises:
            `ValueError`: they are no frames, or too small for `padding_mode="reflect"` or for a window of attention.
        """
        check_pixel_values(pixel_values, self.config)
        leading = pixel_values.shape[:-3]
        frames = pixel_values.flatten(0, -4).to(self.dtype)
        return FgvcModelOutput(features=self._encode(self.encoder, frames).unflatten(0, leading))

    @property
    def device(self) -> torch.device:
        """Where frames are encoded: where the weights are, or where accelerate moves them to for each frame."""
        hooks = (vars(module).get("_hf_hook") for module in self.modules())
        places = (getattr(hook, "execution_device", None) for hook in hooks)
        place = super().device
        return place if place.type != "meta" else torch.device(next((p for p in places if p is not None), place))

    def _encode(self, encoder: Any, frames: torch.Tensor) -> torch.Tensor:
        """Features (N, C, h, w) of frames (N, 3, H, W), by the encoder or its fused form."""
        return encoder(frames) if self.head is None else self.head(encoder.stages(frames))

    def normalized_features(self, pixel_values: torch.Tensor, check_weights: bool = True) -> torch.Tensor:
        """
        Features of unit length (unless `config.similarity` is `"dot"`), channels last.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, H, W)`): Frames as [`FgvcImageProcessorPil`] gives them.
            check_weights (`bool`, defaults to `True`):
                Compare every weight with those that the fused encoder of inference was made from (a few milliseconds). Within a video
                `False` is enough: changes that torch itself counts are seen, writes through `.data` or NumPy are not.
                Without gradients, weights are checked to be finite as well.

        Raises:
            `ValueError`: there are NaN or infinite weights, or weights without values (on the meta device); or as of `forward`.

        Returns:
            `torch.Tensor` of shape `(batch, h, w, C)`.
        """
        if self.device.type == "meta":
            raise ValueError("weights must be in memory, those of this model are on the meta device.")
        check_pixel_values(pixel_values, self.config, most_dims=4)
        if check_weights and not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            check_finite(self)
        self._fused = fused = fused_for_inference(self, self._fused, check_weights)
        features = (
            self(pixel_values, return_dict=True).features if fused is None else self._encode(fused, pixel_values)
        )
        features = features.permute(0, 2, 3, 1)
        if self.config.similarity == "dot":
            return features
        return unit_length(features.to(torch.float32, copy=True)).to(features.dtype)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_fused": None}  # a copy makes its own

    def match(
        self,
        pixel_values_0: torch.Tensor,
        pixel_values_1: torch.Tensor,
        radius: int | None = None,
        temperature: float | None = None,
    ) -> FgvcMatchOutput:
        """
        The probabilistic map from frame 0 to frame 1 (Eq. 1 of the paper) over cosine similarities.

        Holds a map of (2r+1)^2 values per cell: 150 MiB for a 256x256 frame at stride 2 and r = 24.

        Args:
            pixel_values_0, pixel_values_1 (`torch.Tensor` of shape `(batch, 3, H, W)`): The two frames, processed.
            radius (`int`, *optional*): Window radius r in cells, from 0 to 1024; `config.window_radius` if not given.
            temperature (`float` or `torch.Tensor` of shape `()`, *optional*): Positive; `config.temperature` if not given.

        Returns:
            [`FgvcMatchOutput`].

        Raises:
            `ValueError`: the frames differ in shape, an argument is outside its range, or `config.output_stride` is not that of the encoder.
        """
        for pixel_values in (pixel_values_0, pixel_values_1):
            if not isinstance(pixel_values, torch.Tensor):
                raise ValueError(f"match needs two tensors, got {type(pixel_values).__name__}.")
        if pixel_values_0.shape != pixel_values_1.shape or pixel_values_0.ndim != 4:
            shapes = f"{tuple(pixel_values_0.shape)} and {tuple(pixel_values_1.shape)}"
            raise ValueError(f"match needs two batches of one shape (batch, 3, height, width), got {shapes}.")
        radius = self.config.window_radius if radius is None else whole_number("radius", radius)
        accepted, most = FIELDS["temperature"], MOST["window_radius"]
        if isinstance(temperature, torch.Tensor) and temperature.ndim == 0:
            temperature = temperature.item()
        temperature = accepted.normalised(self.config.temperature if temperature is None else temperature)
        if not 0 <= radius <= most or temperature not in accepted:
            problem = f"got {radius} and {temperature!r:.100}"
            raise ValueError(f"radius must be from 0 to {most} and temperature {accepted}, {problem}.")
        features_0, features_1 = self.normalized_features(pixel_values_0), self.normalized_features(pixel_values_1)
        check_stride(pixel_values_0, features_0, self.config)
        log_probs = probability_map(features_0, features_1, radius, temperature)  # (B, h, w, (2r+1)^2)
        probs = log_probs.exp()
        axis = torch.arange(-radius, radius + 1, device=probs.device, dtype=probs.dtype)
        offsets = torch.cartesian_prod(axis, axis).flip(-1)  # (dx, dy) in dy-major order
        entropy = -(probs * log_probs.masked_fill(probs == 0, 0)).sum(dim=-1)
        best_back = window_correlation(features_1, features_0, radius).argmax(dim=-1)
        return FgvcMatchOutput(
            log_probs=log_probs,
            flow=probs @ offsets * self.config.output_stride,
            entropy=entropy,
            occluded=~_returns_to_itself(log_probs.argmax(dim=-1), best_back, radius),
        )

    @torch.inference_mode()
    def step(self, inference_session: FgvcInferenceSession, frame, frame_idx: int | None = None) -> FgvcVideoOutput:
        """
        Propagate all targets of a session to its next frame: from a live source, or in any order of one's own.

        Args:
            inference_session ([`FgvcInferenceSession`]): Memory and targets; both are updated.
            frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8, or `PIL.Image.Image`): The frame, RGB.
            frame_idx (`int`, *optional*): Its number; one more than the frame before if not given.

        Returns:
            [`FgvcVideoOutput`] in pixels of the original video. A target prompted on this very frame is where the prompt says.

        Raises:
            `ValueError`: the frame is of another size than those before, its number is no whole number of 0 or more, another model has
            stepped the session, or `config.output_stride` is not that of the encoder.
        """
        session = inference_session
        frame_idx = session.next_frame_idx if frame_idx is None else whole_number("frame_idx", frame_idx)
        if frame_idx < 0:
            raise ValueError(f"frame_idx must be 0 or more, got {frame_idx}.")
        pixel_values = session.preprocess(frame, self.device)  # (1, 3, H, W)
        session.bind(self)
        with evaluation_mode(self):
            features = self.normalized_features(pixel_values, check_weights=not session.weights_checked)
        if not session.weights_checked:
            check_stride(pixel_values, features, self.config)
        session.weights_checked = True
        session.propagate(EncodedFrame.of(features[0], pixel_values[0], session.last_image), frame_idx)
        return session.read()

    def propagate_in_video_iterator(
        self,
        inference_session: FgvcInferenceSession,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        show_progress_bar: bool = False,
    ) -> Iterator[FgvcVideoOutput]:
        """
        Propagate the targets of a session through its video, one frame at a time, in memory constant in clip length.

        Args:
            inference_session ([`FgvcInferenceSession`]): A session with a video and at least one target.
            start_frame_idx (`int`, *optional*):
                First frame to process; the earliest frame with a prompt if not given (the latest, in reverse).
            max_frame_num_to_track (`int`, *optional*): Frames to process after the first; all if not given.
            reverse (`bool`, defaults to `False`): Process the video backwards.
            show_progress_bar (`bool`, defaults to `False`): Show a progress bar on standard error.

        Yields:
            [`FgvcVideoOutput`] for each frame processed.

        Raises:
            `ValueError`: as of [`~FgvcModel.step`], there is nothing to process, or another iterator over the session was begun since.
        """
        session = inference_session
        order = session.ordered_frames(start_frame_idx, max_frame_num_to_track, reverse)
        session.reset_tracking_data()
        session.passes += 1
        own = session.passes
        desc = "tracking back" if reverse else "tracking"
        disable = None if show_progress_bar else True  # None: silent where standard error is no terminal
        for frame_idx, frame in tqdm(order, desc=desc, unit=" frames", disable=disable):
            if session.passes != own:
                raise ValueError("inference_session is propagated by another iterator since; make a session for each.")
            yield self.step(session, frame, frame_idx)


@contextmanager
def evaluation_mode(model: nn.Module) -> Generator[None, None, None]:
    """A context in which no module is in training mode, so that inference changes no running statistics.

    Modes are as before after it; where threads share a model, after the last of them.
    """
    with CHANGING_MODES:
        training = [module for module in modules_of(model) if module.training or id(module) in EVALUATED]
        for module in training:
            module.training = False
            EVALUATED[id(module)] = EVALUATED.get(id(module), 0) + 1
    try:
        yield
    finally:
        with CHANGING_MODES:
            for module in training:
                EVALUATED[id(module)] -= 1
                if not EVALUATED[id(module)]:
                    del EVALUATED[id(module)]
                    module.training = True


def _returns_to_itself(best: torch.Tensor, best_back: torch.Tensor, radius: int) -> torch.Tensor:
    """Whether following the best match of each cell, (B, h, w) window indices, and that one's own, leads back to it."""
    batch, h, w = best.shape
    size = 2 * radius + 1
    y, x = torch.meshgrid(torch.arange(h, device=best.device), torch.arange(w, device=best.device), indexing="ij")
    y1, x1 = y + best // size - radius, x + best % size - radius  # (B, h, w)
    back = best_back.flatten(1).gather(1, (y1 * w + x1).flatten(1)).view(batch, h, w)
    return (y1 + back // size - radius == y) & (x1 + back % size - radius == x)


__all__ = [
    "FgvcAttentionLayer",
    "FgvcCoarseToFineHead",
    "FgvcEncoder",
    "FgvcMatchOutput",
    "FgvcModel",
    "FgvcModelOutput",
    "FgvcPreTrainedModel",
    "evaluation_mode",
]
