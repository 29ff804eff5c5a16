"""The card of a trained model: facts known when a run begins, and the README.md made of a run folder."""
