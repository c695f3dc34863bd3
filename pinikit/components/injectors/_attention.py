"""The attention from image features to text features that PiNI's image injectors share."""

from __future__ import annotations

from torch import Tensor, nn

from pinikit.components.initialise import Initialiser


class TextAttention(nn.Module):
    """softmax(q kᵀ) v with queries from image features, keys and values from text features.

    As published there is no 1/√h and neither side is normalised (``scaled`` adds the factor); text
    features carry gradient into the text side's noise (``detach_keys`` cuts it).
    """

    def __init__(
        self,
        width: int,
        text_width: int,
        hidden: int,
        initialise: Initialiser,
        scaled: bool,
        detach_keys: bool,
    ) -> None:
        super().__init__()
        self.query = initialise.linear("query", width, hidden)
        self.key = initialise.linear("key", text_width, hidden)
        self.value = initialise.linear("value", text_width, hidden)
        self._scale = hidden**-0.5 if scaled else 1.0
        self._detach_keys = detach_keys

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """[..., width], [C, text_width] → [..., hidden]."""
        text = text.detach() if self._detach_keys else text
        scores = self.query(image) @ self.key(text).mT * self._scale  # [..., C]
        attended: Tensor = scores.softmax(dim=-1) @ self.value(text)
        return attended
