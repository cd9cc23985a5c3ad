"""Stage llm: the language model on chats in which pictures, music and speech are codes.

- The softmax is restricted to the legal sub-vocabulary of the grammar state of each target, as in the sampler; only
  those rows of the head are multiplied.
- All chats begin with the same system sentence, so its positions are computed once per batch and every chat looks at them.
- Spoken codes are first shown without repeats, then as the 50 Hz stream that the codec writes; a character CTC on the
  hidden states of spoken input helps listening while training (it is not exported).
- One head of two layers is guided to the word that is being said, another to the word that is copied from the request, while
  training only; sentences mixed
  from words of several clips and words to be copied (llm_data.py) keep speaking and listening from guessing.
- Before each spoken code a linear head learns to say its phone and the next, and before each frame of music in how many frames each sound
  of the score begins: chance does not blur that, so it is learnt sooner than the codes. In music that a person sent another head learns to
  tell the facts of the piece all along, not only where a question about them is answered, and before each frame that mini plays.
  Before each code of a picture one says which thing stands where, or place, time and style. These heads are not exported either.
- Before each frame of music six heads are guided: to the words for tempo, drums, genre, instrument and mode, and to the frame a beat ago.
- Embeddings of codes begin as random projections of the codec's code vectors; those of speech codes are mixed from the
  phones that stood in for them before the codec was there, those of a new picture tokenizer from the codes of the one before, and of
  a new music codec the levels that are as they were stay.

Options: hidden, layers, heads, ffn (sizes), tokens (padded ids a step), lr, wall (seconds: also ends after this time), dedup (share of the
session without repeats), keep=1 (no learning-rate decay at the end: another round follows), from (a family whose exported `llm` is where a
new run begins; a smaller one is enlarged), mean (a family: at the end the mean of its `llm` and this one is exported, which is often better
than either round), speech, pictures, music (factors on the share of chats with that modality), cut (share of chats without their codes),
brief (share of chats with music that end soon after it begins), haste (how many times as fast as the rest the embeddings of music codes
learn that `from` does not know: what it knows needs a low rate), compile=1 (a fifth faster after a minute; needs a C++ compiler), team and
rank (several processes with the same options and ranks 0, 1, ... train together).
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo import checkpoints
from anygpt_demo.grammar import section_of, sections
from anygpt_demo.models.llama import Llama, LlamaConfig, rotary_angles, rotate
from anygpt_demo.train.llm_data import FACTS, FAR, KNOWN, LETTERS, PAINTED, SOUNDS, Document, Library, Stream, View
from anygpt_demo.train.loop import Run, Settings
from anygpt_demo.train.speech_data import PHONES
from anygpt_demo.train.team import Team
from anygpt_demo.train.text_tokenizer import mini_modalities
from anygpt_demo.vocabulary import Vocabulary

# Dimension names: P prefix positions, B batch, T positions of the longest chat, D width, H heads, E head width.
INIT_STD = 0.02
KEEP = 0.999  # share of the average of weights that stays in each step
ALONE = 250  # steps after begin_from() in which only the aids learn: new ones would undo what the model knows
ALONE_RATE = 3e-3  # of the aids, meanwhile
WARM_UP = 150  # steps in which the rate rises
RESCAN_S = 150.0  # wall seconds between looks for new codes
EVALUATE_S = 480.0  # CPU seconds between evaluations and exports
CTC_WEIGHT = 0.5
GUIDE_WEIGHT = 0.3
GUIDES = 3  # heads of a guided layer: one for what is said, one for what is copied; for FACTS of music see facts_loss()
SEATS = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (1, 2))  # guided layer and head of each of the FACTS
SOUND_WEIGHT = 0.5
PLAY_WEIGHT = 0.6
KNOW_WEIGHT = 0.5
PAINT_WEIGHT = 0.5
LONGEST_WORD = 6  # pieces
SAMPLING = {  # a small model errs where it is drawn at full heat, and a penalty on repeated codes cuts its held notes
    "image": {"temperature": 0.3, "guidance": 1.5}, "speech": {"guidance": 1.3, "tries": 3}, "text": {"temperature": 0.3},
    "music": {"top_k": 50, "repetition_penalty": 1.0, "guidance": 2.5}, "heard": {"temperature": 1.0, "beams": 5},
}  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Padded chats. ids, shown: int64 (B, T), 0 after the end; weights: float32 (B, T); heard: (row, first, length, letters).

    said: int64 (m, 6), copied: (m, 4), played: (m, 1 + PLAYED), known: (m, 2 + len(KNOWN)), painted:
    (m, 2 + len(PAINTED)): row, then as in Document.
    """

    ids: Tensor
    shown: Tensor
    weights: Tensor
    heard: tuple[tuple[int, int, int, tuple[int, ...]], ...]
    said: Tensor
    copied: Tensor
    played: Tensor
    known: Tensor
    painted: Tensor

    @property
    def tokens(self) -> int:
        """Ids that are not padding."""
        return int((self.ids != 0).sum())


def collate(documents: Sequence[Document]) -> Batch:
    """Pad chats to one length."""
    longest = max(len(item.ids) for item in documents)
    ids = torch.zeros(len(documents), longest, dtype=torch.int64)
    shown, weights = torch.zeros_like(ids), torch.zeros(len(documents), longest)
    heard: list[tuple[int, int, int, tuple[int, ...]]] = []
    aids: list[list[np.ndarray]] = [[], [], [], [], []]
    for row, item in enumerate(documents):
        ids[row, : len(item.ids)] = torch.from_numpy(item.ids)
        shown[row, : len(item.ids)] = torch.from_numpy(item.shown)
        weights[row, : len(item.ids)] = torch.from_numpy(item.weights)
        heard += [(row, first, length, letters) for first, length, letters in item.heard]
        for aid, rows in zip(aids, (item.said, item.copied, item.played, item.known, item.painted), strict=True):
            aid.append(np.column_stack([np.full(len(rows), row), rows]))
    return Batch(ids, shown, weights, tuple(heard), *(torch.from_numpy(np.concatenate(aid)) for aid in aids))


def hidden_states(model: Llama, prefix: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised hidden states of chats that share a prefix. prefix: int64 (P,); ids: int64 (B, T). Returns (B, T, D).

    Equal to reading prefix + ids[b] for every b, with the prefix computed once. Also returns where the first heads of some layers
    look: (layers, B, GUIDES, T, P + T), shares.
    """
    config, (batch, length), lead = model.config, ids.shape, len(prefix)
    heads, width = config.num_attention_heads, config.head_dim
    cos, sin = rotary_angles(torch.arange(lead + length, device=ids.device), width, config.rope_theta, config.rope_scaling)
    mask = torch.ones(length, lead + length, dtype=torch.bool, device=ids.device).tril(lead)
    x = model.model.embed_tokens(torch.cat([prefix, ids.reshape(-1)]))[None]

    def split(y: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        first = y[:, :lead].view(1, lead, groups, width).transpose(1, 2)
        return first, y[:, lead:].reshape(batch, length, groups, width).transpose(1, 2)

    guided, looks = guided_layers(config), []
    for number, layer in enumerate(model.model.layers):
        attention, normed = layer.self_attn, layer.input_layernorm(x)
        query0, query = split(attention.q_proj(normed), heads)
        key0, key = split(attention.k_proj(normed), config.num_key_value_heads)
        value0, value = split(attention.v_proj(normed), config.num_key_value_heads)
        query0, key0 = rotate(query0, cos[:lead], sin[:lead]), rotate(key0, cos[:lead], sin[:lead])
        query, key = rotate(query, cos[lead:], sin[lead:]), rotate(key, cos[lead:], sin[lead:])
        keys = torch.cat([key0.expand(batch, -1, -1, -1), key], 2)
        values = torch.cat([value0.expand(batch, -1, -1, -1), value], 2)
        grouped = heads != config.num_key_value_heads
        mixed0 = F.scaled_dot_product_attention(query0, key0, value0, is_causal=True, enable_gqa=grouped)
        mixed, shares = _attend(query, keys, values, mask, heads // config.num_key_value_heads)
        if number in guided:
            looks.append(shares[:, :GUIDES])
        joined = torch.cat([mixed0.transpose(1, 2).reshape(1, lead, -1), mixed.transpose(1, 2).reshape(1, batch * length, -1)], 1)
        x = x + attention.o_proj(joined)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.model.norm(x[:, lead:]).view(batch, length, -1), torch.stack(looks)


def guided_layers(config: LlamaConfig) -> tuple[int, ...]:
    """Layers whose first heads learn to look at the word that is being said or copied: in the middle, and next to the last."""
    return tuple(sorted({config.num_hidden_layers // 3, max(0, config.num_hidden_layers - 2)}))


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, copies: int) -> tuple[Tensor, Tensor]:
    """Attention by plain products, for short chats much faster backwards than the fused kernel. mask: bool (T, P + T), True = may look.

    Returns the mixed values and the shares.
    """
    if copies > 1:
        keys, values = keys.repeat_interleave(copies, 1), values.repeat_interleave(copies, 1)
    scores = query @ keys.transpose(-1, -2) * query.shape[-1] ** -0.5
    shares = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return shares.to(values.dtype) @ values, shares


class RestrictedLoss:
    """Cross-entropy within the section (legal sub-vocabulary) of each target."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.section = torch.from_numpy(section_of(vocabulary, np.arange(vocabulary.size)).astype(np.int64))
        self.ranges = sections(vocabulary)
        self.place = torch.zeros(vocabulary.size, dtype=torch.int64)  # of an id within its section
        for ranges in self.ranges:
            at = 0
            for low, high in ranges:
                self.place[low:high] = torch.arange(at, at + high - low)
                at += high - low
        names = ["text"]
        for name, item in vocabulary.ranges.items():
            names += [name] * item.modality.layers
        self.names = names
        edges = sorted({0, vocabulary.size, *(edge for ranges in self.ranges for pair in ranges for edge in pair)})
        self.widths = [high - low for low, high in zip(edges, edges[1:], strict=False)]
        self.parts = [[number for number, low in enumerate(edges[:-1]) if any(a <= low < b for a, b in ranges)] for ranges in self.ranges]

    def __call__(self, model: Llama, hidden: Tensor, batch: Batch) -> tuple[Tensor, dict[str, tuple[float, float]]]:
        """hidden: (B, T, D). Returns the weighted mean, and per kind of token the (sum of losses, count) on replies."""
        targets, weights = batch.ids[:, 1:].reshape(-1), batch.weights[:, 1:].reshape(-1)
        flat = hidden[:, :-1].reshape(-1, hidden.shape[-1])
        section = self.section[targets]
        total = hidden.new_zeros((), dtype=torch.float32)
        pieces = torch.split(model.head, self.widths)  # one split: its gradient is put together once
        figures: dict[str, tuple[float, float]] = {}
        for index in torch.unique(section[weights > 0]).tolist():
            if index < 0:
                continue
            chosen = (section == index) & (weights > 0)
            rows = torch.cat([pieces[number] for number in self.parts[index]])
            losses = F.cross_entropy(F.linear(flat[chosen], rows).float(), self.place[targets[chosen]], reduction="none")
            total = total + (losses * weights[chosen]).sum()
            learnt = weights[chosen] >= 0.2
            before = figures.get(self.names[index], (0.0, 0.0))
            figures[self.names[index]] = (before[0] + float(losses.detach()[learnt].sum()), before[1] + float(learnt.sum()))
        return total / weights.sum().clamp(min=1.0), figures


def listening_loss(head: nn.Linear, hidden: Tensor, batch: Batch) -> Tensor | None:
    """Character CTC on the positions of spoken input; None if there is none. hidden: (B, T, D)."""
    spans = [span for span in batch.heard if span[2] > len(span[3])]
    if not spans:
        return None
    states = nn.utils.rnn.pad_sequence([hidden[row, first : first + length] for row, first, length, _ in spans], batch_first=True)
    shares = head(states).float().log_softmax(-1).transpose(0, 1)
    letters = torch.tensor([letter for *_, text in spans for letter in text])
    lengths = torch.tensor([length for _, _, length, _ in spans])
    return F.ctc_loss(shares, letters, lengths, torch.tensor([len(text) for *_, text in spans]), zero_infinity=True)


def speaking_loss(looks: Tensor, batch: Batch, lead: int) -> Tensor | None:
    """How far the guided heads are from looking at the word that each spoken code says, in nats; None without spoken replies.

    looks: as hidden_states() returns; lead: P. (Guided attention as in arXiv 1710.08969, with the true words for the diagonal.)
    """
    return _guide(looks, 0, batch.said[:, :4], batch, lead)


def copying_loss(looks: Tensor, batch: Batch, lead: int) -> Tensor | None:
    """The same for words of a reply that stand in the request; None without such words."""
    return _guide(looks, min(1, looks.shape[2] - 1), batch.copied, batch, lead)


def _guide(looks: Tensor, head: int, places: Tensor, batch: Batch, lead: int) -> Tensor | None:
    """places: int64 (m, 4), row, position that looks, first and end of where it should look."""
    if not len(places):
        return None
    row, query, first, end = places.unbind(1)
    at = first[:, None] + torch.arange(LONGEST_WORD)
    shares = looks[:, :, head][:, row[:, None], query[:, None], lead + at.clamp(max=batch.ids.shape[1] - 1)].float()
    return -(shares * (at < end[:, None])).sum(-1).clamp(min=1e-4).log().mean()


def sounding_loss(head: nn.Linear, hidden: Tensor, batch: Batch) -> Tensor | None:
    """How far the hidden states before spoken codes are from knowing the phone that comes and the one after it, in nats.

    hidden: (B, T, D). None without spoken replies. Codes vary with voice and room; phones are what the words say of them.
    """
    if not len(batch.said):
        return None
    row, query, _, _, *phones = batch.said.unbind(1)
    shares = head(hidden[row, query]).float().view(-1, 2, PHONES)
    return F.cross_entropy(shares.flatten(0, 1), torch.stack(phones, 1).flatten(), ignore_index=-1)


def playing_loss(head: nn.Linear, hidden: Tensor, batch: Batch) -> Tensor | None:
    """How far the hidden states before frames of music are from knowing when each sound of the score begins, in nats; None without music.

    hidden: (B, T, D). Rhythm is little among thousands of codes and shows only where something begins; counting down to it teaches sooner.
    """
    if not len(batch.played):
        return None
    row, query = batch.played[:, 0], batch.played[:, 1]
    shares = head(hidden[row, query]).float().view(-1, FAR + 1)
    return F.cross_entropy(shares, batch.played[:, 2 : 2 + SOUNDS].flatten(), ignore_index=-1)


def knowing_loss(head: nn.Linear, hidden: Tensor, batch: Batch) -> Tensor | None:
    """How far the hidden states in music are from knowing the facts of the piece, in nats; None without music.

    hidden: (B, T, D). A caption names them once for hundreds of codes; asked for all along, listening is learnt in far fewer pieces. Before
    each frame that mini plays they are asked for, too, and in the first they can only come from what a person wrote.
    """
    played = torch.cat([batch.played[:, :2], batch.played[:, -len(KNOWN) :]], 1)
    terms = []
    for row, place, *facts in (rows.unbind(1) for rows in (batch.known, played) if len(rows)):
        shares = head(hidden[row, place]).float().split([len(classes) for classes in KNOWN.values()], 1)
        terms += [F.cross_entropy(share, fact) for share, fact in zip(shares, facts, strict=True)]
    return torch.stack(terms).sum() / len(KNOWN) if terms else None


def painting_loss(head: nn.Linear, hidden: Tensor, batch: Batch) -> Tensor | None:
    """How far the hidden states before codes of a picture are from knowing what it shows there, in nats; None without such pictures.

    hidden: (B, T, D). Eight codes say together which thing stands where, among much else; asked for it before each, a model sooner
    learns to put down what was asked for.
    """
    if not len(batch.painted):
        return None
    row, place, *facts = batch.painted.unbind(1)
    shares = head(hidden[row, place]).float().split(list(PAINTED.values()), 1)
    terms = [F.cross_entropy(share, fact, ignore_index=-1) for share, fact in zip(shares, facts, strict=True)]
    return torch.stack(terms).mean()


def facts_loss(looks: Tensor, batch: Batch, lead: int) -> Tensor | None:
    """How far the guided heads are from looking, before each frame, at the words for tempo, drums, genre, instrument and mode, and at the
    frame that sounded one beat ago, in nats.

    looks: as hidden_states() returns; lead: P. Each of the FACTS has a head of its own. None without music.
    """
    places = batch.played[:, 2 + SOUNDS : -len(KNOWN)].reshape(-1, len(FACTS), 2)
    terms = []
    for number, (layer, head) in enumerate(SEATS):
        known = places[:, number, 0] >= 0
        if bool(known.any()) and layer < len(looks) and head < looks.shape[2]:
            spans = torch.cat([batch.played[known, :2], places[known, number]], 1)
            terms.append(_guide(looks[layer : layer + 1], head, spans, batch, lead))
    return torch.stack([term for term in terms if term is not None]).mean() if terms else None


# --- embeddings of codes ---


def _project(vectors: Tensor, width: int, seed: int) -> Tensor:
    """Random projection of code vectors (n, d), standardised, to (n, width) with the usual spread."""
    vectors = (vectors.float() - vectors.float().mean(0)) / vectors.float().std(0).clamp(min=1e-5)
    matrix = torch.randn(vectors.shape[1], width, generator=torch.Generator().manual_seed(seed))
    return vectors @ matrix / vectors.shape[1] ** 0.5 * INIT_STD


ROLES = {"image": ("image_tokenizer", 1), "speech": ("speech_tokenizer", 1), "music": ("music_codec", 4)}  # codec and layers that are read


def codec_mark(family: Path, name: str) -> str:
    """A few letters that change when the codec's codebooks change; "" without a codec."""
    import hashlib

    vectors = code_vectors(family, name)
    return hashlib.sha256(b"".join(part.float().numpy().tobytes() for part in vectors)).hexdigest()[:8] if vectors else ""


def code_vectors(family: Path, name: str) -> list[Tensor]:
    """Codebooks (n, d) of a trained codec, one per layer that the language model reads; empty if there is none."""
    role, layers = ROLES[name]
    try:
        state = checkpoints.Family.open(family).component(role).state()
    except checkpoints.BadCheckpoint:
        return []
    endings = {"image": "quantize.embedding.weight", "speech": "layers.{}._codebook.embed", "music": "layers.{}.codebook.embed"}[name]
    found = [value for layer in range(layers) for key, value in state.items() if key.endswith(endings.format(layer)) and "quant" in key]
    return found if len(found) == layers else []


def phone_shares(library: Library, codebook: int) -> Tensor:
    """How often each speech code stands for each phone, as shares: float32 (codebook, PHONES); unused codes get the mean."""
    counts = torch.zeros(codebook, PHONES)
    for name, codes in library.clips.streams.items():
        phones = np.fromfile(library.runs / "data" / "speech" / name / "phones.u8", np.uint8)[: len(codes)]
        known = phones < PHONES
        flat = codes[: len(phones)][known].astype(np.int64) * PHONES + phones[known]
        counts += torch.from_numpy(np.bincount(flat, minlength=codebook * PHONES)).view(codebook, PHONES).float()
    counts = counts + counts.sum(0) / counts.sum() * 2.0
    return counts / counts.sum(1, keepdim=True)


def translation(old: np.ndarray, new: np.ndarray, codebook: int) -> Tensor:
    """How often each new code stands where an old one stood, as shares.

    old, new: codes of the same pictures, uint16 of one shape. Returns float32 (codebook, codebook): a row for each new code,
    zero where it is not in use.
    """
    pairs = new.astype(np.int64).ravel() * codebook + old.ravel()
    counts = torch.from_numpy(np.bincount(pairs, minlength=codebook**2)).view(codebook, codebook).float()
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def enlarged(state: Mapping[str, Tensor], model: Llama) -> dict[str, Tensor]:
    """Weights of a smaller model in the sizes of `model`, which with them computes the same (Net2Net, arXiv 1511.05641).

    What is new keeps the random values of `model`, but adds nothing yet: its way back into the residual stream is zero. New layers stand
    before the last two, new units of the feed-forward networks at the end; all other sizes must be equal. Returns `model`'s shapes.
    """
    before = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("model.layers."))
    fresh = range(max(0, before - 2), max(0, before - 2) + model.config.num_hidden_layers - before)
    made = {key: value.detach().clone() for key, value in model.state_dict().items()}
    for key, value in made.items():
        if key.endswith(("o_proj.weight", "down_proj.weight")):
            value.zero_()
        elif value.ndim == 1:
            value.fill_(1.0)
    wanted = {key for key in made if not key.startswith(tuple(f"model.layers.{number}." for number in fresh))}
    for key, value in state.items():
        parts = key.split(".")
        if key.startswith("model.layers.") and int(parts[2]) >= fresh.start:
            parts[2] = str(int(parts[2]) + len(fresh))
        wanted.discard(".".join(parts))
        place = made.get(".".join(parts))
        if place is None or place.ndim != value.ndim or any(new < old for new, old in zip(place.shape, value.shape, strict=True)):
            raise checkpoints.BadCheckpoint(f"`{key}` is larger than in the model.", "Models only grow.", "Give sizes at least as large.")
        if "mlp" not in key and place.shape != value.shape:
            raise checkpoints.BadCheckpoint(f"`{key}` has another width.", "Only layers and `ffn` can grow.", "Keep `hidden` and `heads`.")
        place[tuple(slice(size) for size in value.shape)] = value.float()
    if wanted:
        raise checkpoints.BadCheckpoint(f"`{min(wanted)}` is missing.", "The weights are not whole.", "Export them again.")
    return made


class Trainer:
    """The model, its optimizer and what has been adopted so far."""

    def __init__(self, settings: Settings, team: Team | None = None) -> None:
        self.settings = settings
        self.team = team or Team()
        options = settings.options
        self.vocabulary = Vocabulary(settings.family / "tokenizer", mini_modalities())
        self.config = LlamaConfig(
            vocab_size=self.vocabulary.size, hidden_size=int(options.get("hidden", 256)), intermediate_size=int(options.get("ffn", 1408)),
            num_hidden_layers=int(options.get("layers", 8)), num_attention_heads=int(options.get("heads", 4)),
            num_key_value_heads=int(options.get("heads", 4)), max_position_embeddings=2048, tie_word_embeddings=True,
        )  # fmt: skip
        torch.manual_seed(settings.seed)
        self.model = Llama(self.config)
        self.listening = nn.Linear(self.config.hidden_size, len(LETTERS))
        self.playing = nn.Linear(self.config.hidden_size, SOUNDS * (FAR + 1))
        self.sounding = nn.Linear(self.config.hidden_size, 2 * PHONES)
        self.knowing = nn.Linear(self.config.hidden_size, sum(map(len, KNOWN.values())))
        self.painting = nn.Linear(self.config.hidden_size, sum(PAINTED.values()))
        for name, parameter in self.model.named_parameters():
            if parameter.ndim == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=INIT_STD / (2 * self.config.num_hidden_layers) ** 0.5 if deep else INIT_STD)
        self.rate = float(options.get("lr", 1e-3))
        self.aids = (self.listening, self.playing, self.sounding, self.knowing, self.painting)  # heads that only training has
        self.parameters = [*self.model.parameters(), *(item for aid in self.aids for item in aid.parameters())]
        matrices = [item for item in self.parameters if item.ndim == 2]
        others = [item for item in self.parameters if item.ndim != 2]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.95), fused=True)
        self.loss = RestrictedLoss(self.vocabulary)
        self.read = torch.compile(hidden_states, dynamic=True) if options.get("compile") == "1" else hidden_states
        self.prefix = torch.tensor([self.vocabulary.bos, *self.vocabulary.encode_text(_system())])
        self.steps = 0
        self.alone = 0  # steps in which only the aids learn
        self.adopted: set[str] = set()  # modalities whose embeddings came from their codec
        self.haste = float(options.get("haste", 1))
        weight = self.model.model.embed_tokens.weight.detach()
        self.hasty = [weight[low:high] for _, low, high, _ in self._changed("music")] if self.haste != 1 else []
        self.begin_average()

    def begin_average(self, trained: bool = False) -> None:
        """The average, which is what is exported, becomes what the model is now. trained: it is worth keeping; else it soon makes way."""
        self.averaged = 20 / (1 - KEEP) if trained else 0.0  # steps in it
        self.average = {key: value.clone() for key, value in self.model.state_dict().items()}

    def state(self) -> dict[str, object]:
        """Everything that resuming needs."""
        return {
            "model": self.model.state_dict(), "average": self.average, "averaged": self.averaged,
            "aids": [aid.state_dict() for aid in self.aids], "optimizer": self.optimizer.state_dict(),
            "steps": self.steps, "alone": self.alone, "adopted": sorted(self.adopted),
        }  # fmt: skip

    def load(self, state: dict[str, object]) -> None:
        """Continue from state()."""
        self.model.load_state_dict(state["model"])  # type: ignore[arg-type]
        for aid, own in zip(self.aids, state["aids"], strict=True):  # type: ignore[call-overload]
            aid.load_state_dict(own)
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.steps = int(state["steps"])  # type: ignore[call-overload]
        self.alone = int(state.get("alone", 0))  # type: ignore[call-overload]
        self.average, self.averaged = state["average"], float(state["averaged"])  # type: ignore[assignment, arg-type]
        self.adopted = set(state["adopted"])  # type: ignore[call-overload]

    def begin_from(self, family: Path) -> None:
        """Start from exported weights; the embeddings of codecs that are still the same are kept."""
        checkpoints.load_strict(self.model, enlarged(checkpoints.Family.open(family).component("llm").state(), self.model), "llm")
        self.begin_average(trained=True)
        self.alone = ALONE
        marks = ((name, codec_mark(family, name)) for name in ROLES)
        self.adopted = {f"{name} {mark}" for name, mark in marks if mark and mark == codec_mark(self.settings.family, name)}

    def adopt(self, library: Library) -> None:
        """Start the embeddings of modalities whose codes have appeared, or appeared anew from another codec."""
        there = {
            "image": library.pictures is not None,
            "music": library.music is not None,
            "speech": library.clips.coded and bool(library.clips.clips),
        }
        for name in [name for name, coded in there.items() if coded]:
            key = f"{name} {codec_mark(self.settings.family, name)}"
            if key in self.adopted:
                continue
            before = library.pictures.previous if name == "image" and library.pictures is not None else None
            if name == "speech":
                self._adopt_speech(library)
            elif before is not None and any(one.startswith("image ") for one in self.adopted):
                self._adopt_translated(before, library.pictures.codes)  # type: ignore[union-attr]
            else:
                self._adopt_vectors(name)
            self.adopted.add(key)

    def _adopt_translated(self, before: np.ndarray, codes: np.ndarray) -> None:
        """Rows of the codes of a new picture tokenizer: mixed from those of the old codes that stood in the same places."""
        low, high = self.vocabulary.ranges["image"].layer(0)
        shares = translation(before, codes, high - low)
        old = self.model.head[low:high].detach().clone()
        used = shares.sum(1, keepdim=True) > 0
        self._set_rows(low, high, torch.where(used, shares @ old, old))

    def _changed(self, name: str) -> list[tuple[int, int, int, Tensor]]:
        """Layers of codes whose vectors are not those of the family `from`: number, first and end of the rows, vectors (n, d)."""
        item, origin = self.vocabulary.ranges[name], self.settings.options.get("from")
        before = code_vectors(Path(origin), name) if origin else []
        found = []
        for layer, vectors in enumerate(code_vectors(self.settings.family, name)):
            low, high = item.layer(layer)
            if len(vectors) == high - low and not (layer < len(before) and torch.equal(before[layer], vectors)):
                found.append((layer, low, high, vectors))
        return found

    def _adopt_vectors(self, name: str) -> None:
        """Rows of each layer: spread about their old mean as the code vectors are; a layer that the new codec kept stays."""
        for layer, low, high, vectors in self._changed(name):
            old = self.model.head[low:high].detach()
            mean = old.mean(0)
            size = (old - mean).std() / INIT_STD
            self._set_rows(low, high, mean + size * _project(vectors, self.config.hidden_size, 7 + layer))

    def _adopt_speech(self, library: Library) -> None:
        """Rows of speech codes: the mixture of their phones' rows, a little of their code vector, a little noise."""
        low, high = self.vocabulary.ranges["speech"].layer(0)
        phones = self.model.head[low : low + PHONES].detach().clone()
        rows = phone_shares(library, high - low) @ phones
        vectors = code_vectors(self.settings.family, "speech")
        if vectors and len(vectors[0]) == high - low:
            rows = rows + 0.3 * _project(vectors[0], self.config.hidden_size, 5)
        self._set_rows(low, high, rows + 0.2 * INIT_STD * torch.randn(rows.shape, generator=torch.Generator().manual_seed(6)))

    def _set_rows(self, low: int, high: int, rows: Tensor) -> None:
        weight = self.model.model.embed_tokens.weight
        with torch.no_grad():
            weight[low:high] = rows.to(weight.dtype)
        for value in self.average.values():
            if value.shape == weight.shape:
                value[low:high] = rows
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in self.optimizer.state.get(weight, {}):
                self.optimizer.state[weight][moment][low:high] = 0.0

    def step(self, documents: Sequence[Document], factor: float, going: bool = True) -> tuple[int, dict[str, tuple[float, float]], bool]:
        """One update at `factor` of the learning rate. Returns the ids read, the losses by kind of token, and whether all are going."""
        batch = collate(documents)
        known = self.steps - self.alone  # steps of the model itself
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(known >= 0):
                hidden, looks = self.read(self.model, self.prefix, batch.shown)
            loss, figures = self.loss(self.model, hidden, batch)
            heard = listening_loss(self.listening, hidden, batch)
        lead = len(self.prefix)
        aids = {
            "ctc": (CTC_WEIGHT, heard),
            "guide": (GUIDE_WEIGHT, speaking_loss(looks, batch, lead)),
            "copy": (GUIDE_WEIGHT, copying_loss(looks, batch, lead)),
            "phone": (SOUND_WEIGHT, sounding_loss(self.sounding, hidden, batch)),
            "play": (PLAY_WEIGHT, playing_loss(self.playing, hidden, batch)),
            "know": (KNOW_WEIGHT, knowing_loss(self.knowing, hidden, batch)),
            "paint": (PAINT_WEIGHT, painting_loss(self.painting, hidden, batch)),
            "facts": (GUIDE_WEIGHT, facts_loss(looks, batch, lead)),
        }
        for name, (weight, term) in aids.items():
            if term is not None:
                loss = loss + weight * term
                figures[name] = (float(term.detach()), 1.0)
        self.optimizer.zero_grad()
        loss.backward()
        factor, going = self.team.average(self.parameters, factor, going)
        for group in self.optimizer.param_groups:
            group["lr"] = ALONE_RATE if known < 0 else self.rate * factor * min(1.0, (known + 1) / WARM_UP)
        if known < 0:
            for parameter in self.model.parameters():
                parameter.grad = None
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        rows = [part.clone() for part in self.hasty]
        self.optimizer.step()
        for part, before in zip(self.hasty, rows, strict=True):
            part.sub_(before).mul_(self.haste).add_(before)
        self.steps += 1
        self.team.share(self.steps, self.parameters)
        self.averaged += 1
        keep = min(KEEP, (1 + self.averaged) / (10 + self.averaged))
        for key, value in self.model.state_dict().items():
            self.average[key].lerp_(value, 1 - keep)
        return batch.tokens, figures, going

    def mix(self, family: Path) -> None:
        """The average becomes its mean with the `llm` of a family (weights of rounds on one path, arXiv 2203.05482)."""
        own = checkpoints.Family.open(family).component("llm").state()
        self.average = {key: (value + own[key].float()) / 2 for key, value in self.average.items()}

    def export(self) -> None:
        """Write the `llm` of the family."""
        checkpoints.export(self.settings.family, "llm", self.config.to_json() | {"sampling": SAMPLING}, self.average)


def _system() -> str:
    from anygpt_demo.protocol import SYSTEM

    return SYSTEM + "\n"


def schedule(progress: float, keep: bool = False) -> float:
    """Learning-rate factor: constant, then linear to 3 % over the last 30 % of the budget (a longer budget goes on at full rate)."""
    return 1.0 if keep or progress < 0.7 else max(0.03, 1.0 - 0.97 * (progress - 0.7) / 0.3)


def repeats(progress: float, dedup: float) -> float:
    """Share of chats with the official repeats: none at first, then a ramp to 95 % over a tenth of the budget."""
    return min(0.95, max(0.0, (progress - dedup) / 0.1))


class _Means:
    """Moving means of the losses by kind of token."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def add(self, figures: dict[str, tuple[float, float]]) -> None:
        for name, (total, count) in figures.items():
            if count:
                old = self.values.get(name, total / count)
                keep = 0.98 ** min(count, 20)
                self.values[name] = keep * old + (1 - keep) * total / count


def train(settings: Settings) -> None:
    """Train, evaluate and export until the budget (or the wall option) is spent."""
    run = Run("llm", settings)
    team = Team(int(settings.options.get("rank", 0)), int(settings.options.get("team", 1)), int(settings.options.get("port", 29511)))
    trainer = Trainer(settings, team)
    state = run.resume()
    if state is not None:
        trainer.load(state)
    elif "from" in settings.options:
        trainer.begin_from(Path(settings.options["from"]))
    _loop(run, trainer)
    if team.leads:
        _publish(run, trainer)
    if team.leads and "mean" in settings.options:  # after the state is saved: the next round goes on from the round itself
        trainer.mix(Path(settings.options["mean"]))
        trainer.export()


def _publish(run: Run, trainer: Trainer) -> None:
    """Save, export, then measure."""
    run.save(trainer.state())
    trainer.export()
    _evaluate(run, trainer)
    run.plot()


def _stream(trainer: Trainer, library: Library) -> Stream:
    """Documents from here on; a resumed run does not repeat those it has seen, and no member of a team sees another's."""
    seed = random.Random(f"{trainer.settings.seed} {trainer.steps} {trainer.team.rank}").getrandbits(32)
    options = trainer.settings.options
    scale = {letter: float(options[name]) for letter, name in (("s", "speech"), ("p", "pictures"), ("m", "music")) if name in options}
    return Stream(trainer.vocabulary, library, trainer.settings.data, seed, scale)


@dataclass
class _Session:
    """The clock of one session: every session has a schedule of its own, so a longer budget is a warm restart."""

    run: Run
    wall: float  # seconds
    began: float
    first_s: float

    @property
    def progress(self) -> float:
        """Share of this session's CPU budget or wall time, whichever is further."""
        spent = (self.run.used_s - self.first_s) / max(1.0, self.run.settings.budget_s - self.first_s)
        return max(spent, (time.monotonic() - self.began) / self.wall)

    @property
    def going(self) -> bool:
        """Whether this member wants another step."""
        return self.run.going and time.monotonic() - self.began < self.wall


def _loop(run: Run, trainer: Trainer) -> None:
    settings, options = run.settings, run.settings.options
    dedup, keep = float(options.get("dedup", 0.6)), options.get("keep") == "1"
    session = _Session(run, float(options.get("wall", "inf")), time.monotonic(), run.used_s)
    scanned = logged = session.began
    library = Library(settings.runs, settings.seed)
    trainer.adopt(library)
    stream = _stream(trainer, library)
    means, tokens, next_check, speed = _Means(), 0, run.used_s + EVALUATE_S, run.used_s
    going = session.going
    while going:
        if time.monotonic() - scanned > RESCAN_S:
            scanned = time.monotonic()
            fresh = Library(settings.runs, settings.seed)
            if fresh.stamp != library.stamp:
                library = fresh
                trainer.adopt(library)
                stream = _stream(trainer, library)
        view = View(repeats=repeats(session.progress, dedup), cut=float(options.get("cut", 0.0)), brief=float(options.get("brief", 0.0)))
        for documents in stream.batches(view, int(options.get("tokens", 1000))):
            count, figures, going = trainer.step(documents, schedule(session.progress, keep), session.going)
            tokens += count
            means.add(figures)
            if not going:
                break
        if not trainer.team.leads:
            continue
        if time.monotonic() - logged > 30:
            rate = tokens / max(1.0, time.monotonic() - logged) * trainer.team.size
            run.log(step=trainer.steps, **means.values, tokens_per_s=rate, tokens_per_cpu_s=tokens / max(1e-9, run.used_s - speed))
            logged, tokens, speed = time.monotonic(), 0, run.used_s
        if run.due():
            run.save(trainer.state())
        if run.used_s > next_check and going:
            next_check = run.used_s + EVALUATE_S
            _publish(run, trainer)


def _evaluate(run: Run, trainer: Trainer) -> None:
    """Small held-out checks while training."""
    from anygpt_demo.eval.chat import quick_figures

    model = copy.deepcopy(trainer.model)
    model.load_state_dict(trainer.average)
    run.log(**quick_figures(model, trainer.vocabulary, run.settings.runs))
