"""The papers' headline results beside their peers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from visionssm.backbones.convs5.model import ConvS5Config
from visionssm.benchmarks import headlines
from visionssm.benchmarks.timing import table
from visionssm.benchmarks.video_peers import ConvLSTM, FrameAttention, FramePredictor, parameters_of

TINY = ConvS5Config(widths=(4, 8, 8), dim=8, states=8, depth=2, groups=4)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headlines, "FRAME", 16)


@pytest.mark.parametrize("kind", [ConvLSTM, FrameAttention])
def test_peers_predict_from_earlier_frames_alone_and_step_as_in_one_go(kind: type[ConvLSTM | FrameAttention]) -> None:
    torch.manual_seed(0)
    model = FramePredictor(TINY, kind, 8).eval()
    video = torch.rand(1, 5, 16, 16, 1)
    with torch.inference_mode():
        expected = model(video)
        states, steps = [None, None], []
        for frame in video[:, :-1].split(1, dim=1):
            predicted, states = model.advance(frame, states)
            steps.append(predicted)
        torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=1e-4, atol=1e-5)
        later = video.clone()
        later[:, 3] += 1
        changed = (model(later) - expected).abs().amax((0, 2, 3, 4))
    assert changed[:3].max() < 1e-6, "a prediction depends on frames that come after it"
    assert changed[3] > 1e-4


def test_peers_have_as_many_parameters_as_convs5() -> None:
    counts = [parameters_of(model) for model in headlines.video_networks().values()]
    assert max(counts) < 1.03 * min(counts), counts


def test_kept_states_are_those_that_generation_keeps() -> None:
    for model in headlines.video_networks(TINY).values():
        with torch.inference_mode():
            if isinstance(model, FramePredictor):
                _, states = model.advance(torch.rand(1, 3, 16, 16, 1), [None, None])
            else:
                _, states = model.forward_features(torch.rand(1, 4, 16, 16, 1))
        kept = headlines._flat(headlines._kept(model, TINY, 3))
        assert [(x.shape, x.dtype) for x in kept] == [(x.shape, x.dtype) for x in headlines._flat(states)]


def test_rows_of_all_parts_are_measured_printed_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {headlines.VIM: "vim_nano_test", headlines.DEIT: "vim_nano_test", headlines.DEIT_MATRIX: "vim_nano_test"}
    monkeypatch.setattr(headlines, "IMAGE_NETWORKS", names)
    rows = headlines.images((32, 64), seconds=0.05, memory=False)
    rows += headlines.training((2,), seconds=0.05, config=TINY)
    rows += headlines.generation((2, 4), seconds=0.05, config=TINY)
    assert len(rows) == 4 + 2 + 4
    assert all(row["ms"] > 0 and row["time ratio"] == pytest.approx(row["ms"] / row["ms beside"]) for row in rows)
    memory = {row["case"]: (row["MiB"], row["MiB beside"]) for row in rows if row["beside"] == headlines.TRANSFORMER}
    assert memory["a frame after 2"][0] == memory["a frame after 4"][0], "ConvS5 keeps as much whatever the context"
    assert memory["a frame after 4"][1] == 2 * memory["a frame after 2"][1]
    assert "| Vim-T" in table(rows)
    headlines.draw(rows, tmp_path / "headlines.png")
    assert (tmp_path / "headlines.png").read_bytes().startswith(b"\x89PNG")


def test_run_that_was_cut_off_goes_on_with_the_next_case(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def rows_of(case: str) -> Callable[..., list[headlines.Row]]:
        def part(of: tuple[int, ...], *, seconds: float) -> list[headlines.Row]:
            measured.append(case.format(*of))
            return [{"case": case.format(*of), "beside": beside} for beside in "ab"]

        return part

    for name, case in (
        ("images", "an image of {}²"),
        ("training", "a training step on {} frames"),
        ("generation", "a frame after {}"),
    ):
        monkeypatch.setattr(headlines, name, rows_of(case))
    kept: list[int] = []
    rows = headlines.run(keep=lambda so_far: kept.append(len(so_far)))
    cases = measured.copy()
    assert len(cases) == len(headlines.SIZES) + len(headlines.CLIPS) + len(headlines.CONTEXTS)
    assert kept == [2 * (i + 1) for i in range(len(cases))]
    measured.clear()
    assert headlines.run(done=rows[:6]) == rows
    assert measured == cases[3:]


def test_attention_is_written_out_for_one_of_the_peers_alone() -> None:
    fused = {
        title: headlines.create(title, 32).blocks[0].attn.fused_attn  # type: ignore[index, union-attr]
        for title in (headlines.DEIT, headlines.DEIT_MATRIX)
    }
    assert fused == {headlines.DEIT: True, headlines.DEIT_MATRIX: False}
