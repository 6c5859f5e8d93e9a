"""transformers' shared tests of image processors and processors, on ours."""

import unittest

from harness import provide_shared_tests

from fgvc_hf import FgvcImageProcessorPil, FgvcProcessor


provide_shared_tests()

from tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin  # noqa: E402
from tests.test_processing_common import ProcessorTesterMixin  # noqa: E402


class FgvcImageProcessingTester(ImageProcessingTester):
    def __init__(self, parent):
        super().__init__(parent, batch_size=3, max_resolution=60, size={"height": 24, "width": 32})

    def _get_image_processing_classes(self):
        """The shared version looks into transformers' own table of models."""
        return {"pil": FgvcImageProcessorPil}


class FgvcImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = FgvcImageProcessingTester

    @unittest.skip("FGVC has one backend, PIL, so that it installs without torchvision")
    def test_new_models_require_torchvision_backend(self):
        pass

    @unittest.skip("CIE Lab is computed from three channels; four are refused, which is tested elsewhere")
    def test_call_numpy_4_channels(self):
        pass


class FgvcProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = FgvcProcessor

    @classmethod
    def _setup_image_processor(cls):
        return FgvcImageProcessorPil(size={"height": 24, "width": 32})
