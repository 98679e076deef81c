"""The models that are compared: what each predicts, on which schedule, with how much offset noise."""

from __future__ import annotations

from dataclasses import dataclass

from zsnr.schedule import Schedule, rescale_zero_terminal_snr, stable_diffusion


@dataclass(frozen=True)
class Variant:
    """A way to train: what is predicted, and whether Stable Diffusion's schedule is rescaled to zero terminal SNR.

    Args:
        loss: the weight of the squared error, by its name in `zsnr.prediction`; that of the prediction if empty.
    """

    prediction: str
    zero_snr: bool = False
    offset_noise: float = 0.0
    loss: str = ""

    @property
    def schedule(self) -> Schedule:
        """Stable Diffusion's, after Algorithm 1 where zero terminal SNR is asked for."""
        return rescale_zero_terminal_snr(stable_diffusion()) if self.zero_snr else stable_diffusion()

    @property
    def spacing(self) -> str:
        """The time steps that go with it: what its users would take."""
        return "trailing" if self.zero_snr else "leading"


def find(name: str) -> Variant:
    """The variant of that name."""
    known = VARIANTS | ABLATIONS
    if name not in known:
        raise ValueError(f"unknown variant {name!r}; choose one of {', '.join(known)}")
    return known[name]


VARIANTS = {
    "base": Variant("eps"),
    "control": Variant("eps", loss="v"),
    "offset": Variant("eps", offset_noise=0.1, loss="v"),
    "zsnr": Variant("v", zero_snr=True),
}
"""The fine-tunings weigh the squared error alike, SNR + 1 on x0, so that what they differ in is not the weight."""

ABLATIONS = {
    "no-rescale": Variant("v"),
    "x0": Variant("x0", zero_snr=True),
}
"""zsnr without one fix, on the plain loss of what it predicts; eps with zero SNR is not defined.

Sample steps and guidance need no training.
"""
