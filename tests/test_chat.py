"""One turn with a scripted engine and plain codecs: order, progress, failures, stopping, the journal, sessions."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from anygpt_demo.chat import Card, Chat, Finished, Made, Message, Note, Piece, Preview, Progress, Settings, Stage, Words, read_file
from anygpt_demo.conversation import Conversation, Journal, MediaPart, TextPart
from anygpt_demo.errors import BadAudio, UserError
from anygpt_demo.media import Audio, Picture, Voice


class Script:
    """An engine that writes given replies, one after the other."""

    def __init__(self, *replies, context=4096):
        self.replies, self.context, self.prompts, self.budgets = list(replies), context, [], []

    def generate(self, ids, grammar, *, seed, stop, max_new):
        self.prompts.append(list(ids))
        self.budgets.append(max_new)
        return Reading(self.replies.pop(0), grammar, stop, max_new)


class Reading:
    def __init__(self, ids, grammar, stop, budget):
        self.ids, self.grammar, self.stop, self.budget, self.reason = ids, grammar, stop, budget, None

    def __iter__(self):
        for number in self.ids[: self.budget]:
            if self.stop is not None and self.stop.is_set():
                self.reason = "stop"
                return
            if isinstance(number, Exception):
                raise number
            self.grammar.advance(number)
            yield number
        self.reason = "eos" if self.grammar.done else "budget"


class Plain:
    """A codec that fills pictures and sounds with a number drawn from the codes."""

    def __init__(self, facts):
        self.modality, self.calls = facts, []

    def encode(self, media):
        value = int(media.rgb[0, 0, 0]) if isinstance(media, Picture) else len(media.samples) % self.modality.codebook
        frames = self.modality.frames.start if len(self.modality.frames) == 1 else 6
        return np.full((frames, self.modality.layers), value)

    def decode(self, codes, *, voice=None, seed=0):
        self.calls.append((voice, seed))
        if codes[0, 0] == 13:
            raise RuntimeError("secret detail")
        if codes[0, 0] == 14:
            raise BadAudio("No.", "Because.", "Do that.")
        if self.modality.kind == "image":
            return Picture(np.full((8, 8, 3), codes[0, 0] % 256, dtype=np.uint8))
        return Audio(np.full(320 * len(codes), 0.1, dtype=np.float32), self.modality.sample_rate_hz)


@pytest.fixture
def make(vocabulary):
    def build(*replies, context=4096):
        return Chat(vocabulary, Script(*replies, context=context), lambda name: Plain(vocabulary.ranges[name].modality))

    return build


def block(vocabulary, name, value=3, frames=5):
    facts = vocabulary.ranges[name].modality
    frames = facts.frames.start if len(facts.frames) == 1 else frames
    return vocabulary.block(name, np.full((frames, facts.layers), value))


def written(vocabulary, *items):
    """A scripted reply: strings, ids and blocks, then <eos></s>."""
    ids = []
    for item in items:
        ids += vocabulary.encode_text(item) if isinstance(item, str) else item
    return [*ids, vocabulary.eos, vocabulary.stop]


def picture(value=5):
    return Picture(np.full((10, 12, 3), value, dtype=np.uint8))


def sound(seconds=0.5, rate_hz=16000):
    return Audio(np.sin(np.arange(int(seconds * rate_hz), dtype=np.float32) / 9), rate_hz)


def kinds(updates):
    return [type(update).__name__ for update in updates]


def test_parts_arrive_in_the_models_order(vocabulary, make, tmp_path):
    image, music, speech = (block(vocabulary, name) for name in ("image", "music", "speech"))
    chat = make(written(vocabulary, " look ", image, " listen ", music, speech, " bye"))
    conversation = Journal.create(tmp_path).conversation()
    updates = list(chat.reply(conversation, Message("hello", (("image", picture()),)), seed=4))
    last = updates[-1]
    assert isinstance(last, Finished) and last.reason == "eos" and updates[0] == Stage("listening", "image")
    order = [part.text if isinstance(part, TextPart) else part.modality for part in last.turn.parts]
    assert order == ["look", "image", "listen", "music", "speech", "bye"]
    shown = [update.text if isinstance(update, Words) else update.part.modality for update in updates if isinstance(update, Words | Made)]
    assert "".join(shown) == "lookimagelistenmusicspeechbye"
    counts = [(update.codes, update.total) for update in updates if isinstance(update, Progress)]
    assert counts[0] == (0, 32) and (32, 32) in counts and (20, None) in counts
    again = Journal(conversation.journal.folder).turns
    assert len(again) == 2 and again[1].ids == last.turn.ids
    for turn in again:
        for part in turn.parts:
            if isinstance(part, MediaPart):
                assert (conversation.journal.folder / part.file).stat().st_size > 0
    assert all(update.path.is_file() for update in updates if isinstance(update, Made))
    assert last.times["total"] >= last.times["encode"] and last.tokens == len(last.turn.ids) + 2


def test_history_is_read_back_and_never_encoded_again(vocabulary, make):
    first = written(vocabulary, " here ", block(vocabulary, "image"))
    chat = make(first, written(vocabulary, " yes"))
    conversation = Conversation()
    list(chat.reply(conversation, Message("draw")))
    list(chat.reply(conversation, Message("what is it")))
    prompt = ",".join(map(str, chat.engine.prompts[1]))
    assert ",".join(map(str, first[:-1])) in prompt
    assert chat.engine.prompts[1][: len(chat.engine.prompts[0])] == chat.engine.prompts[0]


def test_the_spoken_chain(vocabulary, make, monkeypatch):
    monkeypatch.setattr("anygpt_demo.grammar.HEARD_LEAST", 64)  # three words of many pieces in six frames: nobody speaks so fast
    reply = written(vocabulary, " ", [vocabulary.ins], " how are you\n ", [vocabulary.res], " fine ", block(vocabulary, "speech"))
    chat = make(reply)
    voice = Voice("me", sound())
    updates = list(chat.reply(Conversation(), Message("", (("speech", sound()),)), voice=voice, seed=9))
    assert updates[-1].turn.heard == "how are you" and updates[-1].turn.text == "fine"
    assert "".join(update.text for update in updates if isinstance(update, Words) and update.heard) == "how are you"
    assert chat.codec("speech").calls == [(voice, 10)]


@pytest.mark.parametrize("value", [13, 14])
def test_a_failing_codec_costs_only_its_part(vocabulary, make, value):
    reply = written(vocabulary, " a ", block(vocabulary, "image", value), " b ", block(vocabulary, "music"))
    chat = make(reply, written(vocabulary, " ok"))
    conversation = Conversation()
    updates = list(chat.reply(conversation, Message("go")))
    (card,) = [update for update in updates if isinstance(update, Card)]
    assert card.modality == "image" and "secret" not in str(card.error)
    assert [update.part.modality for update in updates if isinstance(update, Made)] == ["music"]
    assert updates[-1].reason == "eos" and len(updates[-1].turn.parts) == 4
    assert list(chat.reply(conversation, Message("more")))[-1].reason == "eos"


def test_a_failing_engine_is_a_card_and_the_chat_goes_on(vocabulary, make, tmp_path):
    chat = make([RuntimeError("secret")], [*vocabulary.encode_text(" some"), MemoryError()], written(vocabulary, " ok"))
    conversation = Journal.create(tmp_path).conversation()
    updates = list(chat.reply(conversation, Message("one")))
    assert kinds(updates)[-2:] == ["Card", "Finished"] and updates[-1].reason == "fault" and updates[-1].turn is None
    assert conversation.turns == [] and "secret" not in str(updates[-2].error)
    updates = list(chat.reply(conversation, Message("two")))
    assert updates[-1].turn.text == "some" and "memory" in next(update for update in updates if isinstance(update, Card)).error.cause
    assert list(chat.reply(conversation, Message("three")))[-1].reason == "eos"
    assert [turn.text for turn in Journal(conversation.journal.folder).turns] == ["two", "some", "three", "ok"]


def test_stop_keeps_what_exists(vocabulary, make):
    stop = threading.Event()
    chat = make(written(vocabulary, " hello there ", block(vocabulary, "music", frames=50)))
    updates = []
    for update in chat.reply(Conversation(), Message("play"), stop=stop):
        updates.append(update)
        if isinstance(update, Progress) and update.codes == 40:
            stop.set()
    last = updates[-1]
    assert last.reason == "stop" and last.turn.text == "hello there" and last.turn.parts[1].codes.shape == (10, 4)
    assert Note("The music was cut short.") in updates


def test_a_listener_who_leaves_loses_nothing(vocabulary, make, tmp_path):
    chat = make(written(vocabulary, " hello there ", block(vocabulary, "music", frames=50)))
    conversation = Journal.create(tmp_path).conversation()
    updates = chat.reply(conversation, Message("play"))
    for update in updates:
        if isinstance(update, Progress) and update.codes == 40:
            break
    updates.close()
    turns = Journal(conversation.journal.folder).turns
    assert [turn.role for turn in turns] == ["human", "mmgpt"] and turns[1].parts[1].codes.shape == (10, 4)


def test_refusals_leave_no_trace(vocabulary, make):
    chat = make(context=600)
    conversation = Conversation()
    for message in (Message(""), Message("x" * 20_001), Message("word " * 2000)):
        updates = list(chat.reply(conversation, message))
        assert kinds(updates)[-2:] == ["Card", "Finished"] and updates[-1].reason == "refused" and conversation.turns == []


def test_old_turns_are_left_out_and_the_person_is_told(vocabulary, make):
    chat = make(*(written(vocabulary, f" answer {number}") for number in range(9)), context=800)
    conversation = Conversation()
    notes = []
    for number in range(9):
        updates = list(chat.reply(conversation, Message(f"question {number} " + "and more words " * 8)))
        notes += [update.text for update in updates if isinstance(update, Note)]
        assert updates[-1].reason == "eos"
        assert all(len(prompt) + budget <= 800 for prompt, budget in zip(chat.engine.prompts, chat.engine.budgets, strict=True))
    assert len(conversation.turns) == 18 and notes and "left out" in notes[0]


def test_forced_output_reaches_the_grammar(vocabulary, make):
    chat = make(written(vocabulary, " hi ", block(vocabulary, "image")))
    updates = list(chat.reply(Conversation(), Message("draw"), settings=Settings(output="text")))
    assert isinstance(updates[-2], Card)


def test_files_become_clean_media(vocabulary):
    from anygpt_demo.media import write_png, write_wav

    found, notes = read_file(vocabulary, "image", write_png(picture()))
    assert isinstance(found, Picture) and notes == []
    found, notes = read_file(vocabulary, "music", write_wav(sound(8.0, 32000)))
    assert isinstance(found, Audio) and found.rate_hz == 32000 and abs(found.seconds - 5.0) < 0.01 and notes
    with pytest.raises(UserError):
        read_file(vocabulary, "speech", write_wav(sound(40.0)))


class Echo:
    """An engine that repeats the last message word for word; it has no state."""

    context = 4096

    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def generate(self, ids, grammar, *, seed, stop, max_new):
        tokens = self.vocabulary
        start = len(ids) - ids[::-1].index(tokens.human)
        said = ids[start : start + ids[start:].index(tokens.eoh)]
        return Reading([*said[len(tokens.encode_text(":")) :], tokens.eos, tokens.stop], grammar, stop, max_new)


def test_sessions_share_nothing(vocabulary, tmp_path):
    """Many people at once: no word, code, seed or file of one reaches another."""
    from concurrent.futures import ThreadPoolExecutor

    chat = Chat(vocabulary, Echo(vocabulary), lambda name: Plain(vocabulary.ranges[name].modality))
    sessions, turns = 20, 10

    def person(number):
        conversation = Journal.create(tmp_path).conversation()
        for turn in range(turns):
            message = Message(f"canary-{number:03d}-{turn}", (("image", picture(number + 20)),))
            updates = list(chat.reply(conversation, message, seed=number))
            assert updates[-1].turn.text == f"canary-{number:03d}-{turn}"
        return number, conversation.journal.folder

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(person, range(sessions)))
    assert len({folder for _, folder in folders}) == sessions
    for number, folder in folders:
        text = (folder / "turns.jsonl").read_text(encoding="utf-8")
        assert text.count("canary-") == text.count(f"canary-{number:03d}-") == 2 * turns
        names = [part.file for turn in Journal(folder).turns for part in turn.parts if isinstance(part, MediaPart)]
        assert len(names) == 2 * turns and all((folder / name).is_file() for name in names)


def test_a_real_engine_with_random_weights(vocabulary, tmp_path):
    """The whole path with the project's own engine: legal replies, equal seeds equal replies, histories read from its cache."""
    import torch

    from anygpt_demo.engine import LocalEngine
    from anygpt_demo.models.llama import Llama, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=1024, tie_word_embeddings=False)
    chat = Chat(vocabulary, LocalEngine(Llama(config)), lambda name: Plain(vocabulary.ranges[name].modality))

    def talk(outputs):
        conversation = Journal.create(tmp_path).conversation()
        found = []
        for seed, output in enumerate(outputs):
            settings = Settings(output=output, max_new=40, limits={"music": 5, "speech": 20})
            updates = list(chat.reply(conversation, Message(f"say {seed}", (("image", picture(seed)),)), seed=seed, settings=settings))
            last = updates[-1]
            assert last.reason == "eos" and not [update for update in updates if isinstance(update, Card)]
            if output not in (None, "text"):
                assert output in [part.modality for part in last.turn.parts if isinstance(part, MediaPart)]
            found.append(last.turn.ids)
        return found

    outputs = [None, "music"]
    assert talk(outputs) == talk(outputs)


def test_a_reply_says_how_it_was_made_and_can_be_made_again(vocabulary, make, tmp_path):
    reply = written(vocabulary, " look ", block(vocabulary, "image"), " bye")
    chat = make(reply, reply)
    conversation = Journal.create(tmp_path).conversation()
    wish = Settings(limits={"music": 9}, forbid=("speech",))
    list(chat.reply(conversation, Message("draw"), seed=7, settings=wish))
    human, first = Journal(conversation.journal.folder).turns
    assert first.facts["seed"] == 7 and Settings.of(first.facts["settings"]) == wish and first.facts["reason"] == "eos"
    conversation.undo(2)
    list(chat.reply(conversation, human, seed=8))
    assert chat.engine.prompts[0] == chat.engine.prompts[1] and len(conversation.turns) == 2


def test_a_reply_goes_on_from_any_of_its_parts(vocabulary, make):
    image, music = block(vocabulary, "image"), block(vocabulary, "music")
    first = written(vocabulary, " look ", image, " listen ", music)
    chat = make(first, written(vocabulary, " no music"))
    conversation = Conversation()
    list(chat.reply(conversation, Message("go")))
    human, turn = conversation.turns
    assert [chat.opening(turn, number).ids for number in (0, 1, 2, 3, 4)] == [
        (),
        turn.ids[: turn.ids.index(image[0])],
        turn.ids[: turn.ids.index(image[-1]) + 1],
        turn.ids[: turn.ids.index(music[0])],
        turn.ids,
    ]
    conversation.undo(2)
    updates = list(chat.reply(conversation, human, opening=chat.opening(turn, 2)))
    new = updates[-1].turn
    assert chat.engine.prompts[1][-len(image) :] == image and new.parts[1] is turn.parts[1]
    assert [getattr(part, "text", "") for part in new.parts] == ["look", "", "no music"]
    assert list(new.ids) == first[: first.index(image[-1]) + 1] + vocabulary.encode_text(" no music")


@pytest.mark.parametrize(("number", "within", "name"), [(0, 2, "text"), (1, 11, "image"), (3, 2, "music")])
def test_a_reply_goes_on_from_within_a_part(vocabulary, make, tmp_path, number, within, name):
    image, music = block(vocabulary, "image"), block(vocabulary, "music")
    words = vocabulary.encode_text(" look there ")
    first = written(vocabulary, words, image, " listen ", music)
    rest = {"image": [image[1]] * 21 + image[-1:], "music": music[1:5] * 2 + music[-1:], "text": vocabulary.encode_text(" here")}[name]
    chat = make(first, [*rest, vocabulary.eos, vocabulary.stop])
    conversation = Journal.create(tmp_path).conversation()
    list(chat.reply(conversation, Message("go")))
    human, turn = conversation.turns
    start = {"text": 0, "image": first.index(image[0]) + 1, "music": first.index(music[0]) + 1}[name]
    opening = chat.opening(turn, number, within)
    given = first[: start + within * (4 if name == "music" else 1)]
    assert list(opening.ids) == given and len(opening.media) == (number == 3)
    conversation.undo(2)
    updates = list(chat.reply(conversation, human, opening=opening))
    new = updates[-1].turn
    assert chat.engine.prompts[1][-len(given) :] == given and list(new.ids) == [*given, *rest] and updates[-1].reason == "eos"
    assert new.facts["opening"] == len(given) and not [update for update in updates if isinstance(update, Card)]
    assert len(new.parts) == number + 1
    if name != "text":
        assert len(new.parts[number].codes) == (32 if name == "image" else 4) and new.parts[number].file
        assert [update.part.modality for update in updates if isinstance(update, Made)] == [name]
    for past in (0, 1, 2, 3):
        with pytest.raises(UserError):
            chat.opening(turn, past, 33)
    with pytest.raises(UserError):
        chat.opening(turn, 4, 1)


def test_a_sound_that_goes_on_is_heard_from_its_beginning(vocabulary):
    music = block(vocabulary, "music", frames=6)
    replies = written(vocabulary, " listen ", music), [*music[9:], vocabulary.eos, vocabulary.stop]
    chat = Chat(vocabulary, Script(*replies), lambda name: Running(vocabulary.ranges[name].modality))
    conversation = Conversation()
    list(chat.reply(conversation, Message("play")))
    human, turn = conversation.turns
    conversation.undo(2)
    updates = list(chat.reply(conversation, human, opening=chat.opening(turn, 1, 2)))
    pieces = [update for update in updates if isinstance(update, Piece)]
    assert [round(piece.start_s * 50) for piece in pieces] == [0, 1, 2] and updates[-1].turn.ids == turn.ids
    assert len(next(update for update in updates if isinstance(update, Made)).media.samples) == 6 * 320


def test_probabilities_stay_with_what_is_kept(vocabulary, make, monkeypatch):
    """After one part anew those of the rest, after a branch those of its opening."""
    image, other = block(vocabulary, "image"), block(vocabulary, "image", 9)
    again = [*other[1:], *vocabulary.encode_text(" more")]
    chat = make(written(vocabulary, " look ", image, " bye"), again, written(vocabulary, other[6:], " end"))
    monkeypatch.setattr(
        Reading, "shares", property(lambda self: [round(self.base + 0.001 * n, 3) for n in range(len(self.ids))]), raising=False
    )
    monkeypatch.setattr(Reading, "base", 0.1, raising=False)
    conversation = Conversation()
    list(chat.reply(conversation, Message("go")))
    human, turn = conversation.turns
    old = turn.facts["shares"]
    start = turn.ids.index(image[0])
    assert len(old) == len(turn.ids) and old[0] == 0.1
    monkeypatch.setattr(Reading, "base", 0.5, raising=False)
    list(chat.again(conversation, 1, 1, seed=3))
    new = conversation.turns[1]
    assert len(new.facts["shares"]) == len(new.ids)
    assert new.facts["shares"][: start + 1] == old[: start + 1] and new.facts["shares"][start + 34 :] == old[start + 34 :]
    assert new.facts["shares"][start + 1 : start + 34] == [round(0.5 + 0.001 * n, 3) for n in range(33)]
    conversation.undo(2)
    list(chat.reply(conversation, human, opening=chat.opening(new, 1, 5)))
    assert conversation.turns[1].facts["shares"][: start + 6] == new.facts["shares"][: start + 6]


def test_one_part_is_written_anew(vocabulary, make, tmp_path):
    image, music, other = block(vocabulary, "image"), block(vocabulary, "music"), block(vocabulary, "image", 9)
    chat = make(written(vocabulary, " look ", image, " listen ", music), other[1:] + vocabulary.encode_text(" more"))
    conversation = Journal.create(tmp_path).conversation()
    list(chat.reply(conversation, Message("go")))
    old = conversation.turns[1]
    last = list(chat.again(conversation, 1, 1, seed=3))[-1]
    assert last.turn is conversation.turns[1] and [type(part) for part in last.turn.parts] == [type(part) for part in old.parts]
    assert last.turn.parts[1].codes[0, 0] == 9 and last.turn.parts[3] is old.parts[3] and last.turn.facts["edits"][0]["seed"] == 3
    assert list(last.turn.ids) == written(vocabulary, " look ", other, " listen ", music)[:-2]
    named = (*last.turn.parts[:3], replace(last.turn.parts[3], text="a tune"), *last.turn.parts[4:])
    conversation.replace(1, replace(last.turn, parts=named))
    last = list(chat.render(conversation, 1, 3))[-1]
    assert last.turn.parts[3].file != old.parts[3].file and (last.turn.parts[3].codes == old.parts[3].codes).all()
    assert last.turn.parts[3].text == "a tune"  # the same codes are in the same words
    found = Journal(conversation.journal.folder).turns[1]
    assert found.parts[3].file == last.turn.parts[3].file and found.ids == last.turn.ids


def test_a_transcript_and_nothing_else(vocabulary, make):
    chat = make([vocabulary.ins, *vocabulary.encode_text(" how are you"), vocabulary.res, vocabulary.eos, vocabulary.stop])
    last = list(chat.reply(Conversation(), Message("", (("speech", sound()),)), settings=Settings(output="heard")))[-1]
    assert last.turn.heard == "how are you" and last.turn.parts == () and last.reason == "eos"


def test_media_are_put_into_words(vocabulary, make, tmp_path):
    chat = make(
        [*written(vocabulary, " fine")],
        [vocabulary.ins, *vocabulary.encode_text(" come here"), vocabulary.res, vocabulary.eos, vocabulary.stop],
        [*written(vocabulary, " a dog")],
        [vocabulary.eos, vocabulary.stop],
    )
    conversation = Conversation(journal=Journal.create(tmp_path))
    list(chat.reply(conversation, Message("and these?", (("speech", sound()), ("image", picture())))))
    before = [turn.ids for turn in conversation.turns]
    for number in (0, 1):
        assert list(chat.put_into_words(conversation, 0, number))[-1].turn is None
    assert [part.text for part in conversation.turns[0].parts] == ["come here", "a dog", "and these?"]
    assert [turn.ids for turn in conversation.turns] == before and len(conversation.turns) == 2
    assert [part.text for part in Journal(conversation.journal.folder).turns[0].parts] == ["come here", "a dog", "and these?"]
    assert any(isinstance(update, Card) for update in chat.put_into_words(conversation, 0, 1)), "the model may find no words"
    assert conversation.turns[0].parts[1].text == "a dog"
    question = chat.engine.prompts[2]
    assert (
        question[question.index(vocabulary.ranges["image"].start) :][:34]
        == chat.engine.prompts[0][chat.engine.prompts[0].index(vocabulary.ranges["image"].start) :][:34]
    )


def test_files_of_an_earlier_message_are_not_encoded_again(vocabulary, make):
    chat = make(written(vocabulary, " one"), written(vocabulary, " two"))
    conversation = Conversation()
    list(chat.reply(conversation, Message("look", (("image", picture()),))))
    kept = conversation.turns[0].parts[0]
    assert isinstance(kept, MediaPart)
    updates = list(chat.reply(conversation, Message.written("[2] and [1]", [("image", kept), ("speech", sound())])))
    assert [update.modality for update in updates if isinstance(update, Stage) and update.name == "listening"] == ["speech"]
    assert conversation.turns[2].parts[2] is kept and conversation.turns[2].parts[0].modality == "speech"


def test_a_picture_forms_and_stays_as_it_is_when_stopped(vocabulary, make):
    chat = make(written(vocabulary, " a ", block(vocabulary, "image")), written(vocabulary, " a ", block(vocabulary, "image")))
    codec = chat.codec("image")
    codec.previews = lambda codes, seed: (picture(value) for value in (1, 2, 3))
    updates = list(chat.reply(Conversation(), Message("draw")))
    assert [update.media.rgb[0, 0, 0] for update in updates if isinstance(update, Preview | Made)] == [1, 2, 3, 3]
    stop = threading.Event()
    shown = []
    for update in chat.reply(Conversation(), Message("draw"), stop=stop):
        if isinstance(update, Preview):
            stop.set()
        if isinstance(update, Made):
            shown.append(int(update.media.rgb[0, 0, 0]))
    assert shown == [1]


class Running(Plain):
    """A codec that decodes sounds two frames at a time; codes of 15 make it fail on the way."""

    def streamer(self, *, voice=None, seed=0):
        return Streamer(self)


class Streamer:
    def __init__(self, codec):
        self.codec, self.frames = codec, []

    def feed(self, frame):
        if frame[0] == 15:
            raise RuntimeError("secret")
        self.frames.append(frame)
        return self.finish() if len(self.frames) == 2 else []

    def finish(self):
        frames, self.frames = self.frames, []
        return [self.codec.decode(np.stack(frames))] if frames else []


@pytest.mark.parametrize("value", [3, 15])
def test_a_sound_is_heard_before_its_last_code(vocabulary, value):
    reply = written(vocabulary, " listen ", block(vocabulary, "music", value), " bye")
    chat = Chat(vocabulary, Script(reply), lambda name: Running(vocabulary.ranges[name].modality))
    updates = list(chat.reply(Conversation(), Message("play")))
    pieces = [update for update in updates if isinstance(update, Piece)]
    (made,) = [update for update in updates if isinstance(update, Made)]
    assert len(made.media.samples) == 5 * 320 and updates[-1].turn.text.split() == ["listen", "bye"]
    if value == 15:
        assert not pieces
        return
    assert [piece.start_s for piece in pieces] == pytest.approx([0.0, 0.02, 0.04]) and pieces[0].modality == "music"
    assert np.array_equal(np.concatenate([piece.media.samples for piece in pieces]), made.media.samples)
    order = kinds(updates)
    assert order.index("Piece") < len(order) - 1 - order[::-1].index("Progress")


def test_the_model_writes_on_while_a_picture_is_decoded(vocabulary):
    reached = threading.Event()

    class Slow(Plain):
        def decode(self, codes, *, voice=None, seed=0):
            assert reached.wait(5), "the model waited for the picture"
            return super().decode(codes, voice=voice, seed=seed)

    class Telling(Reading):
        def __iter__(self):
            yield from super().__iter__()
            reached.set()

    class Engine:
        context = 4096

        def generate(self, ids, grammar, *, seed, stop, max_new):
            return Telling(written(vocabulary, " see ", block(vocabulary, "image"), " bye"), grammar, stop, max_new)

    chat = Chat(vocabulary, Engine(), lambda name: Slow(vocabulary.ranges[name].modality))
    updates = list(chat.reply(Conversation(), Message("draw")))
    shown = [update.text if isinstance(update, Words) else "+" for update in updates if isinstance(update, Words | Made)]
    assert "".join(shown) == "see+bye"


def test_who_leaves_early_leaves_no_thread_behind(vocabulary, make):
    chat = make(written(vocabulary, " hello there ", block(vocabulary, "music", frames=100)))
    updates = chat.reply(Conversation(), Message("play"))
    for update in updates:
        if isinstance(update, Progress) and update.codes == 40:
            break
    updates.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "writer"]


def test_a_picture_is_decoded_before_its_end_mark(vocabulary):
    begun = threading.Event()
    image = block(vocabulary, "image")

    class Telling(Plain):
        def decode(self, codes, *, voice=None, seed=0):
            begun.set()
            return super().decode(codes, voice=voice, seed=seed)

    class Waiting(Reading):
        def __iter__(self):
            for number in super().__iter__():
                if number == image[-1]:
                    assert begun.wait(5), "the picture waited for its end mark"
                yield number

    class Engine:
        context = 4096

        def generate(self, ids, grammar, *, seed, stop, max_new):
            return Waiting(written(vocabulary, " see ", image, " and ", image), grammar, stop, max_new)

    codecs = {name: Telling(vocabulary.ranges[name].modality) for name in vocabulary.ranges}
    updates = list(Chat(vocabulary, Engine(), codecs.__getitem__).reply(Conversation(), Message("draw"), seed=5))
    assert [update.part.codes.shape for update in updates if isinstance(update, Made)] == [(32, 1)] * 2
    assert codecs["image"].calls == [(None, 6), (None, 8)] and updates[-1].reason == "eos"  # once each, with the seed of its place


@pytest.mark.parametrize("failing", [3, 13])
def test_a_whole_picture_without_its_end_mark_is_left_out(vocabulary, failing):
    """All its codes, and then a word: what was drawn of it does not become the next picture."""
    ids = written(vocabulary, " a ", block(vocabulary, "image", failing)[:-1], " b ", block(vocabulary, "image", 4))

    class Careless:
        context = 4096

        def generate(self, prompt, grammar, *, seed, stop, max_new):
            return Unruled(ids, grammar, stop, max_new)

    class Unruled(Reading):
        def __iter__(self):
            yield from self.ids
            self.reason = "eos"

    chat = Chat(vocabulary, Careless(), lambda name: Plain(vocabulary.ranges[name].modality))
    updates = list(chat.reply(Conversation(), Message("draw")))
    assert [int(update.media.rgb[0, 0, 0]) for update in updates if isinstance(update, Made)] == [4]
    assert [card.modality for card in updates if isinstance(card, Card)] == [None]
    assert [getattr(part, "modality", "") for part in updates[-1].turn.parts] == ["", "", "image"]


def test_a_whole_picture_is_not_cut_short_by_the_budget(vocabulary, make):
    ids = [*vocabulary.encode_text(" a "), *block(vocabulary, "image")[:-1]]
    chat = make(ids)
    updates = list(chat.reply(Conversation(), Message("draw")))
    assert len([update for update in updates if isinstance(update, Made)]) == 1 and len(chat.codec("image").calls) == 1
    assert not [update for update in updates if isinstance(update, Note) and "cut short" in update.text]


def test_who_leaves_while_a_picture_forms_keeps_its_codes_once(vocabulary, make, tmp_path):
    chat = make(written(vocabulary, " a ", block(vocabulary, "image"), " b"))
    conversation = Journal.create(tmp_path).conversation()
    updates = chat.reply(conversation, Message("draw"))
    for update in updates:
        if isinstance(update, Preview):
            break
    updates.close()
    parts = Journal(conversation.journal.folder).turns[1].parts
    assert [getattr(part, "modality", "text") for part in parts] == ["text", "image"] and parts[1].codes.shape == (32, 1)


def test_a_file_that_breaks_its_encoder_is_told_and_leaves_no_trace(make, monkeypatch):
    chat, conversation = make(), Conversation()
    for problem, remedy in ((RuntimeError("secret detail"), "Try again"), (MemoryError(), "Close other programs")):

        def encode(self, media, problem=problem):
            raise problem

        monkeypatch.setattr(Plain, "encode", encode)
        updates = list(chat.reply(conversation, Message("What is this?", (("image", Picture(np.zeros((8, 8, 3), np.uint8))),))))
        (card,) = [update.error for update in updates if isinstance(update, Card)]
        assert card.problem == "Your message could not be read." and card.remedy.startswith(remedy) and "secret" not in str(card)
        assert updates[-1].reason == "refused" and conversation.turns == []
