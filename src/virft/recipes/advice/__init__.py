"""Advice before training: SFT, RFT, SFT then RFT, or a mix, from completions of the base model and the labels."""
