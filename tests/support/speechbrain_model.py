"""SpeechBrain's modules at any size with random weights, and their folder as on the hub."""

from __future__ import annotations

import io
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["Sizes", "Theirs", "build", "train_tokenizer"]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model; the defaults are small. `rnnp` projects between the LSTMs, `specials` are blank, bos and eos.

    `heard`: whether batch normalisation has statistics of the waveforms, so that the encoder output depends on them.
    """

    n_mels: int = 20
    channels: tuple[int, int] = (4, 6)
    rnn_layers: int = 2
    rnn: int = 24
    dnn_blocks: int = 2
    dnn: int = 20
    rnnp: bool = False
    projection: int = -1
    emb: int = 12
    dec: int = 24
    attn: int = 16
    kernel: int = 5
    cell: str = "gru"
    vocab: int = 40
    specials: tuple[int, int, int] = (0, 0, 0)
    lm_rnn: int = 24
    lm_dnn: int = 20
    sharpness: float = 6.0
    ending: float = 2.0  # added to the logit of eos
    threshold: float = 1.5  # that eos has to pass
    beam: int = 6
    temperature: float = 1.25
    heard: bool = False


YAML = """\
# A recipe in SpeechBrain's style.
seed: 2602
__set_seed: !apply:torch.manual_seed [!ref <seed>]
output_folder: !ref results/<seed>
save_folder: !ref <output_folder>/save
data_folder: !PLACEHOLDER
lr: 1.e-3
sample_rate: 16000
n_fft: 400
n_mels: {n_mels}
activation: !name:torch.nn.LeakyReLU
dropout: 0.15
cnn_channels: {channels}
dnn_neurons: {dnn}
emb_size: {emb}
output_neurons: {vocab}
blank_index: {blank}
bos_index: {bos}
eos_index: {eos}
temperature: {temperature}

normalize: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
compute_features: !new:speechbrain.lobes.features.Fbank
    sample_rate: !ref <sample_rate>
    n_fft: !ref <n_fft>
    n_mels: !ref <n_mels>
enc: !new:speechbrain.lobes.models.CRDNN.CRDNN
    input_shape: [null, null, !ref <n_mels>]
    activation: !ref <activation>
    dropout: !ref <dropout>
    cnn_blocks: 2
    cnn_channels: !ref <cnn_channels>
    cnn_kernelsize: (3, 3)
    inter_layer_pooling_size: (2, 2)
    time_pooling: True
    using_2d_pooling: False
    time_pooling_size: 4
    rnn_class: !name:speechbrain.nnet.RNN.LSTM
    rnn_layers: {rnn_layers}
    rnn_neurons: {rnn}
    rnn_bidirectional: True
    rnn_re_init: True
    dnn_blocks: {dnn_blocks}
    dnn_neurons: !ref <dnn_neurons>
    projection_dim: {projection}
    use_rnnp: {rnnp}
emb: !new:speechbrain.nnet.embedding.Embedding
    num_embeddings: !ref <output_neurons>
    embedding_dim: !ref <emb_size>
dec: !new:speechbrain.nnet.RNN.AttentionalRNNDecoder
    enc_dim: !ref <dnn_neurons>
    input_size: !ref <emb_size>
    rnn_type: {cell}
    attn_type: location
    hidden_size: {dec}
    attn_dim: {attn}
    num_layers: 1
    scaling: 1.0
    channels: 10
    kernel_size: {kernel}
    re_init: True
    dropout: !ref <dropout>
ctc_lin: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <dnn_neurons>
    n_neurons: !ref <output_neurons>
seq_lin: !new:speechbrain.nnet.linear.Linear
    input_size: {dec}
    n_neurons: !ref <output_neurons>
lm_model: !new:speechbrain.lobes.models.RNNLM.RNNLM
    output_neurons: !ref <output_neurons>
    embedding_dim: !ref <emb_size>
    activation: !name:torch.nn.LeakyReLU
    dropout: 0.0
    rnn_layers: 2
    rnn_neurons: {lm_rnn}
    dnn_blocks: 1
    dnn_neurons: {lm_dnn}
    return_hidden: True
tokenizer: !new:sentencepiece.SentencePieceProcessor
asr_model: !new:torch.nn.ModuleList
    - [!ref <enc>, !ref <emb>, !ref <dec>, !ref <ctc_lin>, !ref <seq_lin>]
encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
    input_shape: [null, null, !ref <n_mels>]
    compute_features: !ref <compute_features>
    normalize: !ref <normalize>
    model: !ref <enc>
coverage_scorer: !new:speechbrain.decoders.scorer.CoverageScorer
    vocab_size: !ref <output_neurons>
rnnlm_scorer: !new:speechbrain.decoders.scorer.RNNLMScorer
    language_model: !ref <lm_model>
    temperature: !ref <temperature>
scorer: !new:speechbrain.decoders.scorer.ScorerBuilder
    full_scorers: [!ref <rnnlm_scorer>, !ref <coverage_scorer>]
    weights:
        rnnlm: 0.5
        coverage: 1.5
decoder: !new:speechbrain.decoders.S2SRNNBeamSearcher
    embedding: !ref <emb>
    decoder: !ref <dec>
    linear: !ref <seq_lin>
    bos_index: !ref <bos_index>
    eos_index: !ref <eos_index>
    min_decode_ratio: 0.0
    max_decode_ratio: 1.0
    beam_size: {beam}
    eos_threshold: {threshold}
    using_max_attn_shift: True
    max_attn_shift: 240
    temperature: !ref <temperature>
    scorer: !ref <scorer>
modules:
    encoder: !ref <encoder>
    decoder: !ref <decoder>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        normalizer: !ref <normalize>
        asr: !ref <asr_model>
        lm: !ref <lm_model>
        tokenizer: !ref <tokenizer>
"""


def train_tokenizer(vocab: int, specials: tuple[int, int, int]) -> bytes:
    """A unigram model over capitals, as SpeechBrain trains it: with its own tokens for bos and eos, or without."""
    import sentencepiece

    chance = random.Random(0)
    words = (
        "A BLUE BIRD CAN DO EVERY FINE GAME HE IS JUST KNOWN LIKE MY NEW OLD PET QUITE RARE SO THE UP VERY WE X YOU ZOO"
    )
    known = words.split()
    if vocab > 57:  # the most that these words give
        syllables = [consonant + vowel for consonant in "BCDFGHJKLMNPQRSTVWXZ" for vowel in "AEIOUY"]
        known += ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(3 * vocab)]
    lines, sink = [" ".join(chance.choices(known, k=6)) for _ in range(max(400, vocab * 2))], io.BytesIO()
    _, bos, eos = specials
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=sink,
        vocab_size=vocab,
        model_type="unigram",
        character_coverage=1.0,
        bos_id=bos if bos else -1,
        eos_id=eos if eos else -1,
        pad_id=-1,
        unk_id=0,
        minloglevel=2,
    )
    return sink.getvalue()


class Theirs:
    """SpeechBrain's modules, which can be saved and run."""

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import sentencepiece
            from speechbrain.decoders.scorer import CoverageScorer, RNNLMScorer, ScorerBuilder
            from speechbrain.decoders.seq2seq import S2SRNNBeamSearcher, S2SRNNGreedySearcher
            from speechbrain.lobes.features import Fbank
            from speechbrain.lobes.models.CRDNN import CRDNN
            from speechbrain.lobes.models.RNNLM import RNNLM
            from speechbrain.nnet.embedding import Embedding
            from speechbrain.nnet.linear import Linear
            from speechbrain.nnet.RNN import LSTM, AttentionalRNNDecoder
            from speechbrain.processing.features import InputNormalization

        torch.manual_seed(seed)
        self.sizes = sizes
        self.features = Fbank(n_mels=sizes.n_mels)
        self.normalise = InputNormalization()
        self.encoder = CRDNN(
            input_shape=[None, None, sizes.n_mels],
            cnn_channels=sizes.channels,
            time_pooling=True,
            time_pooling_size=4,
            rnn_class=LSTM,
            rnn_layers=sizes.rnn_layers,
            rnn_neurons=sizes.rnn,
            rnn_re_init=True,
            dnn_blocks=sizes.dnn_blocks,
            dnn_neurons=sizes.dnn,
            projection_dim=sizes.projection,
            use_rnnp=sizes.rnnp,
        )
        self.embedding = Embedding(num_embeddings=sizes.vocab, embedding_dim=sizes.emb)
        self.decoder = AttentionalRNNDecoder(
            rnn_type=sizes.cell,
            attn_type="location",
            hidden_size=sizes.dec,
            attn_dim=sizes.attn,
            num_layers=1,
            enc_dim=sizes.dnn,
            input_size=sizes.emb,
            channels=10,
            kernel_size=sizes.kernel,
        )
        self.ctc = Linear(input_size=sizes.dnn, n_neurons=sizes.vocab)
        self.output = Linear(input_size=sizes.dec, n_neurons=sizes.vocab)
        self.lm = RNNLM(
            output_neurons=sizes.vocab,
            embedding_dim=sizes.emb,
            dropout=0.0,
            rnn_neurons=sizes.lm_rnn,
            dnn_neurons=sizes.lm_dnn,
            return_hidden=True,
        )
        parts = [self.encoder, self.embedding, self.decoder, self.ctc, self.output]
        self.model = torch.nn.ModuleList(parts)
        self._sharpen()
        self.tokenizer_model = train_tokenizer(sizes.vocab, sizes.specials)
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_proto=self.tokenizer_model)
        for module in (*parts, self.lm, self.features, self.normalise):
            module.eval()
        scorers = [
            RNNLMScorer(language_model=self.lm, temperature=sizes.temperature),
            CoverageScorer(vocab_size=sizes.vocab),
        ]
        search = {
            "embedding": self.embedding,
            "decoder": self.decoder,
            "linear": self.output,
            "bos_index": sizes.specials[1],
            "eos_index": sizes.specials[2],
            "min_decode_ratio": 0.0,
            "max_decode_ratio": 1.0,
        }
        self.greedy: Any = S2SRNNGreedySearcher(**search)
        self.beam: Any = S2SRNNBeamSearcher(
            **search,
            beam_size=sizes.beam,
            eos_threshold=sizes.threshold,
            using_max_attn_shift=True,
            max_attn_shift=240,
            temperature=sizes.temperature,
            scorer=ScorerBuilder(full_scorers=scorers, weights={"rnnlm": 0.5, "coverage": 1.5}),
        )

    def _sharpen(self) -> None:
        """Set weights so large that every input matters, and running statistics other than mean 0 and variance 1."""
        with torch.no_grad():
            self.output.w.weight.mul_(self.sizes.sharpness)
            self.output.w.bias[self.sizes.specials[2]] += self.sizes.ending
            self.decoder.proj.weight.mul_(2.0)
            self.decoder.attn.mlp_attn.weight.mul_(20.0)
            for weight in self.decoder.rnn.parameters():
                weight.mul_(2.0)
            self.lm.out.w.weight.mul_(self.sizes.sharpness)
            for module in self.model.modules():
                if isinstance(module, torch.nn.BatchNorm1d):
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.05, 0.4)

    @torch.inference_mode()
    def measure(self, waveforms: list[Tensor]) -> None:
        """Compute the statistics of the features, as training would."""
        self.normalise.train()
        for waveform in waveforms:
            self.normalise(self.features(waveform[None]))
        self.normalise.eval()
        if self.sizes.heard:
            self._measure_encoder(waveforms)

    def _measure_encoder(self, waveforms: list[Tensor]) -> None:
        """Set batch normalisation's statistics to the means over the waveforms."""
        norms = [module for module in self.model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for waveform in waveforms:
            self.heard(waveform)
        for norm in norms:
            norm.eval()

    @torch.inference_mode()
    def heard(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features and encoder output, `(1, T, D)` each."""
        features = self.normalise(self.features(waveform[None]), torch.ones(1))
        return features, self.encoder(features)

    @torch.inference_mode()
    def steps(self, tokens: list[int], encoder_out: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities `(U, V)` and attention `(U, T)` after bos and each of `tokens`."""
        inputs = self.embedding(torch.tensor([[self.sizes.specials[1], *tokens]]))
        out, attention = self.decoder(inputs, encoder_out, torch.ones(1))
        return self.output(out)[0].log_softmax(-1), attention[0]

    @torch.inference_mode()
    def lm_steps(self, tokens: list[int]) -> Tensor:
        """The language model's log-probabilities `(U, V)` after bos and each of `tokens`."""
        hidden, scores = None, []
        for token in [self.sizes.specials[1], *tokens]:
            logits, hidden = self.lm(torch.tensor([token]), hidden)
            scores.append(logits[0].log_softmax(-1))
        return torch.stack(scores)

    @torch.inference_mode()
    def text(self, encoder_out: Tensor, greedy: bool) -> str:
        hypotheses = (self.greedy if greedy else self.beam)(encoder_out, torch.ones(1))[0]
        return " ".join(self.tokenizer.decode_ids([int(t) for t in hypotheses[0]]).split())

    def save(self, folder: Path) -> None:
        """Write the folder with the files that SpeechBrain's pretrainer reads."""
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), folder / "asr.ckpt")
        torch.save(self.lm.state_dict(), folder / "lm.ckpt")
        self.normalise._save(folder / "normalizer.ckpt")
        (folder / "tokenizer.ckpt").write_bytes(self.tokenizer_model)
        blank, bos, eos = self.sizes.specials
        values = self.sizes.__dict__ | {"blank": blank, "bos": bos, "eos": eos}
        (folder / "hyperparams.yaml").write_text(YAML.format(**values))


def build(sizes: Sizes, waveforms: list[Tensor], folder: Path) -> Theirs:
    """A model with statistics of the waveforms, saved to a folder."""
    theirs = Theirs(sizes)
    theirs.measure(waveforms)
    theirs.save(folder)
    return theirs
