"""Chats over mini's world: the paper's AnyInstruct, written by a grammar."""

from __future__ import annotations

from anygpt_demo.synth.spoken import spoken_sentences

__all__ = ["spoken_sentences"]
