"""Longer than one block: music that goes on in step with itself and without a seam, and speech by the sentence."""

from __future__ import annotations

import os
import threading

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import numpy as np
import pytest
import torch

from anygpt_demo import archive, lens, tasks
from anygpt_demo.chat import Card, Chat, Finished, Made, Message, Opening, Piece, Progress, Settings
from anygpt_demo.conversation import Conversation, Journal, MediaPart, TextPart, Turn
from anygpt_demo.engine import LocalEngine
from anygpt_demo.longer import PAUSE_S, Pauses, blocks_of, joined, lengthen, like_now, onward, quoted
from anygpt_demo.media import Audio, Voice
from anygpt_demo.models.llama import Llama, LlamaConfig
from anygpt_demo.turns import act
from anygpt_demo.view import literal, reply_content, view_of
from anygpt_demo.visitors import Visitors
from tests.test_music_codec import codec  # noqa: F401 - a fixture

PERIOD = 30  # frames of one bar


def bars(frames: int, start: int = 0) -> np.ndarray:
    """A pattern that repeats: frame t is the number t modulo the bar, in all layers."""
    return np.repeat(((np.arange(frames) + start) % PERIOD)[:, None], 4, 1)


class Musician:
    """An engine that looks at the last frame and plays the next one of the bar; after `patience` frames it wants to end."""

    context = 4096

    def __init__(self, vocabulary, patience=10_000):
        self.vocabulary, self.patience, self.prompts = vocabulary, patience, []

    def generate(self, ids, grammar, *, seed, stop, max_new):
        self.prompts.append(list(ids))
        item = self.vocabulary.ranges["music"]
        last = int(self.vocabulary.codes("music", ids[-4:])[0, 0])
        for count in range(max_new):
            legal = grammar.allowed().ranges
            may_end = any(low <= item.end < high for low, high in legal)
            full = may_end and sum(high - low for low, high in legal) == 1
            if full or (may_end and count >= 4 * self.patience):
                grammar.advance(item.end)
                yield item.end
                return
            number = item.first + count % 4 * item.modality.codebook + (last + 1 + count // 4) % PERIOD
            grammar.advance(number)
            yield number


class Silent:
    """An engine that breaks."""

    context = 4096

    def generate(self, *given, **options):
        raise RuntimeError("told to")


def talk(vocabulary, journal=None):
    conversation = Conversation(journal=journal)
    block = vocabulary.block("music", bars(100))
    ids = (*vocabulary.encode_text("Here:"), *block)
    part = MediaPart("music", bars(100))
    conversation.add(Turn("human", (TextPart("Play."),)), Turn("mmgpt", (TextPart("Here:"), part), None, ids, {"seed": 1}))
    return conversation


def test_half_a_minute_goes_on_in_step_and_sounds_as_one_line_of_codes(vocabulary, codec, tmp_path):  # noqa: F811
    musician, conversation = Musician(vocabulary), talk(vocabulary, Journal(tmp_path))
    chat = Chat(vocabulary, musician, lambda name: codec)
    updates = list(lengthen(chat, conversation, 1, 1, 30.0))
    made, last = updates[-2:]
    assert isinstance(made, Made) and isinstance(last, Finished) and last.reason == "eos"
    whole = codec.decode(bars(1500)).samples  # tempo: every frame in its place in the bar; level: one state of the decoder
    assert made.media.seconds == 30.0 and np.abs(made.media.samples - whole).max() <= 1e-4
    pieces = [update for update in updates if isinstance(update, Piece)]
    assert np.array_equal(np.concatenate([piece.media.samples for piece in pieces]), made.media.samples)
    assert [piece.start_s for piece in pieces] == sorted(piece.start_s for piece in pieces)
    assert [update.codes for update in updates if isinstance(update, Progress)][-1] == 6000
    assert made.path is not None and made.path.is_file() and len(musician.prompts) == 24


def test_the_model_hears_how_the_piece_began_up_to_where_it_is_now(vocabulary, codec):  # noqa: F811
    musician, conversation = Musician(vocabulary), talk(vocabulary)
    list(lengthen(Chat(vocabulary, musician, lambda name: codec), conversation, 1, 1, 5.0))
    begun = vocabulary.block("music", bars(40))[:-1]  # 100 frames are three bars and a third: so are 40, of one bar more
    before = musician.prompts[0][: -len(begun)]
    assert musician.prompts[0][-len(begun) :] == begun
    assert before[-len(vocabulary.encode_text("Here:")) :] == vocabulary.encode_text("Here:")
    assert musician.prompts[1] == [*before, *begun]  # 60 frames later it stands there again


@pytest.mark.parametrize("beat", [17, 23, 30])
def test_where_a_piece_goes_on_is_in_step_with_its_end(beat):
    hits = (np.arange(110) % beat == 0) * 9
    hits[np.random.default_rng(0).integers(0, 110, 8)] += 1  # and a little chance
    first = np.repeat(hits[:, None], 4, 1)
    place = like_now(first, first)
    assert 30 <= place <= 66 and (110 - place) % beat == 0


def test_it_is_drawn_with_the_numbers_that_a_person_chose(vocabulary, codec):  # noqa: F811
    class Noting(Musician):
        def generate(self, ids, grammar, **options):
            drawn.append(grammar.drawn["music"].guidance)
            yield from super().generate(ids, grammar, **options)

    drawn = []
    chat = Chat(vocabulary, Noting(vocabulary), lambda name: codec)
    usual = vocabulary.ranges["music"].modality.sampling.guidance
    for own, found in ((None, usual), ({"music": {"guidance": 7.0}}, 7.0)):
        list(lengthen(chat, talk(vocabulary), 1, 1, 3.0, sampling=own))
        assert drawn and set(drawn) == {found} != {None}
        drawn.clear()


def test_the_history_keeps_the_block_as_it_was_written(vocabulary, codec, tmp_path):  # noqa: F811
    conversation = talk(vocabulary, Journal(tmp_path))
    before = conversation.turns[1]
    list(lengthen(Chat(vocabulary, Musician(vocabulary), lambda name: codec), conversation, 1, 1, 4.0, seed=7))
    after = Journal(tmp_path).conversation().turns[1]
    assert after.ids == before.ids and np.array_equal(after.parts[1].codes, bars(100))
    assert after.parts[1].file and after.facts["edits"] == [{"part": 1, "seed": 7, "seconds": 4.0}]


def test_a_model_that_insists_on_an_end_gets_it(vocabulary):
    chat = Chat(vocabulary, Musician(vocabulary, patience=0), lambda name: None)
    assert not list(onward(chat, [vocabulary.bos], "music", bars(100), 1500))
    chat = Chat(vocabulary, Musician(vocabulary, patience=7), lambda name: None)
    assert len(list(onward(chat, [vocabulary.bos], "music", bars(100), 200))) == 100


def test_a_stop_ends_it_and_keeps_what_is_there(vocabulary, codec):  # noqa: F811
    stop, conversation = threading.Event(), talk(vocabulary)
    for update in lengthen(Chat(vocabulary, Musician(vocabulary), lambda name: codec), conversation, 1, 1, 30.0, stop=stop):
        if isinstance(update, Progress):
            stop.set()
        if isinstance(update, Made):
            assert 2.0 < update.media.seconds < 4.0
    assert isinstance(update, Finished) and update.reason == "stop"


def test_a_button_of_the_page_continues_music_and_another_one_takes_it_back(vocabulary, codec, tmp_path):  # noqa: F811
    session = Visitors(tmp_path).find(None)
    session.conversation = talk(vocabulary, session.conversation.journal)
    chat = Chat(vocabulary, Musician(vocabulary), lambda name: codec)
    list(chat.render(session.conversation, 1, 1))

    def shown():
        return " ".join(str(piece) for piece in reply_content(chat, session.conversation.turns[1].parts, session.folder, 1))

    assert [f'value="1.1.{seconds}"' in shown() for seconds in (10, 20, 30)] == [True] * 3 and "2&#46;0 s&#44; 400 tokens" in shown()
    before = session.conversation.turns[1]
    job = act(chat, session, "longer", "1.1.10")
    assert not any(isinstance(piece, dict) for piece in session.view[1]["content"]), "a player reads its file once: it has to go first"
    *_, last = job.start(3)
    part = last.turn.parts[1]
    assert job.index == 1 and part.seconds == 10.0 and "10&#46;0 s&#44; 400 tokens" in shown()
    assert [f'value="1.1.{seconds}"' in shown() for seconds in (10, 20, 30)] == [False, True, True] and "As written" in shown()
    assert literal("its tokens are the first 2.0 s") in lens.panel(chat, session.conversation, session.folder, "1.1")
    assert Journal(session.folder).conversation().turns[1].parts[1].seconds == 10.0
    saved = archive.unpack(archive.pack(session.conversation, "Tune", "mini", ""), vocabulary)
    again = archive.restore(saved, Journal(tmp_path / "again"))
    assert again.turns[1].parts[1].seconds == 10.0 and 10 * 2 * 32_000 <= len(saved.media[part.file]) < 11 * 2 * 32_000
    assert last.turn.ids == before.ids, "its ids are as the model wrote them"
    list(act(chat, session, "render", "1.1").start(0))
    after = session.conversation.turns[1]
    assert after.parts[1].seconds is None and after.ids == before.ids and "As written" not in shown()
    first, second = ((session.folder / turn.parts[1].file).read_bytes() for turn in (before, after))
    assert first == second and len(view_of(chat, session.conversation, session.folder)) == 2


def test_what_does_not_go_on_stays_as_it_was(vocabulary, codec, tmp_path):  # noqa: F811
    conversation = talk(vocabulary, Journal(tmp_path))
    for musician, told in ((Musician(vocabulary, patience=0), "does not go on"), (Silent(), "could not be continued")):
        before = conversation.turns[1]
        *_, card, last = lengthen(Chat(vocabulary, musician, lambda name: codec), conversation, 1, 1, 10.0)
        assert isinstance(card, Card) and told in card.error.problem and last.reason == "refused" and conversation.turns[1] is before


def test_a_codec_that_cannot_begin_early_decodes_at_the_end(vocabulary):
    class Whole:
        """A codec without a stream."""

        def decode(self, codes, *, voice=None, seed=0):
            return Audio(np.zeros(640 * len(codes), np.float32), 32_000)

    *_, note, made, last = lengthen(Chat(vocabulary, Musician(vocabulary, patience=60), lambda name: Whole()), talk(vocabulary), 1, 1, 3.0)
    assert made.media.seconds == 3.0 and isinstance(note, Progress) and last.reason == "eos"


@pytest.mark.parametrize(("index", "number", "seconds"), [(0, 0, 9.0), (1, 0, 9.0), (1, 1, 1000.0)])
def test_what_cannot_be_continued_is_refused(vocabulary, index, number, seconds):
    conversation = talk(vocabulary)
    chat = Chat(vocabulary, Musician(vocabulary), lambda name: None)
    card, last = lengthen(chat, conversation, index, number, seconds)
    assert isinstance(card, Card) and isinstance(last, Finished) and last.reason == "refused"


def test_equal_arguments_give_equal_music_from_a_real_engine(vocabulary):
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=1024, tie_word_embeddings=True))
    chat = Chat(vocabulary, LocalEngine(model, kind="int8"), lambda name: None)
    first, again, other = (np.stack(list(onward(chat, [vocabulary.bos, 7], "music", bars(60), 160, seed=seed))) for seed in (3, 3, 4))
    assert first.shape == (100, 4) and np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_text_is_cut_where_sentences_end():
    text = "The sun is up. A dog barks! Who is there? " * 12
    pieces = blocks_of(text, 100)
    assert " ".join(pieces).split() == text.split()
    assert all(len(piece) <= 100 and piece[-1] in ".!?" for piece in pieces) and len(pieces) > 4
    assert blocks_of("no end " * 40, 50)[0].startswith("no end no end") and all(len(piece) <= 50 for piece in blocks_of("no end " * 40, 50))
    assert blocks_of("x" * 120, 50) == ["x" * 50, "x" * 50, "x" * 20]
    assert blocks_of("Short.", 50) == ["Short."]


def test_a_long_text_is_spoken_by_the_sentence(vocabulary, monkeypatch):
    spoken = []

    class Speaker:
        """A codec that notes what it decodes."""

        modality = vocabulary.ranges["speech"].modality

        def decode(self, codes, *, voice=None, seed=0):
            spoken.append(codes)
            return Audio(np.full(320 * len(codes), 0.1, np.float32), 16_000)

    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=2048, tie_word_embeddings=True))
    chat = Chat(vocabulary, LocalEngine(model), lambda name: Speaker())
    text = "One two three four five six seven. " * 20
    answer = tasks.run(chat, "tts", text, max_new=40)
    assert len(spoken) == len(blocks_of(text, chat.letters)) == 3
    silence = np.zeros(3200, np.float32)
    assert answer.media.seconds == pytest.approx(sum(len(codes) for codes in spoken) / 50 + 2 * 0.2)
    end = 320 * len(spoken[0])
    assert np.array_equal(answer.media.samples[end : end + 3200], silence)
    assert joined([Audio(np.ones(5, np.float32), 10)], 1.0).samples.tolist() == [1.0] * 5


def spoken(quiet_before: int, loud: int, quiet_after: int) -> np.ndarray:
    """Samples that can be heard, with quiet on either side."""
    return np.concatenate([np.full(quiet_before, 1e-4), np.full(loud, 0.3), np.full(quiet_after, 1e-4)]).astype(np.float32)


@pytest.mark.parametrize(("before", "after"), [(0, 0), (300, 200), (4000, 9000), (100, 12_000)])
def test_a_pause_is_as_long_as_a_breath(before, after):
    """Whatever silence the sounds have at their own ends, and however they are cut into pieces."""
    first, second = spoken(500, 3000, after), spoken(before, 3000, 700)
    whole = joined([Audio(first, 16_000), Audio(second, 16_000)], PAUSE_S).samples
    heard = np.flatnonzero(np.abs(whole) > 0.1)
    gaps = np.diff(heard)
    assert gaps.max() - 1 == round(PAUSE_S * 16_000) and 0.15 <= PAUSE_S <= 0.3 and (gaps > 1).sum() == 1
    assert heard[0] == 500 and len(whole) - heard[-1] - 1 == 700 and len(heard) == 6000
    pauses = Pauses(16_000, PAUSE_S)
    parts = [pauses.feed(part) for part in np.array_split(first, 7)] + [pauses.turn()]
    parts += [pauses.feed(part) for part in np.array_split(second, 9)] + [pauses.finish()]
    assert np.array_equal(np.concatenate(parts), whole)


def test_what_is_to_be_said_is_found_in_a_message():
    for request in ("Read this aloud: {}", "Say: {}", "please say “{}”", "Can you read the following text aloud:\n{}", 'Say "{}"'):
        assert quoted(request.format("The sun: it is up.")) == "The sun: it is up.", request
    for other in ("What do you say: tea or coffee?", "Say something about tea.", "Draw a boat that says: hello", ""):
        assert quoted(other) == ""


class Reader:
    """An engine that says three frames per word of what it is asked to read aloud, and notes the words."""

    context = 4096

    def __init__(self, vocabulary):
        self.vocabulary, self.read, self.limits = vocabulary, [], []

    def generate(self, ids, grammar, *, seed, stop, max_new):
        item = self.vocabulary.ranges["speech"]
        assert ids[-1] == item.start
        words = self.vocabulary.decode_text(ids[len(ids) - ids[::-1].index(self.vocabulary.mmgpt) : -1]).strip(": ")
        self.read.append(words)
        for number in [*[item.first + 7] * (3 * len(words.split())), item.end]:
            grammar.advance(number)
            yield number


class Bell:
    """A codec that turns each frame into sound, in pieces of ten frames."""

    def __init__(self, facts, broken=False):
        self.modality, self.broken, self.voices = facts, broken, []

    def streamer(self, *, voice=None, seed=0):
        self.voices.append((voice, seed))
        return Ringing(self.broken)


class Ringing:
    def __init__(self, broken):
        self.broken, self.frames = broken, 0

    def feed(self, frame):
        if self.broken:
            raise RuntimeError("secret")
        self.frames += 1
        return self.finish() if self.frames == 10 else []

    def finish(self):
        frames, self.frames = self.frames, 0
        return [Audio(np.full(320 * frames, 0.2, np.float32), 16_000)] if frames else []


TEXT = "One two three four five six seven. " * 20


def test_a_long_text_in_a_chat_is_one_sound(vocabulary, tmp_path):
    engine, bell = Reader(vocabulary), Bell(vocabulary.ranges["speech"].modality)
    chat = Chat(vocabulary, engine, lambda name: bell)
    conversation = Journal.create(tmp_path).conversation()
    updates = list(chat.reply(conversation, Message(f"Read this aloud: {TEXT}"), seed=4, settings=Settings(output="speech")))
    texts = blocks_of(TEXT.strip(), chat.letters)
    assert engine.read == texts and len(texts) == 3 and len({seed for _, seed in bell.voices}) == 3
    (made,) = [update for update in updates if isinstance(update, Made)]
    pieces = [update for update in updates if isinstance(update, Piece)]
    assert np.array_equal(np.concatenate([piece.media.samples for piece in pieces]), made.media.samples)
    assert [piece.start_s for piece in pieces] == pytest.approx(
        np.cumsum([0.0, *(len(piece.media.samples) / 16_000 for piece in pieces[:-1])]).tolist()
    )
    gaps = np.diff(np.flatnonzero(made.media.samples))
    assert (gaps[gaps > 1] - 1).tolist() == [round(PAUSE_S * 16_000)] * 2
    assert made.media.seconds == pytest.approx(3 * len(TEXT.split()) / 50 + 2 * PAUSE_S)
    last = updates[-1]
    assert last.reason == "eos" and [type(part) for part in last.turn.parts] == [TextPart, MediaPart] and last.turn.text == TEXT.strip()
    part = last.turn.parts[1]
    assert part.codes.shape == (3 * len(texts[0].split()), 1) and part.seconds == pytest.approx(made.media.seconds, abs=0.01)
    found = Journal(conversation.journal.folder).turns[1]
    assert found.ids == last.turn.ids and made.path.is_file() and chat.opening(found, 2).ids == found.ids
    again = Conversation()
    list(chat.reply(again, conversation.turns[0], seed=4, settings=Settings.of(found.facts["settings"])))
    assert again.turns[1].ids == found.ids
    chat.letters = 100  # as for models that learnt from short sentences
    shorter = Conversation()
    list(chat.reply(shorter, conversation.turns[0], seed=4, settings=Settings.of(found.facts["settings"])))
    saved = archive.unpack(archive.pack(shorter, "Text", "mini", ""), vocabulary)
    assert shorter.turns[1].ids != found.ids and [made.state for made in archive.replay(saved, chat)] == ["same"]


def test_a_long_text_stays_whole_in_another_voice_and_anew(vocabulary, tmp_path):
    engine, bell = Reader(vocabulary), Bell(vocabulary.ranges["speech"].modality)
    chat, conversation = Chat(vocabulary, engine, lambda name: bell), Journal.create(tmp_path).conversation()
    list(chat.reply(conversation, Message(f"Read this aloud: {TEXT}"), seed=4, settings=Settings(output="speech")))
    before, texts, voice = (
        conversation.turns[1],
        blocks_of(TEXT.strip(), chat.letters),
        Voice("low", Audio(np.zeros(48_000, np.float32), 16_000)),
    )
    engine.read.clear()
    bell.voices.clear()
    (made,) = [update for update in chat.render(conversation, 1, 1, voice=voice, seed=9) if isinstance(update, Made)]
    assert engine.read == texts[1:] and [one for one, _ in bell.voices] == [voice] * 3  # the first block's codes are known
    after = conversation.turns[1]
    assert after.ids == before.ids and after.parts[1].seconds == before.parts[1].seconds == pytest.approx(made.media.seconds, abs=0.01)
    engine.read.clear()
    last = list(chat.again(conversation, 1, 1, seed=5, settings=Settings(output="speech")))[-1]
    assert engine.read == texts and last.turn.parts[1].seconds == before.parts[1].seconds
    saved = archive.unpack(archive.pack(conversation, "Text", "mini", ""), vocabulary)
    assert {made.state for made in archive.replay(saved, chat)} == {"same"}


def test_a_long_reply_is_read_aloud_to_its_end(vocabulary):
    engine = Reader(vocabulary)
    chat = Chat(vocabulary, engine, lambda name: Bell(vocabulary.ranges["speech"].modality))
    human = Turn("human", (TextPart("Tell me."),))
    opening = Opening(tuple(vocabulary.encode_text(f" {TEXT.strip()}")))
    updates = list(chat.reply(Conversation(), human, opening=opening, settings=Settings(output="speech", lead=0)))
    assert engine.read == blocks_of(TEXT.strip(), chat.letters) and updates[-1].turn.text == TEXT.strip() and updates[-1].reason == "eos"


def test_what_happens_to_a_text_on_the_way(vocabulary):
    facts = vocabulary.ranges["speech"].modality
    stop = threading.Event()
    chat, conversation = Chat(vocabulary, Reader(vocabulary), lambda name: Bell(facts)), Conversation()
    for update in chat.reply(conversation, Message(f"Say: {TEXT}"), settings=Settings(output="speech"), stop=stop):
        if isinstance(update, Piece):
            stop.set()
        last = update
    assert last.reason == "stop" and len(last.turn.parts) == 2 and len(chat.engine.read) == 1
    broken = Chat(vocabulary, Reader(vocabulary), lambda name: Bell(facts, broken=True))
    updates = list(broken.reply(Conversation(), Message(f"Say: {TEXT}"), settings=Settings(output="speech")))
    (card,) = [update for update in updates if isinstance(update, Card)]
    words, part = updates[-1].turn.parts  # its codes stay
    assert "secret" not in str(card.error) and words.text == TEXT.strip() and part.file is None and len(part.codes) == 1
    left = Conversation()
    going = chat.reply(left, Message(f"Say: {TEXT}"), settings=Settings(output="speech"))
    for update in going:
        if isinstance(update, Piece):
            break
    going.close()
    assert left.turns[1].text == TEXT.strip() and len(left.turns[1].parts[1].codes) == 10
    assert not [thread for thread in threading.enumerate() if thread.name == "writer"]
