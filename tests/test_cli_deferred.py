import subprocess
import sys

USE = """
import sys
from necklace.cli.deferred import defer_scipy_signal
defer_scipy_signal()
import torchmetrics
assert "scipy.signal._signaltools" not in sys.modules
import scipy
import scipy.signal.windows
from scipy.signal import convolve
assert convolve([1, 2], [1, 3]).tolist() == [1, 5, 6]
assert scipy.signal.convolve is convolve and scipy.signal.windows.hann(3).tolist() == [0, 1, 0]
assert sys.modules["scipy.signal"].__spec__.name == "scipy.signal"
"""


def test_scipy_signal_waits_for_its_first_use() -> None:
    done = subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", USE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
