"""Which patches the template memory gives back, by value."""

import pytest
import torch

from fgvc_hf.matching.patches import patch_weights
from fgvc_hf.tracking.prompts import PointLooks
from fgvc_hf.tracking.template_memory import TemplateMemory


SLOTS, SHARE = 3, 1.5


def remembered(trust):
    """A memory of two points of one cell and one channel: their first patches are 100 and 200, those of frame t are 10 * t and 10 * t + 1."""
    memory = TemplateMemory.of(torch.zeros(0, 1, 1), torch.zeros(0, 3, 3), SLOTS)
    first, images = torch.tensor([100.0, 200.0]).view(2, 1, 1), torch.tensor([-1.0, -2.0]).view(2, 1, 1)
    memory.join(TemplateMemory.of(first, images.expand(2, 3, 3).contiguous(), SLOTS))
    for t, trusted in enumerate(trust):
        features = torch.tensor([10.0 * t, 10.0 * t + 1]).view(1, 2, 1)
        images = torch.tensor([float(t), t + 0.5]).view(2, 1, 1).expand(2, 3, 3)
        cells, seen = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([True, True])
        memory.update(slice(0, 2), features, cells, images, torch.ones(2, 1, 1), torch.tensor(trusted), seen, 0.5)
    return memory


def test_five_slots_hold_patches_of_one_to_sixteen_frames_back():
    """Written out: which frames are in memory at frame 16, and after it."""
    memory, held, rows = TemplateMemory.of(torch.zeros(1, 1, 1), torch.zeros(1, 3, 3), 5), [0] * 5, slice(0, 1)
    for frame in range(1, 60):
        memory.count = torch.tensor([frame - 1])
        ages, [given] = [frame - at if at else None for at in held], memory.ages(rows).tolist()
        assert all(age == own or age is None and own >= frame for age, own in zip(ages, given, strict=True))
        assert frame == 1 or (min(given) == 1 and (frame < 17 or max(given) in range(9, 17)))
        if frame == 8:
            assert ages == [1, 2, 4, None, None]
        if frame in (16, 32, 48):
            assert ages == [1, 2, 4, 8, None if frame == 16 else 16]
        if frame == 23:
            assert ages == [2, 1, 3, 15, 7]
        held[memory.next_slot(rows).item()] = frame


def test_every_point_has_slots_of_its_own():
    """One that was added two frames later than the other: its frames go by its own count."""
    memory = remembered([(True, True)] * 2)
    memory.join(TemplateMemory.of(torch.zeros(1, 1, 1), torch.zeros(1, 3, 3), SLOTS))
    assert memory.next_slot(slice(0, 3)).tolist() == [0, 0, 0] and memory.count.tolist() == [2, 2, 0]
    features, cells = torch.tensor([[[5.0], [6.0], [7.0]]]), torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    yes, images = torch.ones(3, dtype=torch.bool), torch.zeros(3, 3, 3)
    for _ in range(2):
        memory.update(slice(0, 3), features, cells, images, torch.ones(3, 1, 1), yes, yes, 0.5)
    assert memory.recent[:, :, 0, 0].tolist() == [[5, 10, 5], [6, 11, 6], [7, 7, 0]]
    assert memory.next_slot(slice(1, 3)).tolist() == [0, 0] and memory.ages(slice(1, 3)).tolist() == [
        [2, 3, 1],
        [2, 1, 3],
    ]


def test_the_mean_template_is_of_the_first_patch_and_of_the_trusted_ones_in_memory():
    """Frames 1 to 6, whose patches are 0, 10, ..., 50: slots hold those of frames 5, 6 and 4."""
    memory = remembered([(True, True)] * 4 + [(True, False), (True, True)])
    mean = memory.mean(slice(0, 2), SHARE).flatten()
    first = (1.5 * 100 + 40 + 50 + 30) / 4.5
    second = (1.5 * 200 + 51 + 31) / 3.5  # frame 5 was not trusted
    torch.testing.assert_close(mean, torch.tensor([first, second]))
    one = remembered([(True, True)]).mean(slice(0, 2), SHARE).flatten()  # one frame alone is there
    torch.testing.assert_close(one, torch.tensor([1.5 * 100 / 2.5, (1.5 * 200 + 1) / 2.5]))


@pytest.mark.parametrize(
    ("back", "slots"), [((1, 2, 8), [1, 0, 2]), ((1,), [1]), ((3, 9), [2, 2]), ((2,), [0]), ((), [])]
)
def test_images_are_the_first_and_those_nearest_to_ages_and_untrusted_ones_are_not_used(back, slots):
    """In the slots are those of 2, 1 and 3 frames back."""
    memory = remembered([(True, True)] * 4 + [(True, False), (True, True)])
    assert memory.ages(slice(0, 2)).tolist() == [[2, 1, 3]] * 2
    patches, known = memory.images(slice(0, 2), back)
    values, trusted = [[4, 4.5], [5, 5.5], [3, 3.5]], [[True, False], [True, True], [True, True]]
    assert patches[:, :, 1, 1].tolist() == [[-1, -2], *(values[slot] for slot in slots)]
    assert known.tolist() == [[True, True], *(trusted[slot] for slot in slots)]


def test_of_two_images_as_near_to_an_age_that_in_the_first_slot_is_taken():
    """Slots hold those of 1, 4 and 2 frames back, which are frames 5, 2 and 4."""
    memory = remembered([(True, True)] * 5)
    assert memory.ages(slice(0, 1)).tolist() == [[1, 4, 2]]
    assert memory.images(slice(0, 1), (3,))[0][:, 0, 1, 1].tolist() == [-1, 1]


def test_the_similarity_of_a_cell_is_an_average_over_frames_on_which_the_point_was_visible():
    memory = TemplateMemory.of(torch.zeros(0, 1, 2), torch.zeros(0, 3, 3), SLOTS)
    memory.join(TemplateMemory.of(torch.tensor([[[1.0, 0.0]]]), torch.zeros(1, 3, 3), SLOTS))
    assert memory.similarity.tolist() == [[1.0]]
    for seen, expected in ((True, 0.4 + 0.6 * 0.6), (False, 0.4 + 0.6 * 0.6), (True, 0.4 * 0.76 + 0.6 * 0.6)):
        features, mean = torch.tensor([[[0.6, 0.8]]]), torch.tensor([[[1.0, 0.0]]])
        arguments = features, torch.zeros(1, 2), torch.zeros(1, 3, 3), mean, torch.tensor([True])
        memory.update(slice(0, 1), *arguments, torch.tensor([seen]), 0.6)
        assert float(memory.similarity[0, 0]) == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_cells_that_stayed_similar_weigh_more(temperature):
    memory = TemplateMemory.of(torch.zeros(0, 9, 1), torch.zeros(0, 3, 3), SLOTS)
    memory.join(TemplateMemory.of(torch.ones(1, 9, 1), torch.zeros(1, 3, 3), SLOTS))
    memory.similarity = torch.tensor([[0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]])
    weights = memory.cell_weights(slice(0, 1), 1, temperature)[0]
    place = patch_weights(1)
    ratio = float(weights[0] / weights[8] * place[8] / place[0])
    assert ratio == pytest.approx(2.718281828 ** (0.4 / temperature), rel=1e-4) and float(
        weights.sum()
    ) == pytest.approx(1)


def test_bytes_are_those_of_all_patches():
    memory = remembered([(True, True)] * 6)
    assert memory.recent.shape == (2, 3, 1, 1) and memory.recent_image.shape == (2, 3, 3, 3)
    first, recent, images = 2, 6, 2 * (1 + 3) * 9  # numbers of four bytes
    assert memory.nbytes == memory.bytes_of(2) == 4 * (first + recent + images)


def with_looks(first: float, *looks: float) -> TemplateMemory:
    """A point of one cell and channel with a first patch and other looks."""
    values = torch.tensor(looks, dtype=torch.float32)
    others = PointLooks(values.view(-1, 1, 1), values.view(-1, 1, 1).expand(-1, 3, 3))
    return TemplateMemory.of(
        torch.full((1, 1, 1), float(first)), torch.full((1, 3, 3), float(first)), SLOTS, [others if looks else None]
    )


def test_other_looks_cost_only_where_there_are_and_count_for_their_points():
    """A patch for the mean of each point, and the images of as many looks as a point has most."""
    memory = remembered([(True, True)] * 4)
    alone, recent = memory.nbytes, memory.mean(slice(0, 2), SHARE)
    bound = memory.bytes_of(1, 2)
    memory.join(with_looks(1, 4, 7))
    assert memory.references.flatten().tolist() == [100, 200, 4]
    torch.testing.assert_close(memory.mean(slice(0, 2), SHARE), recent)
    torch.testing.assert_close(memory.mean(slice(2, 3), SHARE).flatten(), torch.tensor([4.0]))
    assert memory.nbytes == alone + bound == 4 * 3 * (1 + 1 + 3 + (1 + 3 + 2) * 9)
    bound = memory.bytes_of(1)
    memory.join(with_looks(9))
    assert memory.references.flatten().tolist() == [100, 200, 4, 9]
    assert memory.nbytes == alone + alone // 2 + bound + 4 * 3 * (1 + 2 * 9)
    patches, known = memory.images(slice(0, 4), ())
    assert patches[:, 2, 0, 0].tolist() == [1, 4, 7] and known.tolist() == [
        [True] * 4,
        *[[False, False, True, False]] * 2,
    ]
    memory.keep([0, 1, 3])
    assert (
        memory.references.flatten().tolist() == [100, 200, 9] and memory.nbytes == memory.bytes_of(3) == alone * 3 // 2
    )
    for tensor in (memory.reference, memory.look_images, memory.known):
        assert tensor.untyped_storage().nbytes() == 0  # nothing holds on to what was dropped
    few = with_looks(1, 4)
    few.join(with_looks(2, 5, 8))
    assert few.references.flatten().tolist() == [2.5, 5] and few.known.tolist() == [[True, True], [False, True]]
