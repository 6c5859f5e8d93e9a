"""The model classes, registered with transformers' Auto classes and pipelines."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from ..configuration_fgvc import FgvcConfig
from ..image_processing_pil_fgvc import FgvcImageProcessorPil
from ..modeling_fgvc import FgvcModel
from ..pipelines import register as register_pipelines
from ..processing_fgvc import FgvcProcessor


AutoConfig.register("fgvc", FgvcConfig, exist_ok=True)
AutoModel.register(FgvcConfig, FgvcModel, exist_ok=True)
AutoImageProcessor.register(FgvcConfig, image_processor_classes={"pil": FgvcImageProcessorPil}, exist_ok=True)
AutoProcessor.register(FgvcConfig, FgvcProcessor, exist_ok=True)
register_pipelines()

__all__ = ["FgvcConfig", "FgvcImageProcessorPil", "FgvcModel", "FgvcProcessor"]
