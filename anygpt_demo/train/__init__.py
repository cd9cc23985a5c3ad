"""Training of the small family. One file per stage; loop.py is what they share."""

STAGES: dict[str, str] = {  # name -> module:function(Settings); the order is the order of `make train-mini`
    "speech-teacher": "anygpt_demo.train.speech_teacher:train",
    "speech-listener": "anygpt_demo.train.speech_listener:train",
    "speech-codec": "anygpt_demo.train.speech_codec:train",
    "picture-stem": "anygpt_demo.train.picture_stem:train",
    "picture-tokenizer": "anygpt_demo.train.picture_tokenizer:train",
    "picture-decoder": "anygpt_demo.train.picture_decoder:train",
    "picture-enhancer": "anygpt_demo.train.picture_enhancer:train",
    "music-listener": "anygpt_demo.train.music_listener:train",
    "music-codec": "anygpt_demo.train.music_codec:train",
    "music-decoder": "anygpt_demo.train.music_decoder:train",
    "text-tokenizer": "anygpt_demo.train.text_tokenizer:train",
    "codes": "anygpt_demo.train.codes:train",
    "soundstorm": "anygpt_demo.train.soundstorm:train",
    "speech-decoder": "anygpt_demo.train.speech_codec:train_decoder",
    "llm": "anygpt_demo.train.llm:train",
}
