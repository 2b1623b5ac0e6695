"""The tokens that no text contains: where documents end, what fills a batch, who speaks.

They are reserved when a tokenizer is made, so that finetuning never has to grow the vocabulary, and each has an id
of its own: a pad that is also the end of text teaches a model never to stop.
"""

END_OF_TEXT, PAD, BOS, EOS = "<|endoftext|>", "<|pad|>", "<|bos|>", "<|eos|>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"

# Their ids are 0, 1, 2, … in every tokenizer that is trained here; one that is brought along has them where it can.
SPECIAL_TOKENS = (END_OF_TEXT, PAD, BOS, EOS, IM_START, IM_END)

UNKNOWN = "<|unk|>"  # a word or character without an id; byte pair encoding has no need of it
