"""Text spoken aloud by espeak-ng, for models that hear: a waveform, the same one every time.

A speech model has room for so many seconds. A text that takes longer is spoken faster, up to a
limit; what is left over then is not heard, which is counted.
"""

import functools
import math
import shutil
import subprocess
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from probenc_support.errors import InputError

PROGRAM = "espeak-ng"
VOICE = "en-us"
SAMPLING_RATE = 16_000
"""Samples a second of the waveform, which is what speech models read."""

RATES = (175, 220, 260)
"""Words a minute: espeak-ng's own, and faster ones that are tried where a text takes too long."""


@dataclass(frozen=True, eq=False)
class Speech:
    """A text as it is heard."""

    samples: NDArray[np.float32]
    """[n] in -1 to 1, `SAMPLING_RATE` a second"""
    rate: int
    """Words a minute at which it was spoken, one of `RATES`"""
    heard: float
    """Share of the speech, by time, that fits; 1: all of it"""


def spoken(text: str, *, seconds: float) -> Speech:
    """A text spoken so that it fits into some seconds, if it can be.

    Raises:
        InputError: espeak-ng is not installed, or fails.
    """
    for rate in RATES:
        samples = _at(rate, text)
        if len(samples) <= seconds * SAMPLING_RATE:
            break
    room = math.floor(seconds * SAMPLING_RATE)
    return Speech(samples[:room], rate, min(1.0, room / max(1, len(samples))))


@functools.cache
def version() -> str:
    """The release of espeak-ng, on which the sound depends.

    Raises:
        InputError: it is not installed.
    """
    # "eSpeak NG text-to-speech: 1.51  Data at: /usr/lib/..."
    return _run(["--version"]).partition(b"Data at")[0].decode(errors="replace").strip()


def _at(rate: int, text: str) -> NDArray[np.float32]:
    """[n] the waveform of a text at so many words a minute."""
    # Two brackets would begin a text in espeak-ng's own phonemes, and a zero would end it.
    plain = text.replace("[[", "[ [").replace("\0", " ")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        # -b 1: the text is UTF-8. A file, since of a stream the header does not know the length.
        options = ["-v", VOICE, "-s", str(rate), "-b", "1", "--stdin", "-w", str(path)]
        _run(options, plain.encode("utf-8", "replace"))
        # It writes no file for a text without a sound.
        return _samples(path) if path.is_file() else np.zeros(0, dtype=np.float32)


def _run(options: list[str], text: bytes = b"") -> bytes:
    program = shutil.which(PROGRAM)
    if program is None:
        raise InputError(
            f"The program {PROGRAM}, which speaks the text that a speech model hears, is not "
            f"installed: install {PROGRAM} (apt-get install {PROGRAM}, brew install {PROGRAM})."
        )
    done = subprocess.run([program, *options], input=text, capture_output=True, check=False)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(f"{PROGRAM} failed ({(message or ['no message'])[0][:160]}).")
    return done.stdout


def _samples(path: Path) -> NDArray[np.float32]:
    """A mono file of 16 bits, at `SAMPLING_RATE`."""
    with wave.open(str(path)) as file:
        kept, whole = file.getframerate(), file.readframes(file.getnframes())
    values = np.frombuffer(whole, dtype="<i2") / 32768
    if kept == SAMPLING_RATE or not len(values):
        return values.astype(np.float32)
    common = math.gcd(kept, SAMPLING_RATE)
    made = resample_poly(values, SAMPLING_RATE // common, kept // common)
    return np.asarray(made, dtype=np.float32)
