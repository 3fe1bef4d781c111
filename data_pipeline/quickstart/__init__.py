"""The quick-start data set: spliced videos whose windows and saliency are known by construction.

`kinds` names what a segment can show, `phrases` says it in sentences, `plan` composes videos and
their ground truth from a seed, `scenes` and `footage` draw the frames, `generate` writes the files.
"""
