"""How people ask and how mini answers, in the words of the chats. Slots are named in braces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anygpt_demo.synth.holdout import PHRASINGS


def asked(table: Sequence[str], heldout: bool = False) -> tuple[str, ...]:
    """The phrasings of a table that training uses; or, for evaluation, the held-out ones (all others if there is none)."""
    trained = tuple(form for form in table if form not in PHRASINGS)
    kept = tuple(form for form in table if form in PHRASINGS)
    return kept if heldout and kept else trained


def typed(table: Sequence[str], heldout: bool = False) -> tuple[str, ...]:
    """The same for what a person types, in more ways: those of TYPED too."""
    forms = asked(table, heldout)
    return forms if heldout else (*forms, *TYPED.get(tuple(table), ()))


ASK_PICTURE: tuple[str, ...] = (
    "Draw {scene}.",
    "Please draw {scene}.",
    "Draw me {scene}.",
    "Show me {scene}.",
    "Show me a picture of {scene}.",
    "Please paint {scene}.",
    "Can you draw {scene}?",
    "Can you show me {scene}?",
    "Could you paint {scene}?",
    "Make a picture of {scene}.",
    "Create an image of {scene}.",
    "I would like to see {scene}.",
    "I want a picture of {scene}.",
    "Give me an image of {scene}.",
    "Paint {scene} for me.",
    "Generate a picture of {scene}.",
    "Let me see {scene}.",
    "Make me an image of {scene}.",
)
GIVE_PICTURE: tuple[str, ...] = ("Here is {scene}.",)

ASK_STYLED: tuple[str, ...] = (
    "Draw {styled}.",
    "Please make {styled}.",
    "I want {styled}.",
    "Show me {styled}.",
    "Can you make {styled}?",
    "Create {styled}.",
    "Give me {styled}.",
)

ASK_CAPTION: tuple[str, ...] = (
    "What is in this picture?",
    "What do you see?",
    "Describe this picture.",
    "Describe this image.",
    "What does this picture show?",
    "Tell me about this picture.",
    "What can you see in this image?",
    "Please describe the picture.",
    "What is shown here?",
    "Can you describe this image?",
    "What is this?",
    "Look at this. What is it?",
)
GIVE_CAPTION: tuple[str, ...] = ("I see {scene}.",)

ASK_OBJECT: tuple[str, ...] = (
    "What object is in the picture?",
    "Which things do you see?",
    "What things are in this picture?",
    "Name the things in the image.",
)
GIVE_OBJECT: tuple[str, ...] = ("I see {things}.",)
ASK_PLACE: tuple[str, ...] = ("Where is this?", "Where is the {noun}?", "What place is this?", "Where was this picture made?")
GIVE_PLACE: tuple[str, ...] = ("It is {place}.",)
ASK_TIME: tuple[str, ...] = (
    "What time of day is it?",
    "How is the weather in the picture?",
    "Is it day or night here?",
    "What does the sky look like?",
)
GIVE_TIME: tuple[str, ...] = ("It is {time}. {words}",)
ASK_COUNT: tuple[str, ...] = ("How many {plural} are there?", "How many {plural} do you see?", "Count the {plural}.")
GIVE_COUNT: tuple[str, ...] = ("I see {count}.",)
ASK_COLOUR: tuple[str, ...] = ("What color is the {noun}?", "Which color does the {noun} have?")
GIVE_COLOUR: tuple[str, ...] = ("The {noun} is {colour}.",)
ASK_STYLE: tuple[str, ...] = ("What style is this picture?", "How was this picture made?")
GIVE_STYLE: tuple[str, ...] = ("It is {style}.",)
ASK_IS_THERE: tuple[str, ...] = ("Is there {thing} in the picture?", "Do you see {thing}?", "Can you see {thing}?")
GIVE_YES: tuple[str, ...] = ("Yes, I see {things}.",)
GIVE_NO: tuple[str, ...] = ("No, I see {things}.",)

ASK_MUSIC: tuple[str, ...] = (
    "Play {music}.",
    "Please play {music}.",
    "Compose {music}.",
    "Play me {music}.",
    "Can you play {music}?",
    "I want to hear {music}.",
    "Make {music}.",
    "Create {music}.",
    "Please compose {music}.",
    "Give me {music}.",
    "Could you make {music}?",
    "I would like {music}.",
    "Let me hear {music}.",
)
GIVE_MUSIC: tuple[str, ...] = ("Here is {music}.",)
ASK_MUSIC_CAPTION: tuple[str, ...] = (
    "What music is this?",
    "Describe this music.",
    "What do you hear?",
    "Tell me about this music.",
    "What kind of music is this?",
    "Please describe the piece.",
    "How does this music sound?",
    "Listen to this. What is it?",
)
GIVE_MUSIC_CAPTION: tuple[str, ...] = ("I hear {music}.",)
ASK_INSTRUMENT: tuple[str, ...] = (
    "What instrument is in this piece?",
    "Which instrument plays the melody?",
    "What instrument do you hear?",
    "Which instrument leads here?",
)
GIVE_INSTRUMENT: tuple[str, ...] = ("I hear {instrument}.",)
ASK_TEMPO: tuple[str, ...] = ("Is it fast or slow?", "How fast is this music?", "What is the tempo?")
GIVE_TEMPO: tuple[str, ...] = ("The tempo is {tempo}.",)
ASK_DRUMS: tuple[str, ...] = ("Are there drums?", "Can you hear drums?", "Do you hear any drums?")
GIVE_DRUMS: tuple[str, ...] = ("Yes, I hear drums.", "No, there are no drums.")
ASK_GENRE: tuple[str, ...] = ("What style is this music?", "Which genre is it?", "What genre do you hear?")
GIVE_GENRE: tuple[str, ...] = ("It is {genre}.",)
ASK_MOOD: tuple[str, ...] = ("How does it feel?", "What is the mood of this music?", "What feeling does this piece have?")
GIVE_MOOD: tuple[str, ...] = ("It feels {mood}.",)
ASK_SIMILAR: tuple[str, ...] = (
    "Play something like this.",
    "Can you give me similar music?",
    "Compose a piece in this style.",
    "Make another piece like this one.",
)
GIVE_SIMILAR: tuple[str, ...] = ("I hear {heard}. Here is {music}.",)

PICTURE_TO_MUSIC: tuple[str, ...] = (
    "Turn this picture into music.",
    "What music would suit this scene?",
    "Make music for this picture.",
    "Compose music that fits this image.",
    "Can you turn the feeling of this picture into music?",
    "Play the mood of this picture.",
    "Give this scene a song.",
    "Write a song for this picture.",
    "This scene needs a tune.",
    "Give this image some music.",
    "What would this picture sound like?",
    "Set this picture to music.",
    "Compose a song about this scene.",
    "Which piece goes with this image?",
)
GIVE_SCENE_MUSIC: tuple[str, ...] = ("I see {scene}. It feels {mood}. Here is {music}.",)
MUSIC_TO_PICTURE: tuple[str, ...] = (
    "Turn this music into a picture.",
    "Draw what you hear.",
    "Make a picture that fits this music.",
    "Can you turn the feeling of this music into an image?",
    "Paint the mood of this song.",
    "What scene does this music show?",
    "Which scene fits this music?",
    "What would this music look like?",
    "Show me the scene that you hear.",
    "What picture does this tune paint?",
    "Show what this piece is about.",
    "Give this song a picture.",
    "What place does this music make you see?",
    "What scene do you see in this music?",
    "What scene goes with this piece?",
    "Which scene is in this music?",
    "What picture does this music show?",
    "Which place does this music show?",
    "What does this music show you?",
    "What scene would suit this song?",
)
GIVE_MUSIC_SCENE: tuple[str, ...] = ("The music feels {mood}. Here is {scene}.",)
MUSIC_FOR_THAT: tuple[str, ...] = (
    "Now make music for this scene.",
    "Add some music to it.",
    "Now play music that fits.",
    "Compose music in the same mood.",
)
AND_MUSIC: tuple[str, ...] = (
    "Add music that fits.", "And play music for it.", "Then compose music in the same mood.", "Make music for it, too.", "With music, please.",
)  # fmt: skip
PICTURE_FOR_THAT: tuple[str, ...] = ("Now draw a picture for it.", "Add a picture to the music.", "Draw a scene in the same mood.")

NOW_TIME: tuple[str, ...] = ("Now {time}.", "The same {time}, please.", "Make it {time}.", "Draw it again {time}.")
NOW_PLACE: tuple[str, ...] = ("Now {place}.", "The same {place}, please.", "Put it {place}.", "Draw it again {place}.")
NOW_NOUN: tuple[str, ...] = ("Now with {thing}.", "Draw {thing} there instead.", "The same with {thing}, please.")
NOW_STYLE: tuple[str, ...] = ("Now as {style}.", "Make it {style}.", "The same as {style}, please.")
NOW_TEMPO: tuple[str, ...] = ("The same but {tempo}.", "Now make it {tempo}.", "Play it again, but {tempo}.")
NOW_INSTRUMENT: tuple[str, ...] = ("Now with {instrument}.", "The same with {instrument}, please.", "Use {instrument} instead.")
WHAT_WAS_THAT: tuple[str, ...] = ("What did you draw?", "What is it?", "Tell me what you made.")
WHAT_INSTRUMENT_WAS_THAT: tuple[str, ...] = ("What instrument is it?", "What did you play?", "Which instrument did you use?")

ASK_SAY: tuple[str, ...] = (
    "Say {quote}",
    "Please say {quote}",
    "Say this aloud: {quote}",
    "Read this aloud: {quote}",
    "Speak the words: {quote}",
    "Please read aloud: {quote}",
    "Can you say {quote}",
    "I want to hear you say {quote}",
)
ASK_TRANSCRIPT: tuple[str, ...] = (
    "What did I say?",
    "Please write down what you hear.",
    "Write down these words.",
    "What was said here?",
    "Please transcribe this.",
    "Turn this speech into text.",
)
ASK_SPOKEN_CAPTION: tuple[str, ...] = (
    "Tell me aloud what you see.",
    "Say what is in this picture.",
    "Describe this picture with your voice.",
    "Speak about this image.",
)
ASK_SPOKEN_MUSIC_CAPTION: tuple[str, ...] = (
    "Tell me aloud what you hear.",
    "Say what music this is.",
    "Describe this music with your voice.",
    "Speak about this piece.",
)
ASK_SPOKEN_REPLY: tuple[str, ...] = ("Answer with your voice: {question}", "Please answer aloud: {question}", "Tell me aloud: {question}")

ASK_STEPS: tuple[str, ...] = ("Think step by step: {question}", "{question} Think step by step.", "Please think step by step. {question}")
GIVE_STEPS_PICTURE: tuple[str, ...] = ("First I choose the place: {place}. Then the sky: {time}. Last I add {things}. Here is {scene}.",)

ASK_POEM: tuple[str, ...] = (
    "Write a poem about {topic}.",
    "Please write a short poem about {topic}.",
    "Can you write a poem about {topic}?",
    "I would like a poem about {topic}.",
    "Make a little rhyme about {topic}.",
    "Tell me a rhyme about {topic}.",
    "Make up a small poem about {topic}.",
    "Give me a little poem about {topic}.",
    "Rhyme something about {topic}.",
    "Create some verses about {topic}.",
    "A short verse about {topic}, please.",
    "Please make a poem about {topic}.",
)
ASK_PICTURE_POEM: tuple[str, ...] = (
    "Write a poem about this picture.",
    "Can you write a poem about this image?",
    "Turn this picture into a poem.",
    "Give me a few verses for this picture.",
    "Please rhyme about what you see.",
)
FEEL: tuple[str, ...] = ("I feel {feeling} today.", "I am {feeling}.", "I am so {feeling} right now.", "Today I feel {feeling}.")
REFUSE: tuple[str, ...] = ("Can you {task}?", "Please {task}.", "I want you to {task}.", "Could you {task}?")

TYPED: Mapping[tuple[str, ...], tuple[str, ...]] = {  # further ways, by table, that are typed only: clips speak those of the tables
    ASK_PICTURE: (
        "Sketch {scene}.", "How about {scene}?", "I need a picture of {scene}.", "A picture of {scene}, please.", "Could you draw {scene}?",
        "Let us see {scene}.", "Now draw {scene}.", "Let me look at {scene}.",
    ),
    ASK_CAPTION: (
        "What is on this picture?", "How would you describe this picture?", "Put this picture into words.", "Tell me what you see.",
        "What can be seen here?", "What is in the image?", "Give me a caption for this picture.", "Say in words what this shows.",
        "Describe what you see.", "What am I looking at?", "Can you tell me what this picture shows?",
    ),
    ASK_OBJECT: ("What things can you see?", "Which things are here?", "Name what is in the picture."),
    ASK_PLACE: ("What place is shown?", "Which place do you see?", "Where are we here?"),
    ASK_TIME: ("Is it sunny or dark?", "What is the weather like?", "When is this?", "What time of day is shown?"),
    ASK_COUNT: ("How many {plural} can you see?", "What is the number of {plural}?", "How many {plural}?"),
    ASK_COLOUR: ("Which color is the {noun}?", "Tell me the color of the {noun}.", "And the color of the {noun}?"),
    ASK_STYLE: ("In what style is it?", "Which style does the picture have?", "Is it a drawing or a painting?"),
    ASK_IS_THERE: ("Does the picture show {thing}?", "Is {thing} here?", "Do I see {thing} there?"),
    ASK_MUSIC: (
        "Perform {music}.", "How about {music}?", "I need {music}.", "Let us have {music}.", "Now play {music}.", "Could you play {music}?",
    ),
    ASK_MUSIC_CAPTION: (
        "What does this music sound like?", "What does this sound like?", "Describe the sound of this piece.", "Describe what you hear.",
        "What is playing here?", "Say in words what this music is.", "Give me a description of this music.", "Can you describe this piece?",
        "What sort of music is that?", "Put this music into words.", "How would you describe this music?", "What can you hear in this?",
        "Tell me what you hear.", "Listen and describe it.", "How does it sound?", "How does this sound to you?", "How does the piece sound?",
    ),
    ASK_INSTRUMENT: (
        "Which instrument is it?", "What is the lead instrument?", "Who plays the melody?", "What plays the tune?", "Name the instrument.",
    ),
    ASK_TEMPO: ("Is this slow or fast?", "What tempo does it have?", "How quick is it?", "At what speed is it played?"),
    ASK_DRUMS: (
        "Does it have drums?", "Is there a drum in it?", "Is anyone playing the drums?", "With or without drums?", "Are drums playing?",
        "Can drums be heard?", "Has this piece got drums?", "Is there any drum here?",
    ),
    ASK_GENRE: ("What genre is this?", "Which style of music is it?", "Name the genre.", "To which genre does it belong?"),
    ASK_MOOD: (
        "What mood is it in?", "Is it happy or sad?", "Which feeling does it have?", "Name the mood.",
    ),
    ASK_SIMILAR: ("More like this, please.", "Give me something like it.", "Compose something similar.", "I want another one like this."),
    PICTURE_TO_MUSIC: ("Give this picture a melody.", "Give this scene some music.", "Write music for this scene.", "A tune for this, please."),
    MUSIC_TO_PICTURE: ("Draw a scene for this music.", "Paint what this sounds like.", "Give this music a picture.", "A picture for this, please."),
    MUSIC_FOR_THAT: (
        "Give it a tune.", "Which music fits this?", "Play something for this picture.", "Now a song for it.", "Make a tune for that.",
    ),
    AND_MUSIC: ("And give it a tune.", "Put fitting music to it.", "Music that goes with it, too."),
    PICTURE_FOR_THAT: ("What would it look like?", "Show me a scene for it.", "And a picture to go with it?", "Paint a picture of it."),
    NOW_TIME: (
        "Change it so that it is {time}.", "And {time}?", "What about {time}?", "I want it {time}.", "Let it be {time}.", "Can it be {time}?",
        "Please draw it {time}.", "Show it {time}.", "How does it look {time}?",
    ),
    NOW_PLACE: (
        "Move it, so that it is {place}.", "And {place}?", "What about {place}?", "I want it {place}.", "Place it {place}.",
        "Can it be {place}?", "Please draw it {place}.", "Show it {place}.", "How does it look {place}?",
    ),
    NOW_NOUN: ("And with {thing}?", "I want {thing} there.", "Replace it with {thing}.", "Show {thing} there.", "What about {thing} there?"),
    NOW_STYLE: ("Turn it into {style}.", "Draw it as {style}.", "I want it as {style}.", "And as {style}?", "Show it as {style}."),
    NOW_TEMPO: (
        "Make it {tempo}.", "Please make it {tempo}.", "I want it {tempo}.", "Can you play it {tempo}?", "Play it {tempo}.", "And now {tempo}.",
    ),
    NOW_INSTRUMENT: ("And with {instrument}?", "Play it with {instrument}.", "I want {instrument} instead.", "What about {instrument}?"),
    WHAT_WAS_THAT: ("What is in it?", "What have you drawn?", "What did you make?", "Describe it.", "What does it show?"),
    WHAT_INSTRUMENT_WAS_THAT: ("What instrument did you take?", "Which instrument played?", "Which instrument was it?"),
    ASK_SAY: (
        "Read out: {quote}", "Please read this: {quote}", "Say the words {quote}", "Say out loud: {quote}", "Now say {quote}", "Say: {quote}",
        "Could you say {quote}", "Please speak: {quote}", "Read these words to me: {quote}",
    ),
    ASK_TRANSCRIPT: (
        "What are the words?", "What did you hear me say?", "Write what I said.", "Put my words in writing.", "Type what you hear.",
        "Which words did I say?", "What was I saying?", "Tell me what I just said.", "What have you heard?",
    ),
    ASK_SPOKEN_CAPTION: (
        "Say aloud what this picture shows.", "Describe it aloud.", "Tell me aloud what is in the picture.", "Tell me with your voice what is here.",
    ),
    ASK_SPOKEN_MUSIC_CAPTION: (
        "Say aloud what you hear.", "Describe this music aloud.", "Tell me with your voice what music this is.", "Say aloud what music this is.",
    ),
    ASK_SPOKEN_REPLY: ("Say your answer aloud: {question}", "Speak your answer: {question}", "{question} Answer aloud."),
    ASK_POEM: ("Make a rhyme about {topic}.", "A rhyme about {topic}, please.", "Write some little verses about {topic}."),
    FEEL: ("I am feeling {feeling}.", "Right now I feel {feeling}.", "I feel rather {feeling}.", "I have been {feeling} all day."),
}  # fmt: skip

VOICE_COMMAND = "Please recognize the voice command and give reply and voice"  # added to every spoken turn, as the published model expects

PLACE_WORDS = {  # what people say for a place, beside the words that mini uses itself
    "beach": ("on the beach", "at the beach", "on the sand"), "meadow": ("in the meadow", "in the grass", "on a green field"),
    "forest": ("in the forest", "in the woods", "among the trees"), "desert": ("in a desert", "in the sand dunes"),
    "snowy field": ("in the snow", "in the snowy field", "on the snow"), "lake": ("by the lake", "at the lake", "at a lake"),
    "city street": ("on the street", "in the city", "in a city", "in town"),
    "mountains": ("in the mountains", "in front of the mountains", "near the mountains"),
    "ocean": ("on the sea", "at sea", "in the ocean", "on the water"), "garden": ("in the garden", "in my garden"),
}  # fmt: skip
