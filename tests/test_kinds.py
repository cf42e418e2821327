"""Kinds of model: what each predicts and from what, against plain calls of transformers."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_kinds
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny_kinds import END, MASK, SENTINEL, START
from torch import Tensor

from probenc_support import corpora, generation, inference, models, steering
from probenc_support.errors import InputError
from probenc_support.models import kinds
from probenc_support.models.kinds.masked import N_ROUNDS, rounds
from probenc_support.moments import Moments

LENGTH = 19
"""Tokens of a block: odd, so that halves differ, and no multiple of the rounds."""


def some_ids(n: int = 3, length: int = LENGTH, *, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(
        len(tiny_kinds._SPECIAL), tiny.VOCABULARY, (n, length), generator=generator
    )


def beside(before: list[int], ids: Tensor, after: list[int]) -> Tensor:
    """Every row of ids between the same tokens."""
    return torch.tensor([[*before, *row, *after] for row in ids.tolist()])


# --------------------------------------------------------------------- plain calls of transformers


def masked_logits(model: Any, read: Tensor, at: int) -> Tensor:
    """[B, V] what a masked model says at place `at` of the text [B, T], as it is read."""
    with torch.no_grad():
        whole = model(input_ids=beside([START], read, [END])).logits
    return whole[:, 1 + at]


def written(architecture: str, model: Any, prompts: Tensor, new: Tensor) -> Tensor:
    """[B, n, V] what an encoder-decoder says of each token of new [B, n], by its `labels`.

    T5 writes what a sentinel in the prompt stands for; BART restores a text whose rest is masked;
    the translators and summarisers read a text and its end.
    """
    if architecture in ("t5", "t5-untied", "mt5"):
        read, label = beside([], prompts, [SENTINEL, END]), beside([SENTINEL], new, [])
    elif architecture == "bart":
        read = beside([START], prompts, [MASK, END])
        label = beside([START], torch.cat([prompts, new], dim=1), [])
    else:
        read, label = beside([], prompts, [END]), new.contiguous()
    with torch.no_grad():
        given = model(input_ids=read, labels=label).logits
    return given[:, given.shape[1] - new.shape[1] :]


def plain_logits(architecture: str, model: Any, ids: Tensor) -> Tensor:
    """[B, P, V] logits at every position that the kind predicts, by a call for each of them."""
    if architecture in tiny_kinds.ENCODER_DECODER:
        at = ids.shape[1] // 2
        return written(architecture, model, ids[:, :at], ids[:, at:])
    of_positions = []
    for at in range(ids.shape[1]):
        (own,) = [row for row in rounds(ids.shape[1]) if row[at]]
        read = ids.clone()
        read[:, own] = MASK
        of_positions.append(masked_logits(model, read, at))
    return torch.stack(of_positions, dim=1)


@pytest.fixture(scope="module", params=tiny_kinds.ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lm(architecture: str) -> Any:
    """The model in float64. What T5's layer norms compute in float32 is the same in every call."""
    return tiny_kinds.language_model(architecture)


@pytest.fixture(scope="module")
def folder(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_kinds.save(tmp_path_factory.mktemp("kinds") / architecture, architecture)


# --------------------------------------------------------------------------------- telling, loading


def test_loading_tells_the_kind(architecture: str, folder: Path) -> None:
    masked = architecture in tiny_kinds.MASKED
    loaded = models.load(folder)
    assert loaded.kind.name == ("masked" if masked else "encoder-decoder")
    assert type(loaded.model) is tiny_kinds._CLASSES[architecture]
    assert loaded.first_token is None
    again = models.logits(tiny_kinds.language_model(architecture, dtype=torch.float32), some_ids())
    torch.testing.assert_close(models.logits(loaded, some_ids()), again, rtol=1e-5, atol=1e-5)


def test_the_longest_block_can_be_read_and_no_longer_one(architecture: str, lm: Any) -> None:
    if lm.context_length > 1000:  # T5's positions are relative
        assert architecture in ("t5", "t5-untied", "mt5")
        return
    models.hidden_states(lm, some_ids(1, lm.context_length))
    if architecture not in ("modernbert", "bart", "marian", "pegasus"):
        # The others compute their positions, or have some to spare.
        with pytest.raises((IndexError, RuntimeError)):
            models.hidden_states(lm, some_ids(1, lm.context_length + 2))


# -------------------------------------------------------------------------------- what is predicted


def test_head_times_state_is_the_models_own_logits(architecture: str, lm: Any) -> None:
    ids = some_ids()
    theirs = plain_logits(architecture, lm.model, ids)
    ours = lm.head.logits(models.hidden_states(lm, ids).flatten(0, 1)).view(theirs.shape)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(models.logits(lm, ids), theirs, rtol=1e-6, atol=1e-6)


def test_a_bias_that_is_forgotten_is_noticed(architecture: str, lm: Any) -> None:
    """The control: without b the logits differ, where there is one."""
    ids = some_ids()
    without = models.hidden_states(lm, ids) @ lm.E.T
    differs = not torch.allclose(without, models.logits(lm, ids), atol=1e-3)
    assert differs == (architecture not in ("t5", "t5-untied", "mt5"))


def test_targets_are_the_tokens_of_the_text(architecture: str, lm: Any) -> None:
    ids = some_ids()
    targets, before = models.targets(lm, ids), lm.kind.preceding(ids)
    if architecture in tiny_kinds.MASKED:
        assert torch.equal(targets, ids)
        assert torch.equal(before[:, 1:], ids[:, :-1])
        assert bool((before[:, 0] == -1).all())
    else:
        assert torch.equal(targets, ids[:, LENGTH // 2 :])
        assert torch.equal(before, ids[:, LENGTH // 2 - 1 : -1])
    assert targets.shape[1] == lm.kind.n_predicted(LENGTH)


def test_no_state_depends_on_what_it_predicts(architecture: str, lm: Any) -> None:
    """Nor, where a model writes from left to right, on anything after it; others it does see."""
    ids = some_ids(1)
    states = models.hidden_states(lm, ids)[0]
    offset = LENGTH - len(states)
    for at in range(len(states)):
        other = ids.clone()
        other[0, offset + at] = (other[0, offset + at] - 4) % (tiny.VOCABULARY - 5) + 5
        change = (models.hidden_states(lm, other)[0] - states).abs().amax(dim=1)
        assert float(change[at]) < 1e-9
        if architecture in tiny_kinds.MASKED:
            assert float(change.max()) > 1e-6, "from both sides"
        else:
            assert float(change[: at + 1].max()) < 1e-9
            assert at == len(states) - 1 or float(change[at + 1 :].max()) > 1e-6


@pytest.mark.parametrize("name", tiny_kinds.ENCODER_DECODER)
def test_every_state_depends_on_what_the_encoder_reads(name: str) -> None:
    lm, ids = tiny_kinds.language_model(name), some_ids(1)
    other = ids.clone()
    other[0, 2] = 5 + (other[0, 2] - 4) % (tiny.VOCABULARY - 5)
    change = models.hidden_states(lm, other) - models.hidden_states(lm, ids)
    assert float(change.abs().amax(dim=2).min()) > 1e-6


@given(length=st.integers(1, 200))
def test_rounds_mask_every_position_once(length: int) -> None:
    pattern = rounds(length)
    assert pattern.shape == (min(length, N_ROUNDS), length)
    assert torch.equal(pattern.sum(dim=0), torch.ones(length, dtype=torch.int64))
    shares = pattern.sum(dim=1)
    assert int(shares.max() - shares.min()) <= 1
    assert torch.equal(pattern, rounds(length)), "the same in every process"


# ----------------------------------------------------------------------------------------- writing


def test_continuing_is_asking_token_by_token(architecture: str, lm: Any) -> None:
    ids = some_ids(2, 15)
    prompts, new = ids[:, :9], ids[:, 9:]
    states = models.continued(lm, prompts, new)
    assert states.shape == (2, 7, lm.d)
    for n in range(7):
        so_far = torch.cat([prompts, new[:, :n]], dim=1)
        if architecture in tiny_kinds.MASKED:
            mask = torch.full_like(so_far[:, :1], MASK)
            theirs = masked_logits(lm.model, torch.cat([so_far, mask], dim=1), so_far.shape[1])
        else:
            # What stands last is not seen where it is predicted.
            last = torch.full_like(so_far[:, :1], 7)
            theirs = written(architecture, lm.model, prompts, torch.cat([new[:, :n], last], dim=1))
            theirs = theirs[:, -1]
        ours = lm.head.logits(states[:, n])
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        alone = models.next_state(lm, prompts, new[:, :n])
        torch.testing.assert_close(alone, states[:, n], rtol=1e-6, atol=1e-6)


def test_what_is_drawn_follows_the_models_own_probabilities(architecture: str, lm: Any) -> None:
    """At a temperature near zero, drawing is taking the likeliest token, call by call."""
    prompts = some_ids(2, 9)
    drawn = generation.sample(lm, prompts, n_tokens=3, temperature=1e-6).ids
    new = prompts[:, :0]
    for _ in range(3):
        best = lm.head.logits(models.next_state(lm, prompts, new))
        rows = lm.tokens[best[:, lm.tokens].argmax(dim=1)]
        new = torch.cat([new, rows[:, None]], dim=1)
    assert torch.equal(drawn, new)


# --------------------------------------------------------------------------------- passes and edits


def test_a_pass_is_the_average_of_the_models_own_probabilities(
    architecture: str, lm: Any, module_cache: None
) -> None:
    blocks = corpora.from_ids(some_ids(6), corpus="made")
    found = inference.detect(lm, blocks, progress=False)
    log_p = torch.log_softmax(plain_logits(architecture, lm.model, blocks.ids).double(), dim=-1)
    log_p = log_p.flatten(0, 1)
    expected = torch.logsumexp(log_p, 0) - math.log(len(log_p))
    torch.testing.assert_close(found.log_a_rows, expected, rtol=0, atol=1e-5)
    targets = models.targets(lm, blocks.ids).flatten()
    of_targets = log_p[torch.arange(len(targets)), targets]
    torch.testing.assert_close(found.target_log_p, of_targets, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.05, 20.0])
def test_an_edited_row_does_what_the_closed_form_says(
    architecture: str, lm: Any, scale: float
) -> None:
    ids, token = some_ids(), torch.tensor([200])
    before = plain_logits(architecture, lm.model, ids).double().log_softmax(-1).flatten(0, 1)
    h = models.hidden_states(lm, ids).flatten(0, 1).clone()
    vector = steering.min_variance(Moments.of(h), 1e-3)
    log_p = lm.head.log_p(h, token)
    step = torch.full((1, 1), math.log(scale), dtype=torch.float64)
    closed = steering.effects(log_p, h.double() @ vector, step)
    with steering.edited_rows(lm, token, step * vector[None]) as edited:
        after = plain_logits(architecture, edited.model, ids).double().log_softmax(-1)
        after = after.flatten(0, 1)
    moved = torch.logsumexp(after[:, 200], 0) - torch.logsumexp(before[:, 200], 0)
    assert float(closed.log_scale) == pytest.approx(float(moved), abs=1e-6)
    kl = (before.exp() * (before - after)).sum(dim=1).mean()
    assert float(closed.kl) == pytest.approx(float(kl), rel=1e-5, abs=1e-9)
    again = plain_logits(architecture, lm.model, ids).double().log_softmax(-1).flatten(0, 1)
    assert torch.equal(again, before), "everything is as it was"


def test_a_saved_edit_is_what_plain_transformers_loads(
    architecture: str, folder: Path, tmp_path: Path, module_cache: None
) -> None:
    loaded = models.load(folder)
    detection = inference.detect(loaded, corpora.from_ids(some_ids(8), corpus="m"), progress=False)
    with steering.steer(loaded, {200: 5.0}, detection=detection) as steered:
        saved = steered.save_steered(tmp_path / "steered")
    plain = tiny_kinds._CLASSES[architecture].from_pretrained(saved).eval()
    untouched = tiny_kinds._CLASSES[architecture].from_pretrained(folder).eval()
    ids = some_ids(8)
    means = [
        plain_logits(architecture, one, ids).double().softmax(-1).mean(dim=(0, 1))
        for one in (untouched, plain)
    ]
    assert float(means[1][200] / means[0][200]) == pytest.approx(5.0, rel=1e-4)
    inputs = [one.get_input_embeddings().weight for one in (untouched, plain)]
    assert torch.equal(*inputs), "the input embedding stays"
    again = models.load(saved)
    assert again.kind.name == loaded.kind.name


# ---------------------------------------------------------------------------------------- refusals


def test_a_masked_model_needs_a_mask() -> None:
    maskless = copy.deepcopy(tiny_kinds.tokenizer("bert"))
    maskless.mask_token = None
    with pytest.raises(InputError, match="no mask token"):
        models.wrap(tiny_kinds.model("bert"), maskless, name="tiny")


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_first_token_is_for_causal_models(name: str) -> None:
    with pytest.raises(InputError, match="leave first_token at auto"):
        models.wrap(
            tiny_kinds.model(name), tiny_kinds.tokenizer(name), name="tiny", first_token="</s>"
        )


def test_a_decoder_needs_to_know_how_it_begins() -> None:
    config = tiny_kinds._config("t5")
    config.decoder_start_token_id = config.bos_token_id = None
    model = transformers.T5ForConditionalGeneration(config)
    with pytest.raises(InputError, match="with which token its decoder begins"):
        models.wrap(model, tiny_kinds.tokenizer("t5"), name="tiny")


@pytest.mark.parametrize(
    ("kind", "of", "why"),
    [
        ("BertModel", "bert", "lack cls.predictions.bias"),
        ("T5EncoderModel", "t5", "holds no language model"),
        ("ElectraForPreTraining", "electra", "lack generator_lm_head.bias"),
    ],
)
def test_a_model_without_a_head_is_refused(kind: str, of: str, why: str, tmp_path: Path) -> None:
    """A body alone, an encoder alone, and ELECTRA's discriminator."""
    getattr(transformers, kind)(tiny_kinds._config(of)).save_pretrained(tmp_path)
    tiny_kinds.tokenizer(of).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=why):
        models.load(tmp_path)


def test_a_model_that_sees_its_target_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the check: without its masks a masked model sees what it predicts."""
    monkeypatch.setattr(kinds.masked, "rounds", lambda n: torch.zeros(1, n, dtype=torch.bool))

    def unmasked(self: Any, ids: Tensor, run: Any) -> Tensor:
        start = len(self.before)
        given: Tensor = run(beside(list(self.before), ids, list(self.after)))
        return given[:, start : start + ids.shape[1]]

    monkeypatch.setattr(kinds.Masked, "_gathered", unmasked)
    with pytest.raises(InputError, match="sees what it should predict"):
        tiny_kinds.language_model("bert")


def test_the_first_files_of_bert_are_masked_models(tmp_path: Path) -> None:
    """They are named after both tasks, and hold a pooler and a head for the next sentence."""
    torch.manual_seed(0)
    both = transformers.BertForPreTraining(tiny_kinds._config("bert"))
    both.save_pretrained(tmp_path)
    tiny_kinds.tokenizer("bert").save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    assert said["architectures"] == ["BertForPreTraining"]
    assert models.load(tmp_path).kind.name == "masked"
