"""The model that matches and propagates with the features of the FGVC encoder.

The notable choices:

* Features leave the encoder as they are. Matching normalises them to unit length over channels in float32.
* Propagation reads top to bottom in [`FgvcModel.step`]: encode the frame, match it with the memory, carry the labels
  over, read the points off, remember.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_fgvc import FgvcConfig
from .encoder.backbone import FgvcBasicBlock, FgvcBottleneckBlock, FgvcEncoder
from .encoder.coarse_to_fine import FgvcAttention, FgvcAttentionLayer, FgvcCoarseToFineHead
from .encoder.fused_encoder import FoldedEncoder, folded_for_inference
from .hub.repository import push_to_hub
from .image_processing_pil_fgvc import FgvcImageProcessorPil
from .matching.windows import window_correlation
from .processing_fgvc import FgvcProcessor, PointTracks
from .tracking.dense_flow import at_video_size, dense_flow
from .tracking.session import FgvcInferenceSession


HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only", "subfolder")


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


@dataclass
class FgvcFlowOutput(ModelOutput):
    """
    Dense flow from one frame to another.

    Args:
        flow (`numpy.ndarray` of shape `(H, W, 2)`, float32): Displacement (x, y) of every pixel, in pixels.
        occluded (`numpy.ndarray` of shape `(H, W)`, bool): Pixels whose match leads elsewhere on the way back.
    """

    flow: np.ndarray | None = None
    occluded: np.ndarray | None = None


@dataclass
class FgvcVideoOutput(ModelOutput):
    """
    Where the targets are in one frame of a video.

    Args:
        frame_idx (`int`): The frame.
        object_ids (`list[int]`): The points that have been prompted on this frame or one processed before it.
        tracks (`torch.Tensor` of shape `(num_points, 2)`, float64): (x, y) in pixels of the model's input.
        confidence (`torch.Tensor` of shape `(num_points,)`, float32): That the points are visible, in [0, 1].
        uncertainty (`torch.Tensor` of shape `(num_points,)`, float32): Distance in pixels of the model's input by which a point that
            is visible is expected to be off.
        at_border (`torch.Tensor` of shape `(num_points,)`, bool): Whether the point was about to leave the frame when it was seen last.
        box_ids (`list[int]`): The boxes that have been prompted on this frame or one processed before it.
        boxes (`torch.Tensor` of shape `(num_boxes, 4, 2)`, float64): Their corners, (x, y) in pixels of the model's input.
        box_confidence (`torch.Tensor` of shape `(num_boxes,)`, float32): Share of the points in each that are seen and agree.
        mask_ids (`list[int]`): The masks that have been prompted on this frame or one processed before it.
        mask_maps (`torch.Tensor` of shape `(num_masks, h, w)`, float32):
            Share of each feature cell that belongs to the object; [`FgvcProcessor.post_process_masks`] makes masks of it.
    """

    frame_idx: int | None = None
    object_ids: list[int] | None = None
    tracks: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    uncertainty: torch.Tensor | None = None
    at_border: torch.Tensor | None = None
    box_ids: list[int] | None = None
    boxes: torch.Tensor | None = None
    box_confidence: torch.Tensor | None = None
    mask_ids: list[int] | None = None
    mask_maps: torch.Tensor | None = None


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
    _origin: dict[str, Any] = {}  # arguments that say which version of a repository the model is of
    push_to_hub = push_to_hub

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As of all models of transformers; the processor beside the model will be that of the same version."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info there is more
        model._origin = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        return loaded

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
    Features for pixel-wise video correspondence (FGVC, ICCV 2023), and the propagation of points through video with them.

    [`~FgvcModel.forward`] encodes frames, [`~FgvcModel.match`] maps one frame to another, [`~FgvcModel.track`] follows
    points through a video. [`~FgvcModel.propagate_in_video_iterator`] and [`~FgvcModel.step`] do the last one frame at a
    time on an [`FgvcInferenceSession`], the former over a video, the latter on frames as they come.

    Args:
        config ([`FgvcConfig`]): The encoder, and how its features are matched.
        encoder (`torch.nn.Module`, *optional*): For `config.encoder="external"`: anything that turns `(N, 3, H, W)` into feature
            maps `(N, C, h, w)`; see [`model_from_backbone`].
    """

    def __init__(self, config: FgvcConfig, encoder: nn.Module | None = None):
        super().__init__(config)
        if (encoder is None) != (config.encoder == "resnet"):
            raise ValueError("a model needs an encoder of its own exactly if config.encoder is 'external'.")
        self.encoder = FgvcEncoder(config) if encoder is None else encoder
        self.head = FgvcCoarseToFineHead(config) if config.fine_size else None
        self._folded: FoldedEncoder | None = None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> FgvcModelOutput:
        """
        Encode frames.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, H, W)` or `(batch, frames, 3, H, W)`):
                Frames as [`FgvcImageProcessorPil`] gives them.

        Returns:
            [`FgvcModelOutput`] whose `features` have the leading dimensions of `pixel_values`.
        """
        leading = pixel_values.shape[:-3]
        frames = pixel_values.flatten(0, -4).to(self.dtype)
        return FgvcModelOutput(features=self._encode(self.encoder, frames).unflatten(0, leading))

    def _encode(self, encoder: Any, frames: torch.Tensor) -> torch.Tensor:
        """Features (N, C, h, w) of frames (N, 3, H, W), by the encoder or its folded form."""
        return encoder(frames) if self.head is None else self.head(encoder.stages(frames))

    def normalized_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features of unit length (unless `config.similarity` is `"dot"`), channels last: (B, 3, H, W) to (B, h, w, C)."""
        self._folded = folded = folded_for_inference(self, self._folded)
        features = self(pixel_values).features if folded is None else self._encode(folded, pixel_values)
        features = features.permute(0, 2, 3, 1)
        if self.config.similarity == "dot":
            return features
        return F.normalize(features.float(), dim=-1).to(features.dtype)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_folded": None}  # a copy makes its own

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
            radius (`int`, *optional*): Window radius r in cells; `config.window_radius` if not given.
            temperature (`float`, *optional*): `config.temperature` if not given.

        Returns:
            [`FgvcMatchOutput`].

        Raises:
            `ValueError`: the frames differ in shape.
        """
        if pixel_values_0.shape != pixel_values_1.shape or pixel_values_0.ndim != 4:
            shapes = f"{tuple(pixel_values_0.shape)} and {tuple(pixel_values_1.shape)}"
            raise ValueError(f"match needs two batches of one shape (batch, 3, height, width), got {shapes}.")
        radius = radius or self.config.window_radius
        temperature = temperature or self.config.temperature
        features_0, features_1 = self.normalized_features(pixel_values_0), self.normalized_features(pixel_values_1)
        correlation = window_correlation(features_0, features_1, radius)  # (B, h, w, (2r+1)^2)
        log_probs = torch.log_softmax(correlation / temperature, dim=-1)
        probs = log_probs.exp()
        axis = torch.arange(-radius, radius + 1, device=probs.device, dtype=probs.dtype)
        offsets = torch.cartesian_prod(axis, axis).flip(-1)  # (dx, dy) in dy-major order
        entropy = -(probs * log_probs.masked_fill(probs == 0, 0)).sum(dim=-1)
        best_back = window_correlation(features_1, features_0, radius).argmax(dim=-1)
        return FgvcMatchOutput(
            log_probs=log_probs,
            flow=probs @ offsets * self.config.output_stride,
            entropy=entropy,
            occluded=~_returns_to_itself(correlation.argmax(dim=-1), best_back, radius),
        )

    @torch.inference_mode()
    def flow(self, frame_0, frame_1, processor: FgvcProcessor | None = None) -> FgvcFlowOutput:
        """
        Dense flow between two frames, of neighbouring times or far apart.

        Args:
            frame_0, frame_1 (`numpy.ndarray` of shape `(H, W, 3)`, uint8, or `PIL.Image.Image`): The frames, RGB, of one size.
            processor ([`FgvcProcessor`], *optional*): As of [`FgvcModel.track`].

        Returns:
            [`FgvcFlowOutput`] at the size of the frames. Motion beyond `config.search_radius` is not found.

        Raises:
            `ValueError`: the frames differ in size.
        """
        session = (processor or self._own_processor()).init_video_session()
        features = [
            self.normalized_features(session.preprocess(frame, self.device))[0] for frame in (frame_0, frame_1)
        ]
        flow, occluded = dense_flow(*features, self.config)  # (h, w, 2) cells, (h, w)
        maps = torch.cat([flow.movedim(-1, 0), occluded[None].float()])
        return FgvcFlowOutput(*at_video_size(maps, *session.sizes, self.config))

    @torch.inference_mode()
    def step(self, inference_session: FgvcInferenceSession, frame, frame_idx: int | None = None) -> FgvcVideoOutput:
        """
        Propagate all targets of a session to its next frame: from a live source, or in any order of one's own.

        Args:
            inference_session ([`FgvcInferenceSession`]): Memory and targets; both are updated.
            frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8, or `PIL.Image.Image`): The frame, RGB.
            frame_idx (`int`, *optional*): Its number; one more than the frame before if not given.

        Returns:
            [`FgvcVideoOutput`]. A target prompted on this very frame is where the prompt says.

        Raises:
            `ValueError`: the frame is of another size than those before.
        """
        session = inference_session
        frame_idx = session.next_frame_idx if frame_idx is None else frame_idx
        pixel_values = session.preprocess(frame, self.device)  # (1, 3, H, W)
        features = self.normalized_features(pixel_values)[0]  # (h, w, C)
        session.start_targets(self.config)  # those prompted since on the frame that was processed last
        session.propagate(self.config, features)
        session.remember(features, frame_idx)
        session.start_targets(self.config)  # those prompted on this frame
        return FgvcVideoOutput(frame_idx=frame_idx, **session.read_targets())

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
        """
        session = inference_session
        order = session.ordered_frames(start_frame_idx, max_frame_num_to_track, reverse)
        session.reset_tracking_data()
        desc = "tracking back" if reverse else "tracking"
        disable = None if show_progress_bar else True  # None: silent where standard error is no terminal
        for frame_idx, frame in tqdm(order, desc=desc, unit=" frames", disable=disable):
            yield self.step(session, frame, frame_idx)

    def track(
        self,
        video,
        points,
        direction: str = "forward",
        processor: FgvcProcessor | None = None,
        threshold: float | None = None,
        show_progress_bar: bool = False,
    ) -> PointTracks:
        """
        Follow points through a video.

        Args:
            video: Everything [`FgvcProcessor.init_video_session`] takes: a path, an array (T, H, W, 3), an iterator, ...
            points (array of shape `(N, 3)`): Prompts (t, x, y): frame number, and pixels of the original video.
            direction (`str`, defaults to `"forward"`):
                `"forward"` from each prompt to the end, `"backward"` from each prompt to the start, or `"both"`.
            processor ([`FgvcProcessor`], *optional*):
                Sets the working resolution. If not given, the one saved beside the model; the default one for a model that
                was not loaded from anywhere.
            threshold (`float`, *optional*): Confidence from which a point counts as visible;
                `config.visibility_threshold` if not given.
            show_progress_bar (`bool`, defaults to `False`): Show a progress bar on standard error if it is a terminal.

        Returns:
            [`PointTracks`] in pixels of the original video.

        Raises:
            `ValueError`, `OSError`: the video cannot be read, a point is outside the frame or the clip, or an argument is
            not among those accepted.
        """
        passes = _passes(direction)
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
            raise ValueError(f"points must be an array (N, 3) of (t, x, y), got shape {points.shape}.")
        if not (np.isfinite(points[:, 0]) & (points[:, 0] == np.round(points[:, 0]))).all():
            raise ValueError("points must have whole frame numbers t in (t, x, y).")
        processor = processor or self._own_processor()
        session = processor.init_video_session(video)
        for obj_id, (t, x, y) in enumerate(points):
            processor.add_inputs_to_inference_session(session, int(t), obj_id, [(x, y)])
        outputs = []
        for reverse in passes:
            outputs += self.propagate_in_video_iterator(session, reverse=reverse, show_progress_bar=show_progress_bar)
        length = 1 + max((output.frame_idx for output in outputs), default=-1)
        if points[:, 0].max() >= length:  # an iterator ends when it ends; other sources were checked before
            raise ValueError(
                f"frame_idx must be a frame of the video, 0 to {length - 1}, got {points[:, 0].max():.0f}."
            )
        threshold = self.config.visibility_threshold if threshold is None else threshold
        return processor.post_process_point_tracking(outputs, session, threshold)

    def propagate_masks(
        self,
        video,
        masks: np.ndarray,
        frame_idx: int = 0,
        direction: str = "forward",
        processor: FgvcProcessor | None = None,
        show_progress_bar: bool = False,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """
        Carry the masks of objects through a video.

        Args:
            video: Everything [`FgvcProcessor.init_video_session`] takes.
            masks (`numpy.ndarray` of shape `(H, W)`, integer): Object ids at the size of the video, 0 for the background.
            frame_idx (`int`, defaults to 0): The frame that they are of.
            direction (`str`, defaults to `"forward"`): As of [`FgvcModel.track`]; with `"both"`, first forward, then backward.
            processor ([`FgvcProcessor`], *optional*): As of [`FgvcModel.track`].
            show_progress_bar (`bool`, defaults to `False`): Show a progress bar on standard error if it is a terminal.

        Yields:
            Number of a frame, and its object ids `(H, W)`, int32.

        Raises:
            `ValueError`, `OSError`: the video cannot be read, or `masks` is of another size or holds no object.
        """
        masks = np.asarray(masks)
        if masks.ndim != 2 or masks.dtype.kind not in "iub":
            raise ValueError(f"masks must hold integer object ids (H, W), got {masks.dtype} of {masks.shape}.")
        ids = [int(i) for i in np.unique(masks) if i != 0]
        if not ids:
            raise ValueError("masks hold no object: all ids are 0.")
        processor = processor or self._own_processor()
        session = processor.init_video_session(video)
        separate = np.stack([masks == i for i in ids])
        processor.add_inputs_to_inference_session(session, frame_idx, ids, input_masks=separate)
        for reverse in _passes(direction):
            for output in self.propagate_in_video_iterator(
                session, reverse=reverse, show_progress_bar=show_progress_bar
            ):
                if direction == "both" and reverse and output.frame_idx == frame_idx:
                    continue  # given already
                yield cast(int, output.frame_idx), processor.post_process_masks(output, session)

    def _own_processor(self) -> FgvcProcessor:
        """The processor saved beside the model; the default one for a model that was not loaded from anywhere."""
        path = self.config.name_or_path
        image_processor = (
            FgvcImageProcessorPil.from_pretrained(path, **self._origin) if path else FgvcImageProcessorPil()
        )
        return FgvcProcessor(image_processor)


def _passes(direction: str) -> tuple[bool, ...]:
    """Whether each pass over the video is in reverse."""
    if direction not in ("forward", "backward", "both"):
        raise ValueError(f"direction must be 'forward', 'backward' or 'both', got {direction!r}.")
    return {"forward": (False,), "backward": (True,), "both": (False, True)}[direction]


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
    "FgvcFlowOutput",
    "FgvcMatchOutput",
    "FgvcModel",
    "FgvcModelOutput",
    "FgvcPreTrainedModel",
    "FgvcVideoOutput",
]
