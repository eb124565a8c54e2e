"""What is written into a folder: every format and dtype, verified, and all or none of it."""

import io
import json
import random
import zipfile
from dataclasses import asdict, replace

import numpy as np
import onnx
import onnxruntime
import pytest
import small
import torch
from ai_edge_litert.interpreter import Interpreter

from ghostnas import files
from ghostnas.backends import onnx_writer, quantization, tflite_writer
from ghostnas.backends.model_file import open_model
from ghostnas.backends.torch_module import net_of, weights_of
from ghostnas.data.images import Pictures
from ghostnas.deployment import bundle, verify
from ghostnas.deployment.model_card import Latency, Origin
from ghostnas.deployment.samples import Evaluation, batches
from ghostnas.errors import ExportError, InputError
from ghostnas.ir import weights
from ghostnas.ir.fusion import fold
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import Arch, Head, Stage, Stem, fit_to, load, lower
from ghostnas.networks.blocks import GhostBlock, MBConv
from ghostnas.processes import processor
from ghostnas.training.initialization import fresh

OFFERED = [(kind, dtype) for kind, about in bundle.FORMATS.items() for dtype in about.dtypes]
WIDENED = 6  # as if calibrated on images with that much more contrast
KNOWN = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), classes=("cat", "dog", "été"))


def tiny(activation="relu", classes=3):
    ghost = GhostBlock(hidden_channels=16, out_channels=8, stride=2, se_ratio=0.25)
    mobile = MBConv(hidden_channels=12, out_channels=8, activation=activation)
    return Arch(
        stem=Stem(channels=8, activation=activation),
        stages=(Stage(blocks=(ghost, mobile)),),
        head=Head(channels=16, features=16),
        resolution=24,
        classes=classes,
    )


def pictures(arch, count, seed=0):
    """Smooth images, normalised, (count, 3, height, width)."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(count, 3, 5, 5)).astype(np.float32))
    size = (arch.resolution, arch.resolution)
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic").numpy()


def trained_like(arch, seed=0):
    """Random weights whose batch norms hold the statistics of images, as after training."""
    net = net_of(lower(arch), random_weights(lower(arch), seed)).train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net(torch.from_numpy(pictures(arch, 64, seed)))
    return weights_of(net)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A full export: arch, weights, images, folder and the reported results."""
    arch, folder = tiny(), tmp_path_factory.mktemp("whole") / "new" / "export"
    values, images = trained_like(arch), pictures(arch, 32, seed=1)
    exported = []
    for dtypes in (["fp32", "fp16"], ["fp32", "fp16", "int8"]):
        formats = ["onnx", "tflite"] if "int8" in dtypes else ["torch"]
        exported += bundle.export(
            arch,
            values,
            formats,
            folder / ("int8" if "int8" in dtypes else "torch"),
            dtypes=dtypes,
            preprocessing=KNOWN,
            calibration=images,
        )
    return arch, values, images, folder, exported


def torch_logits(arch, values, images):
    with torch.inference_mode():
        return net_of(lower(arch), values)(torch.from_numpy(images)).numpy()


def relative(logits, expected):
    return np.abs(logits - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("kind", "dtype"), OFFERED)
def test_the_report_matches_the_file(whole, kind, dtype):
    arch, values, images, _, exported = whole
    (found,) = [each for each in exported if (each.format, each.dtype) == (kind, dtype)]
    end = "" if dtype == "fp32" else f"-{dtype}"
    assert found.path.name == f"model{end}{bundle.FORMATS[kind].suffix}"
    assert found.size_bytes == found.path.stat().st_size
    model = open_model(found.path)
    assert (model.format, model.dtype, model.classes) == (kind, dtype, 3)
    assert model.preprocessing_known
    assert model.preprocessing == KNOWN
    images = images[: found.images]
    expected = torch_logits(arch, values, images)
    logits = model.run(images)
    # Sums may round differently with a different memory layout.
    assert relative(logits, expected) == pytest.approx(found.difference, abs=1e-6)
    same = (logits.argmax(1) == expected.argmax(1)).mean()
    assert (same, len(images)) == (found.agreement, 32 if kind == "torch" else 16)
    assert found.accuracy is None
    assert json.loads(json.dumps(found.to_json()))["bytes"] == found.size_bytes


def test_dtypes_differ_as_they_should(whole):
    *_, exported = whole
    for kind in ("onnx", "tflite"):
        of = {each.dtype: each for each in exported if each.format == kind}
        assert of["fp32"].difference < 1e-5 < of["fp16"].difference < of["int8"].difference


def test_xnnpack_takes_a_tflite_file_in_one_part_and_its_ops_are_the_networks(whole):
    *_, exported = whole
    lites = [each for each in exported if each.format == "tflite"]
    for each in lites:
        assert each.xnnpack_parts == 1
        counts = [each.ops[name] for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]
        assert counts == [10, 5, 1]
    assert [each.ops.get("DEQUANTIZE", 0) for each in lites] == [0, 32, 0]


def test_the_folder_is_self_contained(whole):
    arch, values, _, folder, _ = whole
    names = sorted(path.name for path in (folder / "int8").iterdir())
    models = [f"model{end}.{kind}" for kind in ("onnx", "tflite") for end in ("", "-fp16", "-int8")]
    papers = ["README.md", "arch.json", "export.json", "preprocessing.json", "model.safetensors"]
    assert names == sorted(models + papers)
    assert sorted(path.name for path in folder.iterdir()) == ["int8", "torch"]
    assert load(folder / "int8" / "arch.json") == arch
    file = folder / "int8" / "model.safetensors"
    assert weights.load(file).keys() == values.keys()
    assert weights.preprocessing_of(file) == KNOWN
    listed = json.loads((folder / "int8" / "export.json").read_text())
    assert {row["file"] for row in listed["files"]} == {*models, "model.safetensors"}


def test_onnx_has_named_float_ends_any_batch_and_states_its_preprocessing(whole):
    *_, folder, _ = whole
    for end in ("", "-fp16", "-int8"):
        path = folder / "int8" / f"model{end}.onnx"
        onnx.checker.check_model(onnx.load(path), full_check=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (image,), (logits,) = session.get_inputs(), session.get_outputs()
        assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["N", 3, 24, 24])
        assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["N", 3])
        texts = session.get_modelmeta().custom_metadata_map
        assert json.loads(texts["ghostnas.preprocessing"])["classes"] == list(KNOWN.classes)


def test_int8_onnx_is_qdq_with_a_scale_for_each_channel(whole):
    *_, folder, _ = whole
    model = onnx.load(folder / "int8" / "model-int8.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    assert not any("QLinear" in kind or "Integer" in kind for kind in kinds)
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    kernels = [name for name in constants if name.endswith("conv_stem.weight_quantized")]
    assert [constants[name].dtype for name in kernels] == [np.int8]
    assert constants["conv_stem.weight_scale"].shape == (8,)


def test_tflite_has_its_signature_labels_and_mobile_metadata(whole):
    *_, folder, _ = whole
    for end, dtype in (("", np.float32), ("-fp16", np.float32), ("-int8", np.int8)):
        content = (folder / "int8" / f"model{end}.tflite").read_bytes()
        interpreter = Interpreter(model_content=content)
        signature = interpreter.get_signature_list()["serving_default"]
        assert signature == {"inputs": ["image"], "outputs": ["logits"]}
        assert interpreter.get_input_details()[0]["dtype"] == dtype
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.read("labels.txt").decode().split() == list(KNOWN.classes)


def test_pt2_loads_with_torch_alone_and_takes_any_batch(whole):
    arch, values, images, folder, _ = whole
    texts = {"ghostnas.preprocessing": ""}
    program = torch.export.load(folder / "torch" / "model-fp16.pt2", extra_files=texts)
    assert json.loads(texts["ghostnas.preprocessing"])["mean"] == list(KNOWN.mean)
    kinds = {each.dtype for each in program.state_dict.values()}
    assert kinds == {torch.float16}
    for count in (1, 5):
        with torch.inference_mode():
            logits = program.module()(torch.from_numpy(images[:count]))
        assert logits.dtype == torch.float32
        assert relative(logits.numpy(), torch_logits(arch, values, images[:count])) < 2e-2


def test_fp16_halves_the_size_of_the_weights():
    arch = tiny(classes=200)
    graph = lower(arch)
    values = random_weights(graph, 0)
    for writer in (onnx_writer, tflite_writer):
        whole, half = (len(writer.write(graph, values, half=half)) for half in (False, True))
        graph_alone = 2 * half - whole
        kept = sum(each.size for each in fold(graph, values)[1].values())
        assert 0 < graph_alone < 20_000
        assert whole - half > 0.5 * 2 * kept


def test_maps_that_are_dead_in_all_images_do_not_prevent_int8(tmp_path):
    """As in trained networks: XNNPACK rejects a scale of 0."""
    arch = tiny()
    values = trained_like(arch)
    reduce = next(key for key in values if key.endswith("se.conv_reduce.bias"))
    values[reduce] = values[reduce] - np.float32(1000)
    images = pictures(arch, 32)
    exported = bundle.export(
        arch, values, ["tflite", "onnx"], tmp_path, dtypes=["int8"], calibration=images
    )
    assert [each.xnnpack_parts for each in exported] == [1, None]
    assert max(each.mean_difference for each in exported) < 0.03


def test_unsupported_requests_are_rejected_with_what_is_supported(tmp_path):
    arch = tiny()
    values, images = random_weights(lower(arch), 0), pictures(arch, 2)
    small_images = images[:, :, 1:, 1:]
    wrong = replace(KNOWN, classes=("cat", "dog"))
    nan = np.full_like(images, np.nan)
    for formats, arguments, said in [
        (["torch"], {"dtypes": ["int8"], "calibration": images}, "torch in fp32, fp16; onnx in"),
        (
            ["onnx"],
            {"dtypes": ["int8"]},
            "int8 takes its ranges from images: provide some with --data",
        ),
        (["onnx"], {"calibration": small_images}, r"one or more of \(3, 24, 24\)"),
        (["onnx"], {"calibration": images[:0]}, r"one or more of \(3, 24, 24\)"),
        (["onnx"], {"calibration": nan}, "not finite"),
        (
            ["onnx"],
            {"dtypes": ["int8"], "calibration": images[:1]},
            "int8 needs 2 or more images: some calibrate, others verify",
        ),
        (["onnx"], {"preprocessing": wrong}, "names 2 classes, the network has 3"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            bundle.export(arch, values, formats, tmp_path / "out", **arguments)
        assert "\n" not in str(caught.value)
    for parse, text in [(bundle.parse_formats, "tfl"), (bundle.parse_dtypes, "fp8,int8")]:
        with pytest.raises(InputError, match=r"'(tfl|fp8)': known are (torch|fp32), "):
            parse(text)
    assert bundle.parse_dtypes(" int8,fp32,int8") == ["int8", "fp32"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_too_far_from_torch_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    arch = tiny()
    values = random_weights(lower(arch), 0)
    bundle.export(arch, values, ["onnx"], tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    honest = onnx_writer.write

    def wrong(graph, weights, *, half):
        return honest(graph, random_weights(graph, 1), half=half)

    monkeypatch.setattr(onnx_writer, "write", wrong)
    with pytest.raises(ExportError, match="onnx fp32: logits differ from torch's by"):
        bundle.export(arch, values, ["tflite", "onnx"], tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_runtimes_error_becomes_one_line(tmp_path, monkeypatch):
    arch = tiny()

    def crash(model, samples):
        raise RuntimeError("first line\nsecond \x1b[31m line")

    monkeypatch.setattr(quantization, "quantize", crash)
    with pytest.raises(
        ExportError, match=r"^tflite int8: RuntimeError: first line second"
    ) as caught:
        bundle.export(
            arch,
            random_weights(lower(arch), 0),
            ["tflite"],
            tmp_path / "out",
            dtypes=["int8"],
            calibration=pictures(arch, 2),
        )
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_int8_with_wrong_ranges_is_rejected(tmp_path, monkeypatch):
    """With a quantiser that saw images a thousand times too bright, every map is constant."""
    arch = tiny()
    honest = quantization.quantize_onnx
    monkeypatch.setattr(quantization, "quantize_onnx", lambda model, x: honest(model, 1000 * x))
    with pytest.raises(ExportError, match=r"^onnx int8: logits .* of the spread between classes"):
        bundle.export(
            arch,
            trained_like(arch),
            ["onnx"],
            tmp_path / "out",
            dtypes=["int8"],
            calibration=pictures(arch, 32),
        )


def test_weights_beyond_fp16_are_rejected_but_fp32_takes_them(tmp_path):
    arch = tiny()
    values = random_weights(lower(arch), 0)
    values["classifier.bias"] = values["classifier.bias"] + np.float32(1e5)
    with pytest.raises(ExportError, match=r"classifier\.bias contains 1e\+05, but fp16 ends at"):
        bundle.export(arch, values, ["onnx"], tmp_path / "out", dtypes=["fp16"])
    (exported,) = bundle.export(arch, values, ["onnx"], tmp_path / "out")
    assert exported.difference < verify.TOLERANCES["fp32"].largest


def test_a_folder_that_cannot_be_written_to_is_an_input_error(tmp_path):
    arch = tiny()
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "under"):
        with pytest.raises(InputError, match="file"):
            bundle.export(arch, random_weights(lower(arch), 0), ["onnx"], place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_of_an_earlier_export_of_the_same_weights_stay(tmp_path):
    arch, out = tiny(), tmp_path / "out"
    values, images = trained_like(arch), pictures(arch, 32)
    bundle.export(arch, values, ["onnx", "tflite"], out)
    files.write_whole(out / "notes.txt", b"mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    of_int8 = {"dtypes": ["int8"], "calibration": images}
    bundle.export(arch, values, ["onnx"], out, **of_int8)
    bundle.export(arch, values, ["torch"], out)
    now = {path.name: path.read_bytes() for path in out.iterdir()}
    assert now.keys() - before.keys() == {"model-int8.onnx", "model.pt2"}
    papers = {"README.md", "export.json"}
    assert all(now[name] == content for name, content in before.items() if name not in papers)
    models = {"model.onnx", "model.tflite", "model-int8.onnx", "model.pt2", "model.safetensors"}
    rows = json.loads(now["export.json"])["files"]
    assert sorted(row["file"] for row in rows) == sorted(models)
    assert all(f"`{name}` | " in now["README.md"].decode() for name in models)


def test_a_removed_file_is_no_longer_listed_and_a_rewritten_one_is_listed_once(tmp_path):
    arch, values = tiny(), random_weights(lower(tiny()), 0)
    bundle.export(arch, values, ["onnx", "tflite"], tmp_path)
    (tmp_path / "model.tflite").unlink()
    bundle.export(arch, values, ["onnx"], tmp_path)
    rows = json.loads((tmp_path / "export.json").read_text())["files"]
    assert [row["file"] for row in rows] == ["model.onnx", "model.safetensors"]


def test_only_an_export_of_these_weights_is_overwritten(tmp_path):
    arch, values, out = tiny(), random_weights(lower(tiny()), 0), tmp_path / "out"
    bundle.export(arch, values, ["onnx", "tflite"], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    wider = tiny(classes=4)
    others = [(arch, random_weights(lower(arch), 1)), (wider, random_weights(lower(wider), 0))]
    for other, its_values in others:
        with pytest.raises(InputError, match=r"another network or other weights; remove it, or"):
            bundle.export(other, its_values, ["onnx"], out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    training = tmp_path / "training"
    training.mkdir()
    (training / "arch.json").write_text("mine")
    with pytest.raises(InputError, match=r"arch\.json already exists and is not from an exp"):
        bundle.export(arch, values, ["onnx"], training)
    assert [path.name for path in training.iterdir()] == ["arch.json"]
    bundle.export(wider, others[1][1], ["onnx"], out, replace_other=True)
    assert "model.tflite" not in {path.name for path in out.iterdir()}
    assert open_model(out / "model.onnx").classes == 4


def test_latencies_of_kept_files_are_kept_too(tmp_path):
    arch, values = tiny(), random_weights(lower(tiny()), 0)
    known = [
        Latency(target=target, latency_ms=ms, low_ms=1, high_ms=9, dtype="fp32")
        for target, ms in (("here", 2.0), ("there", 3.0), ("here", 4.0))
    ]
    bundle.export(arch, values, ["tflite"], tmp_path, origin=Origin(latencies=tuple(known[:2])))
    bundle.export(arch, values, ["onnx"], tmp_path, origin=Origin(latencies=tuple(known[2:])))
    assert bundle.from_manifest(tmp_path / "export.json").latencies == (known[1], known[2])


def test_an_older_manifest_is_read_without_its_accuracy(tmp_path):
    """It was the training's, not any file's own."""
    origin = {"network": "n", "weights": "w", "pictures": "p", "accuracy": {"mean": 0.5}}
    latency = {"target": "arm", "latency_ms": 1, "low_ms": 1, "high_ms": 2}
    path = tmp_path / "export.json"
    path.write_text(json.dumps({"origin": {**origin, "latencies": [latency]}}))
    known = bundle.from_manifest(path)
    assert known == Origin(network="n", weights="w", latencies=(Latency(**latency),))


def labelled(arch, values, count=600, seed=5):
    """uint8 images on which the weights are right except on every fifth, and clearly so: sums
    that round differently change nothing.
    """
    smooth = pictures(arch, 3 * count, seed)
    mean, std = (np.array(each)[:, None, None] for each in (KNOWN.mean, KNOWN.std))
    whole = np.clip(255 * (smooth * std + mean), 0, 255).astype(np.uint8)
    logits = torch_logits(arch, values, ((whole / 255 - mean) / std).astype(np.float32))
    ordered = np.sort(logits, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 0.02 * np.abs(logits).max()
    chosen = np.flatnonzero(clear)[:count]
    assert len(chosen) == count
    labels = logits[chosen].argmax(1)
    labels[::5] = (labels[::5] + 1) % arch.classes
    return Evaluation(
        source=Pictures(images=whole[chosen].transpose(0, 2, 3, 1), labels=labels),
        classes=KNOWN.classes,
        description="test images of shapes",
        data="folder:my shapes",
        limit=count,
    )


def test_every_file_is_run_on_labelled_images_and_reports_its_own_accuracy(tmp_path):
    arch = tiny()
    # Ranges somewhat too wide, so that int8 gets different images right than float does.
    values, images = trained_like(arch), 2 * pictures(arch, 32, seed=1)
    known = labelled(arch, values)
    exported = bundle.export(
        arch,
        values,
        ["onnx", "tflite"],
        tmp_path,
        dtypes=bundle.DTYPES,
        preprocessing=KNOWN,
        calibration=images,
        evaluation=known,
    )
    rows = json.loads((tmp_path / "export.json").read_text())["files"]
    for found, row in zip(exported, rows, strict=False):
        inputs = np.concatenate([each for each, _ in batches(known.source, KNOWN, 24)])
        right = open_model(found.path).run(inputs).argmax(1) == known.source.labels
        assert found.accuracy.top1 == right.mean()
        assert (found.accuracy.torch_top1, found.images) == (pytest.approx(0.8), 600)
        assert row["accuracy"] == asdict(found.accuracy)
        command = f"ghostnas eval {found.path.name} --data 'folder:my shapes' --limit 600"
        assert found.accuracy.command == command
        assert found.processor == row["processor"] == processor()
    of_int8 = [each.accuracy.top1 for each in exported if each.dtype == "int8"]
    assert max(of_int8) < 0.8  # or this would not show that it is the file's own
    assert rows[-1]["accuracy"]["top1"] == pytest.approx(0.8)
    assert (tmp_path / "README.md").read_text().count(" | 80.00% | ") == 5


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_int8_that_loses_more_than_a_point_is_rejected(tmp_path, monkeypatch, kind):
    """With ranges that are too wide, but not enough for the logits alone to show it."""
    arch = tiny()
    values, images = trained_like(arch), pictures(arch, 64, seed=1)
    for name in ("quantize_onnx", "quantize"):
        honest = getattr(quantization, name)

        def widened(model, given, honest=honest):
            if isinstance(given, np.ndarray):
                return honest(model, WIDENED * given)
            return honest(model, [[WIDENED * each for each in sample] for sample in given])

        monkeypatch.setattr(quantization, name, widened)
    arguments = {"dtypes": ["int8"], "preprocessing": KNOWN, "calibration": images}
    (unlabelled,) = bundle.export(arch, values, [kind], tmp_path / "unlabelled", **arguments)
    assert unlabelled.typical_difference < verify.TOLERANCES["int8"].typical
    said = rf"^{kind} int8: top-1 of 600 test images of shapes is 7\d\.\d\d%, \d.* points below"
    known = labelled(arch, values)
    with pytest.raises(ExportError, match=said):
        bundle.export(arch, values, [kind], tmp_path / "out", evaluation=known, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["unlabelled"]


@pytest.mark.parametrize(
    ("lost", "won", "images", "refused"),
    [
        (0, 0, 10, False),
        (1, 0, 1, False),  # one image resolves nothing
        (5, 0, 20, True),
        (300, 200, 10_000, False),  # a point, but not with certainty
        (400, 200, 10_000, True),
        (60, 40, 1000, False),
        (80, 40, 1000, True),
        (40, 80, 1000, False),
    ],
)
def test_a_loss_counts_beyond_what_that_many_images_resolve(lost, won, images, refused):
    loss, least = verify.paired_loss(lost, won, images)
    assert loss == (lost - won) / images
    assert least < loss or lost == won == 0
    assert (least > verify.POINT) == refused


def test_images_that_verify_do_not_calibrate(tmp_path, monkeypatch):
    arch, seen = tiny(), []
    honest = quantization.quantize_onnx
    monkeypatch.setattr(quantization, "quantize_onnx", lambda m, x: seen.append(x) or honest(m, x))
    images = pictures(arch, 12)
    (found,) = bundle.export(
        arch, trained_like(arch), ["onnx"], tmp_path, dtypes=["int8"], calibration=images
    )
    np.testing.assert_array_equal(seen[0], images[6:])
    logits = open_model(found.path).run(images[:6])
    expected = torch_logits(arch, trained_like(arch), images[:6])
    assert relative(logits, expected) == pytest.approx(found.difference, abs=1e-6)


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_one_image_on_which_the_network_explodes_does_not_spoil_the_ranges(tmp_path, kind):
    arch, said = tiny(), []
    values, images = trained_like(arch), pictures(arch, 32)
    loud = images.copy()
    loud[20] *= 100
    differences = []
    for name, given in (("without", np.delete(images, 20, axis=0)), ("with", loud)):
        (found,) = bundle.export(
            arch,
            values,
            [kind],
            tmp_path / name,
            dtypes=["int8"],
            calibration=np.concatenate([images[: 32 - len(given)], given]),
            say=said.append,
        )
        differences.append(found.mean_difference)
    assert differences[1] < 1.5 * differences[0]
    assert said == [
        "1 of 16 images are left out of int8 calibration: their maps are more than 10 times as "
        "large as the median image's"
    ]


def test_an_untrained_network_has_an_int8_file(tmp_path):
    """Its logits hardly differ between images, so the top class says nothing."""
    arch = zoo.ghostnet(0.5, 64, 10)
    values = weights_of(fresh(lower(arch), 0))
    exported = bundle.export(
        arch,
        values,
        ["onnx", "tflite"],
        tmp_path,
        dtypes=["int8"],
        calibration=pictures(arch, 32),
    )
    assert len(exported) == 2


def test_int8_with_hard_swish_runs_although_xnnpack_takes_it_in_parts(tmp_path):
    arch = tiny("hard_swish")
    (exported,) = bundle.export(
        arch,
        trained_like(arch),
        ["tflite"],
        tmp_path,
        dtypes=["int8"],
        calibration=pictures(arch, 16),
    )
    assert exported.xnnpack_parts > 1


def check_random_network(folder, searched, seed, dtypes):
    rng = random.Random(seed)
    searched = replace(searched, classes=10)
    arch = searched.decode(searched.sample(rng))
    # As deployed: with last maps of 1x1, batch norms would have the statistics of only 64 numbers.
    arch = fit_to(arch, resolution=rng.choice([32, 33, 40]), classes=10)
    values, images = trained_like(arch, seed), pictures(arch, 24, seed + 1)
    pairs = [(kind, dtype) for kind, dtype in OFFERED if dtype in dtypes]
    exported = []
    for formats in (["torch"], ["onnx", "tflite"]):
        of_these = [dtype for dtype in dtypes if (formats[0], dtype) in pairs]
        out = folder / formats[0]
        exported += bundle.export(arch, values, formats, out, dtypes=of_these, calibration=images)
    assert [(each.format, each.dtype) for each in exported] == pairs
    expected = torch_logits(arch, values, images)
    for each in exported:
        apart = np.abs(open_model(each.path).run(images) - expected) / np.abs(expected).max()
        assert apart.max() <= verify.TOLERANCES[each.dtype].largest, each
        assert apart.mean() <= 0.1, each


@pytest.mark.parametrize("seed", small.numbered(100, by_default=1))
def test_random_networks_in_every_format(tmp_path, seed):
    searched = space.load(str(small.write_space(tmp_path)))
    check_random_network(tmp_path, searched, seed, bundle.DTYPES)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_random_networks_of_the_shipped_space(tmp_path, seed):
    """Not in int8: through 30 blocks of random weights its noise alone reaches 0.05 to 0.12 of the
    largest logit, in both runtimes; for a trained GhostNet it was 0.006.
    """
    check_random_network(tmp_path, space.load("ghostnet"), seed, ("fp32", "fp16"))
