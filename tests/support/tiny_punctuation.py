"""A punctuation model that has learned nothing, but tags words in different ways."""

from __future__ import annotations

import torch

from asr.config import PunctuationConfig
from asr.writing.network import PunctuationNetwork
from asr.writing.punctuation import Punctuator
from asr.writing.vocabulary import Vocabulary

__all__ = ["tiny_punctuator"]


def tiny_punctuator() -> Punctuator:
    torch.manual_seed(9)
    config = PunctuationConfig(words=20, buckets=30, embedding_size=12, pause_size=4, hidden_size=10)
    network = PunctuationNetwork(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4.0)
    vocabulary = Vocabulary("the cat sat on a mat i left paris".split(), {"iphone": "iPhone"}, config.buckets)
    return Punctuator(network, vocabulary)
