"""A graph as a detection backbone; with torchvision's heads where torchvision is installed."""

import json
from pathlib import Path

import pytest
import torch

from ghostnas.errors import InputError
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.paper import detection

try:  # a build for another PyTorch raises more than ImportError
    import torchvision

    HAVE = bool(torchvision)
except Exception:
    HAVE = False
needs_torchvision = pytest.mark.skipif(not HAVE, reason="torchvision is not installed")


@pytest.mark.parametrize(
    ("network", "channels"),
    [
        ("ghostnet", (24, 40, 112, 160)),
        ("mobilenetv3-large", (24, 40, 112, 160)),
        ("mobilenetv2", (24, 32, 96, 320)),
        ("resnet50", (256, 512, 1024, 2048)),
    ],
)
def test_features_are_the_ends_of_blocks_at_strides_4_to_32(
    network: str, channels: tuple[int, ...]
) -> None:
    graph = zoo.graph(network)
    shapes = [graph.nodes[index].shape for index in detection.feature_nodes(graph)]
    assert [shape[0] for shape in shapes] == list(channels)
    assert [shape[1] for shape in shapes] == [56, 28, 14, 7]


def test_a_network_without_a_stride_is_refused() -> None:
    with pytest.raises(InputError, match="stride 8"):
        detection.feature_nodes(zoo.graph("resnet56"), (8,))


def test_the_backbone_takes_images_of_any_size_and_given_weights() -> None:
    graph = zoo.graph("ghostnet", 0.5)
    weights = random_weights(graph, 5)
    backbone = detection.Backbone(graph, detection.STRIDES, weights)
    maps = backbone(torch.zeros(2, 3, 96, 160))
    assert {name: tuple(each.shape) for name, each in maps.items()} == {
        "4": (2, 12, 24, 40),
        "8": (2, 20, 12, 20),
        "16": (2, 56, 6, 10),
        "32": (2, 80, 3, 5),
    }
    stem = backbone.net.state_dict()["conv_stem.weight"]
    assert torch.equal(stem, torch.from_numpy(weights["conv_stem.weight"]))


def test_a_made_set_is_cocos_format_and_is_read_back(tmp_path: Path) -> None:
    made = detection.make_boxes(tmp_path, 5)
    assert made.classes == detection.MADE_CLASSES
    assert len(made.examples) == 5
    for example in made.examples:
        for left, top, right, bottom in example.boxes:
            assert 0 <= left < right <= detection.MADE_SIZE
            assert 0 <= top < bottom <= detection.MADE_SIZE
        assert set(example.labels) <= {1, 2}
    assert detection.make_boxes(tmp_path, 5) == made


def test_crowds_and_flat_boxes_are_left_out_and_classes_renumbered(tmp_path: Path) -> None:
    made = detection.make_boxes(tmp_path, 2)
    document = json.loads((tmp_path / "annotations.json").read_text())
    document["categories"] = [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}]
    document["annotations"] = [
        {"image_id": 0, "category_id": 90, "bbox": [1, 2, 10, 20]},
        {"image_id": 0, "category_id": 7, "bbox": [1, 2, 10, 20], "iscrowd": 1},
        {"image_id": 1, "category_id": 7, "bbox": [1, 2, 0, 20]},
    ]
    (tmp_path / "a.json").write_text(json.dumps(document))
    found = detection.read_coco(tmp_path / "a.json", tmp_path)
    assert found.classes == ("train", "toothbrush")
    [example] = found.examples
    assert example.path == made.examples[0].path
    assert example.boxes == ((1.0, 2.0, 11.0, 22.0),)
    assert example.labels == (2,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not in COCO's format"),
        ('{"images": [], "annotations": []}', "is not in COCO's format"),
        ('{"images": [], "annotations": [], "categories": []}', "has no boxes"),
        (
            '{"images": [{"id": 1, "file_name": "no.png"}], "categories": [{"id": 1, "name": "a"}],'
            ' "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}]}',
            "names .*no.png, which is not there",
        ),
    ],
)
def test_damaged_annotations_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=message):
        detection.read_coco(tmp_path / "a.json", tmp_path)


@pytest.mark.skipif(HAVE, reason="torchvision is installed")
def test_without_torchvision_the_error_says_what_to_install() -> None:
    with pytest.raises(InputError, match="pip install torchvision"):
        detection.detector("retinanet", zoo.graph("ghostnet"), 3, 128)


@needs_torchvision
@pytest.mark.parametrize("kind", ["retinanet", "fasterrcnn"])
def test_detectors_learn_a_made_set(tmp_path: Path, kind: detection.Detector) -> None:
    made = detection.make_boxes(tmp_path, 8)
    model = detection.detector(kind, zoo.graph("ghostnet", 0.35), 3, detection.MADE_SIZE)
    trained = detection.train(model, made, steps=30, learning_rate=2e-3)
    assert trained.last < 0.8 * trained.first
    model.eval()
    with torch.no_grad():
        [found] = model([detection._pixels(made.examples[0].path)])
    assert found["boxes"].shape[1] == 4
    assert len(found["boxes"]) == len(found["scores"])
