"""Name the special tokens, which no text contains.

They are reserved when a tokenizer is made, so that finetuning never has to grow the vocabulary. Each has an id of its
own: where <|pad|> is also the end of text, a model never learns to stop.
"""

END_OF_TEXT, PAD, BOS, EOS = "<|endoftext|>", "<|pad|>", "<|bos|>", "<|eos|>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"

# Ids 0, 1, 2, … in every tokenizer that is trained here; behind the vocabulary of a pretrained one that lacks them.
SPECIAL_TOKENS = (END_OF_TEXT, PAD, BOS, EOS, IM_START, IM_END)

UNKNOWN = "<|unk|>"  # of word and character vocabularies
