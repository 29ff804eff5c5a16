"""virft: reinforcement fine-tuning of vision-language models with rewards that rules compute."""

__version__ = "0.2.0"
