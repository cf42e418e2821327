"""Text spoken by espeak-ng: the same sound each time, in the time that there is."""

import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny import need_espeak

from probenc_support.corpora import speech
from probenc_support.errors import InputError

TEXT = "The river rises in the hills to the north of the town."


def loudness(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


@need_espeak
def test_a_text_sounds_the_same_each_time_and_like_no_other() -> None:
    first, again = (speech.spoken(TEXT, seconds=30) for _ in range(2))
    assert np.array_equal(first.samples, again.samples)
    other = speech.spoken(TEXT.replace("north", "south"), seconds=30)
    assert len(other.samples) != len(first.samples) or loudness(other.samples - first.samples) > 0
    assert first.rate == speech.RATES[0]
    assert first.heard == 1
    # 12 words at 175 a minute.
    assert 2 < len(first.samples) / speech.SAMPLING_RATE < 6
    assert 0.01 < loudness(first.samples) < 1
    assert np.abs(first.samples).max() <= 1.1


@need_espeak
def test_a_text_that_takes_too_long_is_spoken_faster_and_then_cut() -> None:
    normal = len(speech.spoken(TEXT, seconds=30).samples) / speech.SAMPLING_RATE
    faster = speech.spoken(TEXT, seconds=0.85 * normal)
    assert faster.rate > speech.RATES[0]
    assert faster.heard == 1
    cut = speech.spoken(TEXT, seconds=0.25 * normal)
    assert cut.rate == speech.RATES[-1]
    assert 0.2 < cut.heard < 0.6
    assert len(cut.samples) == int(0.25 * normal * speech.SAMPLING_RATE)


@need_espeak
def test_a_text_is_text_whatever_it_looks_like() -> None:
    """Not phonemes, options or markup; and nothing is silence."""
    plain = speech.spoken("a list [ [one, two]] of lists", seconds=30)
    assert np.array_equal(
        plain.samples, speech.spoken("a list [[one, two]] of lists", seconds=30).samples
    )
    assert len(speech.spoken("--help", seconds=30).samples) > 0.2 * speech.SAMPLING_RATE
    assert len(speech.spoken("one\0two", seconds=30).samples) > 0.5 * speech.SAMPLING_RATE
    for empty in ("", " \n "):
        assert loudness(np.append(speech.spoken(empty, seconds=30).samples, 0)) < 1e-3
    assert len(speech.spoken("na\u00efve caf\u00e9 \ud800", seconds=30).samples)


@pytest.mark.parametrize("rate", [22_050, 16_000, 44_100])
def test_a_file_of_any_rate_keeps_its_pitch_and_length(tmp_path: Path, rate: int) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((tone * 32767).astype("<i2").tobytes())
    samples = speech._samples(tmp_path / "tone.wav")
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(speech.SAMPLING_RATE) / speech.SAMPLING_RATE)
    assert len(samples) == speech.SAMPLING_RATE
    assert samples.dtype == np.float32
    # The filter has less to go by at the ends.
    np.testing.assert_allclose(samples[100:-100], wanted[100:-100], rtol=0, atol=2e-3)


def test_without_the_program_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speech, "PROGRAM", "espeak-ng-that-is-not-there")
    with pytest.raises(InputError, match=r"apt-get install espeak-ng"):
        speech.spoken(TEXT, seconds=30)
