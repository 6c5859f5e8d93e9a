"""transformers' shared tests of models and configurations, on FgvcModel: fine, and coarse to fine."""

import unittest

import torch
from harness import provide_shared_tests

from fgvc_hf import FgvcConfig, FgvcModel


provide_shared_tests()

from tests.test_configuration_common import ConfigTester  # noqa: E402
from tests.test_modeling_common import ModelTesterMixin  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402


# Marks FgvcModel as a bare model, which has no loss; registration at run time does not reach this table of names.
modeling_auto.MODEL_MAPPING_NAMES["fgvc"] = "FgvcModel"


class FgvcModelTester:
    batch_size, num_channels, image_size = 2, 3, 32
    is_training = True
    hidden_sizes, depths = [8, 16, 32], [1, 1, 1]
    hidden_size, num_hidden_layers = 32, 3  # residual blocks

    def __init__(self, parent):
        self.parent = parent

    def get_config(self):
        return FgvcConfig(hidden_sizes=self.hidden_sizes, depths=self.depths)

    def prepare_config_and_inputs_for_common(self):
        shape = (self.batch_size, self.num_channels, self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": torch.rand(shape)}


class FgvcCoarseToFineModelTester(FgvcModelTester):
    hidden_size = 8
    head = {"fine_size": 8, "num_attention_layers": 2, "num_attention_heads": 2, "attention_window": 2}

    def get_config(self):
        return FgvcConfig(hidden_sizes=self.hidden_sizes, depths=self.depths, **self.head)


class FgvcModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (FgvcModel,)
    has_attentions = False  # a convolutional network
    test_resize_embeddings = False  # without embeddings

    model_tester_class = FgvcModelTester

    def setUp(self):
        self.model_tester = self.model_tester_class(self)
        self.config_tester = ConfigTester(
            self,
            config_class=FgvcConfig,
            has_text_modality=False,
            common_properties=["hidden_size"],
            hidden_sizes=[8, 16, 32],
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    @unittest.skip("FGVC takes pixels: it has no token embeddings to get or set")
    def test_model_get_set_embeddings(self):
        pass

    @unittest.skip("FGVC has three stages, so it cannot have fewer than three layers")
    def test_num_layers_is_small(self):
        pass

    def test_hidden_states_output(self):
        """The shared version expects token sequences; here there is one map per block, and the channels are known."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        hidden_states = FgvcModel(config).eval()(**inputs, output_hidden_states=True).hidden_states
        self.assertEqual([state.shape[1] for state in hidden_states], [8, 8, 16, 32])
        self.assertTrue(all(state.shape[2:] == (16, 16) for state in hidden_states))


class FgvcCoarseToFineModelTest(FgvcModelTest):
    model_tester_class = FgvcCoarseToFineModelTester
    has_attentions = True  # of the head

    def test_attention_outputs(self):
        """The shared version counts layers and tokens of a whole model: here they are those of the head, and the cells of its windows."""
        tester = self.model_tester
        tester.num_hidden_layers, tester.num_attention_heads, tester.seq_length = 2, 2, 2 * 2
        super().test_attention_outputs()

    def test_hidden_states_output(self):
        """As above; the encoder pools after the stem, and its maps shrink on the way to stride 8."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        hidden_states = FgvcModel(config).eval()(**inputs, output_hidden_states=True).hidden_states
        shapes = [tuple(state.shape[1:]) for state in hidden_states]
        self.assertEqual(shapes, [(8, 8, 8), (8, 8, 8), (16, 4, 4), (32, 4, 4)])
