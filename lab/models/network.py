r"""The small network that is trained here, and its weights on disk.

A diffusers `UNet2DModel` on the picture folded to (4 C, 16, 16) (space to depth happens inside: noise and metrics see
(C, 32, 32)), with attention in the middle, conditioned on a class and a word by the sum of two learned embeddings. What
it gives is unfolded, and two convolutions at 32x32 see it beside the picture: without them the grid of the fold shows.
Pictures of another size are folded in the same way.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from zsnr.diffusers import card
from zsnr.diffusers.card import Card


class ConditionalUNet(nn.Module):
    """(x, step, class_labels) -> prediction, as diffusers' UNets are called.

    Args:
        channels: C of the pictures.
        classes, words: how many values the two conditions have; one more means "not given".
        widths: channels of each resolution, 16x16 first; attention is in the middle block, at the last.
        layers: residual blocks a resolution.
        groups: of each GroupNorm. Where a group is one channel, the norm removes what the embedding adds to it.
    """

    card: Card | None = None

    def __init__(
        self,
        channels: int = 1,
        classes: int = 10,
        words: int = 5,
        widths: tuple[int, ...] = (64, 128),
        layers: int = 1,
        groups: int = 16,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "channels": channels,
            "classes": classes,
            "words": words,
            "widths": list(widths),
            "layers": layers,
        }
        if groups != 16:  # the cards of networks without it stay as they are
            self.config["groups"] = groups
        self.unet = UNet2DModel(
            sample_size=16,
            in_channels=4 * channels,
            out_channels=widths[0],
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            down_block_types=("DownBlock2D",) * len(widths),
            up_block_types=("UpBlock2D",) * len(widths),
            norm_num_groups=min(groups, widths[0]),
            attention_head_dim=widths[-1],
            add_attention=True,
            class_embed_type="identity",
        )
        fine = widths[0] // 4
        self.head = nn.Sequential(
            nn.Conv2d(fine + channels, 2 * fine, 3, padding=1), nn.SiLU(), nn.Conv2d(2 * fine, channels, 3, padding=1)
        )
        self.embed_class = nn.Embedding(classes + 1, 4 * widths[0])
        self.embed_word = nn.Embedding(words + 1, 4 * widths[0])
        # Starting from 0 the first loss is that of the trivial prediction, whatever the seed
        for parameter in self.head[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, step: Tensor, class_labels: Tensor) -> Tensor:
        """x (B, C, 32, 32), step (B,) from 0, class_labels (B, 2) -> (B, C, 32, 32)."""
        condition = self.embed_class(class_labels[:, 0]) + self.embed_word(class_labels[:, 1])
        return self.predict(x, step, condition)

    def predict(self, x: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """As forward, of a (B, 4 widths[0]) embedding of the condition."""
        coarse = self.unet(pixel_unshuffle(x, 2), step, class_labels=condition).sample
        return self.head(torch.cat([pixel_shuffle(coarse, 2), x], 1))


def save(path: str | Path, network: ConditionalUNet, **facts: Any) -> None:
    """Write the weights in half precision as safetensors, with the network's card, to which the facts are added.

    A network without a card is one that EDM's preconditioning wraps.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: w.detach().to("cpu", torch.float16).contiguous() for name, w in network.state_dict().items()}
    kept = replace(network.card or Card("F", None), facts={"network": network.config, **facts})
    partial = path.with_name(path.name + ".tmp")
    # one entry: safetensors writes several in any order, and the same weights must give the same bytes
    save_file(weights, partial, {card.KEY: kept.to_json()})
    partial.replace(path)


def load(path: str | Path) -> tuple[ConditionalUNet, dict[str, Any]]:
    """The network at `path`, in float32, with its card, and the facts that were saved with it."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}: `dvc repro --pull` restores or trains them")
    found = card.read(path)
    if found is None or "network" not in found.facts:
        raise ValueError(f"{path} has no network description on its card: was it written by network.save?")
    facts = dict(found.facts)
    network = ConditionalUNet(**facts.pop("network"))
    network.load_state_dict(load_file(path))
    network.card = found
    return network, facts
