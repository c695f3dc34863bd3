"""Methods: from a few-shot task to a predictor."""
