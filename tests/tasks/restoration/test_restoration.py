"""Image restoration in the engine: runs from a configuration, prediction, published recipes, files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tests.engine.every_task  # noqa: F401  registers all types
import visionssm
from tests.children import environment
from tests.configs import CONFIGS, shipped_config
from tests.engine.tiny import assert_equal_weights, logged
from visionssm.checkpoints import CheckpointError
from visionssm.cli import predict
from visionssm.cli.launch import evaluate, train
from visionssm.engine.config import check_config, check_data, load_config
from visionssm.engine.errors import ConfigError, DatasetError
from visionssm.engine.task import Source
from visionssm.heads.restoration import VARIANTS
from visionssm.prediction import load_predictor, predict_files, predict_share, together
from visionssm.tasks.restoration import results as results_module
from visionssm.tasks.restoration.model import ImageRestorer
from visionssm.tasks.restoration.photo import read_photo, write_png
from visionssm.tasks.restoration.predictor import Restorer
from visionssm.tasks.restoration.textures import RenderedTextures

SPEC = {"size": 40, "train": 4, "val": 2, "test": 1}
TINY = {"dim": 8, "depths": (1,), "d_state": 1}
CONFIG = """
_changes = dict(dim=8, depths=[1], d_state=1)
model = dict(type="ImageRestorer", name="mambair_nano_x2", changes=_changes, tile=16, overlap=4)
_pairs = dict(type="RenderedTextures", root={root!r}, spec={spec!r}, degradation=dict(type="downscale", scale=2))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"), dataset=dict(split="train", patch=8, **_pairs))
val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"), dataset=dict(split="val", **_pairs))
val_evaluator = dict(type="RestorationMetric")
val_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=2)
optim_wrapper = dict(optimizer=dict(type="Adam", lr=1e-3))
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.1, update_buffers=True),
    dict(type="PredictionPicturesHook")]
default_hooks = dict(logger=dict(type="LoggerHook", interval=1),
                     checkpoint=dict(type="SafeCheckpointHook", save_best="psnr"))
env_cfg = dict(cpu_threads=1)
randomness = dict(seed=3)
"""


def write_config(folder: Path) -> Path:
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(root=str(folder.parent / "sets"), spec=SPEC))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a finished run of four steps."""
    folder = tmp_path_factory.mktemp("restoration") / "run"
    folder.mkdir()
    train(write_config(folder), work_dir=folder)
    return folder


def test_run_writes_weights_and_pictures_and_its_checkpoint_says_what_it_needs(run: Path) -> None:
    with Image.open(run / "predictions.png") as image:
        assert np.asarray(image).std() > 5
    assert len(logged(run, "loss_pixels")) == 4
    assert logged(run, "psnr_before")[-1] > 10
    meta = torch.load(run / "best.pth", weights_only=True)["meta"]["visionssm"]
    assert meta["task"] == "restoration"
    assert meta["degradation"] == {"type": "downscale", "scale": 2}
    assert (meta["model"]["tile"], meta["model"]["overlap"]) == (16, 4)


def test_resumed_run_ends_with_the_same_bits_and_evaluation_writes_every_image(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    train(write_config(folder), work_dir=folder, resume=str(run / "epoch_1.pth"))
    assert_equal_weights(run / "epoch_2.pth", folder / "epoch_2.pth")
    figures = evaluate(
        run / "tiny.py", run / "epoch_2.pth", work_dir=tmp_path, pictures=tmp_path / "p", out=tmp_path / "x.csv"
    )
    assert figures["psnr"] == pytest.approx(logged(run, "psnr")[-1], rel=1e-5)
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["000000.png", "000001.png"]
    assert (tmp_path / "x.csv").read_text().splitlines()[1].startswith("000000.png,")


def test_images_are_written_beside_their_files_or_into_a_folder_with_a_comparison(run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30, 4)).astype(np.uint16)
    write_png(pixels, photos / "deep.png")
    Image.fromarray((pixels[..., :3] >> 8).astype(np.uint8)).save(photos / "photo.jpg")
    Image.new("L", (1, 1), 128).save(photos / "dot.png")
    (photos / "corrupt.png").write_bytes(b"no image")
    assert predict.main([str(run / "best.pth"), str(photos), "--device", "cpu"]) == 0
    made = {path.name for path in photos.iterdir() if "restored" in path.name}
    assert made == {"deep.png.restored.png", "photo.jpg.restored.png", "dot.png.restored.png"}
    deep = read_photo(photos / "deep.png.restored.png", 10**6)
    assert (deep.bits, deep.pixels.shape, deep.alpha is not None) == (16, (40, 60, 3), True)
    assert read_photo(photos / "dot.png.restored.png", 10).pixels.shape == (2, 2, 1)

    out = tmp_path / "out"
    assert predict.main([str(run / "best.pth"), str(photos), "--device", "cpu", "--pictures", str(out)]) == 0
    assert {path.name for path in photos.iterdir() if "restored" in path.name} == made, "nothing is restored twice"
    assert len(list(out.glob("*_comparison.png"))) == 3
    assert len(list(out.iterdir())) == 6


def test_tiles_are_chosen_on_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)).save(photo)
    made = {}
    for tile, overlap in ((16, 8), (0, 0)):
        options = ["--tile", str(tile), "--overlap", str(overlap), "--device", "cpu"]
        assert predict.main([str(run / "best.pth"), str(photo), *options]) == 0
        with Image.open(tmp_path / "photo.png.restored.png") as image:
            made[tile] = np.asarray(image)
        predictor: Any = load_predictor(run / "best.pth", tile=tile, overlap=overlap)
        with torch.inference_mode():
            (expected,) = predictor([predictor.read(photo)])
        assert np.array_equal(made[tile], expected.pixels)
    assert not np.array_equal(made[16], made[0]), "scans go over a whole tile"
    capsys.readouterr()
    assert predict.main([str(run / "best.pth"), str(photo), "--tile", "5", "--device", "cpu"]) == 2
    assert "tile must be a whole number of pixels, at least 8, or 0 for none, got 5" in capsys.readouterr().err
    assert predict.main([str(run / "best.pth"), str(photo), "--tile", "8", "--overlap", "5", "--device", "cpu"]) == 2
    assert "overlap=5 must be a whole number, from 0 to half of tile=8" in capsys.readouterr().err


def test_photos_are_restored_one_by_one_and_only_what_a_table_tells_is_kept(run: Path, tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (9 + number, 8)).save(tmp_path / f"{number}.png")
    files, taken = sorted(tmp_path.iterdir()), []

    class Counting(Restorer):
        def __call__(self, photos: Any) -> Any:
            taken.append(len(photos))
            return super().__call__(photos)

    restorer = Counting(load_predictor(run / "best.pth").model)  # type: ignore[arg-type]
    found = together(restorer.columns, [predict_share(restorer, files, batch_size=16, beside=True, summarised=True)])
    assert taken == [1, 1, 1]
    assert [prediction.result.plain()["width"] for prediction in found.read] == [18, 20, 22]
    assert found.read[0].result.rows() == [(18, 16, 8)]
    assert not any(hasattr(prediction.result, "pixels") for prediction in found.read)
    with pytest.raises(TypeError, match="a summary has no pictures"):
        found.read[0].result.save(tmp_path, Source("x", None))


MEMORY = """
import resource, sys
import numpy as np, torch
from pathlib import Path
from PIL import Image
from visionssm.prediction import predict_share
from visionssm.tasks.restoration.predictor import Restorer

class Twice(torch.nn.Module):
    in_chans, scale = 3, 2
    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(1))
    def forward(self, x):
        return torch.nn.functional.interpolate(x, scale_factor=2) * self.one

folder = Path(sys.argv[1])
Image.new("RGBA", (4000, 3000), (9, 80, 200, 128)).save(folder / "photo.png")
Image.new("RGBA", (40, 30)).save(folder / "small.png")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
predict_share(Restorer(Twice()), [folder / "small.png"], beside=True, summarised=True)
before = peak()
(outcome,) = predict_share(Restorer(Twice()), [folder / "photo.png"], beside=True, summarised=True)
assert outcome[1].result.plain() == {"width": 8000, "height": 6000, "bits": 8}, outcome
print(peak() - before)
"""


@pytest.mark.slow
def test_a_photo_of_twelve_megapixels_takes_few_times_the_memory_of_its_result(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], env=environment(), capture_output=True, text=True, check=True
    )
    result = 3 * 6000 * 8000 * 4 / 2**20  # MiB in float32
    assert result < float(told.stdout) < 3.5 * result


def test_a_folder_that_cannot_be_written_is_told_with_the_remedy(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")

    def refused(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(results_module, "write_png", refused)
    assert predict.main([str(run / "best.pth"), str(tmp_path / "photo.png"), "--device", "cpu"]) == 2
    assert "(Read-only file system); name another folder with --pictures" in " ".join(capsys.readouterr().err.split())


def test_a_result_that_would_be_too_large_is_refused_before_it_is_decoded(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_module, "MOST_PIXELS", 4000)
    Image.new("RGB", (101, 10)).save(tmp_path / "panorama.png")
    Image.new("RGB", (99, 10)).save(tmp_path / "fits.png")
    found = predict_files(load_predictor(run / "best.pth"), [tmp_path / "panorama.png", tmp_path / "fits.png"])
    assert [str(error.reason) for error in found.unreadable] == [
        "101×10 pixels are more than the 1,000 that are restored; cut or shrink it"
    ]
    assert found.read[0].result.plain() == {"width": 198, "height": 20, "bits": 8}


def identity(name: str, **changes: Any) -> Restorer:
    """A network that gives back what it gets."""
    model = visionssm.create_restorer(name, **{**TINY, **changes}).eval()
    torch.nn.init.zeros_(model.reconstruct.last.weight)
    torch.nn.init.zeros_(model.reconstruct.last.bias)
    return Restorer(model, tile=16, overlap=4)


@pytest.mark.parametrize("name", ["mambair_nano_denoise", "mambair_nano_jpeg"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@torch.inference_mode()
def test_grey_images_colours_and_transparency_pass_networks_of_either(tmp_path: Path, name: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 21, channels)).astype(np.uint16)
    write_png(pixels, tmp_path / "x.png")
    restorer = identity(name)
    (found,) = restorer([restorer.read(tmp_path / "x.png")])
    assert found.pixels.dtype == np.uint16
    assert np.abs(found.pixels.astype(int) - pixels).max() <= 1  # of 65535: colours go to luma and chroma and back


def test_loss_is_the_mean_of_differences_or_charbonniers() -> None:
    torch.manual_seed(0)
    inputs, clean = torch.rand(2, 3, 6, 6), torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8)
    model = ImageRestorer("mambair_nano_x2", changes=TINY).eval()
    difference = model(inputs) - clean / 255
    losses = {"l1": difference.abs().mean(), "charbonnier": (difference**2 + 1e-6).sqrt().mean()}
    for loss, expected in losses.items():
        model.loss = loss
        assert model(inputs, clean, mode="loss")["loss_pixels"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert model(list(inputs), list(clean), mode="loss")["loss_pixels"].item() == pytest.approx(expected.item())
    with pytest.raises(DatasetError, match=r"different sizes .* set patch"):
        model([inputs[0], inputs[0, :, 1:]], list(clean), mode="loss")
    with pytest.raises(ConfigError, match="loss='l2' is unknown"):
        ImageRestorer("mambair_nano_x2", loss="l2")
    with pytest.raises(ConfigError, match="overlap=200"):
        ImageRestorer("mambair_nano_x2", overlap=200)
    with pytest.raises(ConfigError, match="'mambair_x2' is unknown"):
        ImageRestorer("mambair_x2")


def test_scale_and_channels_of_the_data_must_be_the_networks(tmp_path: Path) -> None:
    def data(scale: int, channels: int = 3) -> RenderedTextures:
        degradation = {"type": "downscale", "scale": scale}
        return RenderedTextures("val", root=str(tmp_path), spec=SPEC, degradation=degradation, channels=channels)

    model = ImageRestorer("mambair_nano_x2", changes=TINY)
    assert model.checkpoint_meta(data(2), data(2))["degradation"] == {"type": "downscale", "scale": 2}
    with pytest.raises(ConfigError, match="is for scale 2, but the data set has scale 3"):
        model.checkpoint_meta(data(2), data(3))
    with pytest.raises(ConfigError, match="takes 3 channels, but the data set has 1"):
        model.checkpoint_meta(data(2, channels=1), None)


def test_another_scale_starts_from_the_body(tmp_path: Path) -> None:
    other = visionssm.create_restorer("mambair_nano_x2", **TINY)
    torch.save({"params": other.state_dict()}, tmp_path / "x2.pth")
    model = ImageRestorer("mambair_nano_x2", body=tmp_path / "x2.pth", changes={**TINY, "scale": 3}).model
    state = model.state_dict()
    same = [key for key, value in other.state_dict().items() if not key.startswith("reconstruct.")]
    assert same
    assert all(torch.equal(state[key], other.state_dict()[key]) for key in same)
    with pytest.raises(ConfigError, match=r"layers\.1"):
        ImageRestorer("mambair_nano_x2", body=tmp_path / "x2.pth", changes={**TINY, "depths": (1, 1)})


def test_checkpoints_that_ask_for_what_a_file_may_not_are_refused(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "best.pth", weights_only=True)
    about = content["meta"]["visionssm"]
    changes: list[tuple[str, Any, str]] = [
        ("name", "vmamba_nano_test", "no known restorer"),
        ("in_chans", 7, "in_chans=7"),
        ("changes", {"pretrained": True}, "changes that are not read from a file"),
        ("changes", {"dim": 4096}, "larger than its weights"),
        ("tile", 2, "tile must be"),
        ("overlap", "x", "overlap"),
    ]
    for key, value, message in changes:
        changed = {**about, "model": {**about["model"], key: value}}
        torch.save({**content, "meta": {"visionssm": changed}}, tmp_path / "changed.pth")
        with pytest.raises(CheckpointError, match=message):
            load_predictor(tmp_path / "changed.pth")
    changed = {**about, "degradation": {"type": "blur"}}
    torch.save({**content, "meta": {"visionssm": changed}}, tmp_path / "changed.pth")
    with pytest.raises(CheckpointError, match="type='blur' is unknown"):
        load_predictor(tmp_path / "changed.pth")


RECIPES = sorted(path for path in (CONFIGS / "restoration").glob("*.py") if "textures" not in path.name)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_complete_and_asks_for_its_data(path: Path) -> None:
    cfg = load_config(path)
    check_config(cfg)
    with pytest.raises(DatasetError, match="data set not found: looked for"):
        check_data(cfg)
    variant, data = VARIANTS[cfg.model.name], cfg.train_dataloader.dataset
    assert variant.parameters
    assert data.degradation.type == variant.degradation
    assert data.get("channels", 3) == variant.network.get("in_chans", 3)
    assert data.degradation.get("scale", 1) == variant.network["scale"]
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.degradation == data.degradation
        assert loader.dataset.get("channels", 3) == data.get("channels", 3)
    last = cfg.param_scheduler[0].milestones[-1]
    assert cfg.train_cfg.max_iters * 0.93 < last < cfg.train_cfg.max_iters


def test_small_recipe_is_of_the_network_that_it_names() -> None:
    cfg = load_config(shipped_config("mambair_nano_x2_textures"))
    check_config(cfg)
    check_data(cfg)
    assert cfg.model.name == "mambair_nano_x2"


def test_maps_of_all_groups_are_seen(run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 7), (10, 20, 30)).save(tmp_path / "x.png")
    predictor: Any = load_predictor(run / "best.pth")
    view = predictor.view()
    image = view.prepare(predictor.read(tmp_path / "x.png"), None)
    with torch.inference_mode():
        assert [tuple(level.shape) for level in view.maps(image)] == [(1, 8, 7, 9)]
    torch.testing.assert_close(view.picture(image)[0, 0] * 255, torch.tensor([10.0, 20, 30]))
    assert view.prepare(predictor.read(tmp_path / "x.png"), (12, 14)).shape == (1, 3, 12, 14)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_files_with_open_sides_equal_eager(run: Path, tmp_path: Path, kind: str) -> None:
    predictor: Any = load_predictor(run / "best.pth")
    export = visionssm.export_onnx if kind == "onnx" else visionssm.export_archive
    assert export(predictor.exportable(), tmp_path / f"model.{kind}", torch.rand(2, 3, 16, 12)) <= 1e-4


@pytest.mark.slow
@pytest.mark.timeout(1800)  # minutes of one core
def test_a_small_network_is_a_decibel_better_than_bicubic_on_textures_that_it_has_not_seen(tmp_path: Path) -> None:
    config = shipped_config("mambair_nano_x2_textures")
    options = {"env_cfg.cpu_threads": 1}  # two threads wait for each other where others use the cores
    train(config, work_dir=tmp_path, options=options)
    found = evaluate(config, tmp_path / "best.pth", work_dir=tmp_path / "test", options=options)
    assert found["gain"] >= 1
