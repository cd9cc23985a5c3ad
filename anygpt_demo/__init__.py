"""anygpt_demo: an any-to-any chat (text, pictures, speech, music) on one plain LLaMA, after AnyGPT (arXiv 2402.12226).

Importing the package is cheap: nothing here imports torch, gradio or a model.
"""

__version__ = "0.1.0"
