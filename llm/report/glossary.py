"""What systems and metrics are called in reports, and what a reader should know of each."""

from typing import NamedTuple

SHORT, LONG = 25, 50  # tokens of a verbatim continuation


class Title(NamedTuple):
    """A name for readers, with a sentence that explains it."""

    name: str
    note: str = ""


TITLES = {
    # systems that predict held-out text
    "model": Title("this model", "What the pipeline trained."),
    "xz_given_train": Title("xz -9e, given the training text", "A compressor that may refer to the training text."),
    "zstd_given_train": Title("zstd --ultra -22 --long, given the training text", "As above, another compressor."),
    "xz": Title("xz -9e", "A compressor that sees the held-out text alone."),
    "zstd": Title("zstd --ultra -22 --long", "A compressor that sees the held-out text alone."),
    "bzip2": Title("bzip2 -9", "An older compressor that sees the held-out text alone."),
    "kneser_ney_5gram": Title("5-grams (Kneser-Ney)", "Counts of the token after each four tokens of train."),
    "unigram": Title("unigrams", "The frequency of each token in train, without context."),
    "uniform": Title("chance", "Every token of the vocabulary is equally likely."),
    "chance": Title("chance", "Every choice is equally likely."),
    "true_text": Title("true continuations", "The text that follows the prompt in the document."),
    # systems of a classification task
    "pretrained": Title("this model, finetuned", "Training starts from the pretrained weights."),
    "random_weights": Title("the same network, not pretrained", "Training starts from random weights."),
    "tfidf": Title("TF-IDF", "Weighted counts of words and a logistic regression."),
    "majority": Title("majority", "Always the most frequent label of train."),
    "zero_shot": Title("this model, not finetuned", "The label whose words are the likeliest after the text."),
    # likelihood
    "bits_per_byte": Title("bits per byte", "Bits to store a byte of the text with the model's help; less is better."),
    "nats_per_token": Title("nats per token", "The loss that training minimizes."),
    "perplexity": Title("perplexity", "e to the nats per token."),
    "accuracy": Title("accuracy", "The fraction of right predictions."),
    "calibration_error": Title("calibration error", "The mean distance of a probability from how often it is right."),
    "tokens": Title("tokens scored", "The end of each document included."),
    # text quality
    "real_words": Title("real words", "The fraction of words that occur in the training text, case ignored."),
    "distinct_3grams": Title(
        "distinct 3-grams",
        "Different runs of three words among all of them, over all texts (distinct-3, Li et al. 2016); low where a "
        "model repeats itself.",
    ),
    "repetition_flagged": Title(
        "repetition flagged", "The fraction of texts that repeat lines, paragraphs or n-grams beyond Gopher's rules."
    ),
    "sections_parsed": Title(
        "docstring sections that parse",
        "The fraction of sections with a title of the numpydoc guide, an underline as long, and entries below it.",
    ),
    # memorization
    "prefixes": Title("prefixes", "Places that were tried, drawn at random."),
    f"verbatim_{SHORT}": Title(f"{SHORT} tokens verbatim", f"The fraction whose first {SHORT} tokens are the text's."),
    f"verbatim_{LONG}": Title(f"{LONG} tokens verbatim", f"The fraction whose {LONG} tokens are the text's."),
    "mean_verbatim_tokens": Title("mean tokens verbatim", "Tokens before the first one that differs."),
    # classification
    "macro_f1": Title("macro-F1", "The mean of F1 over labels: a rare label counts as much as a frequent one."),
    "micro_f1": Title("micro-F1"),
    "roc_auc": Title("ROC AUC"),
    "balanced_accuracy": Title("balanced accuracy"),
    "accuracy_difference": Title("accuracy of this model, less it"),
    "log_loss": Title("log loss"),
    # answers
    "chosen_is_likelier": Title("better answer likelier", "The fraction of pairs whose better answer is likelier."),
    "reward_margin": Title("reward margin", "Change of the log-ratio of the two answers against the base, times beta."),
    "chosen_log_ratio": Title("log-ratio of better answers", "Distance from the base; 0 is none."),
    "answer_bits_per_byte": Title("bits per byte of the right answers", "Less is better."),
    "answer_nats_per_token": Title("nats per token of the right answers", "The loss that training minimizes."),
    "base_bits_per_byte": Title("bits per byte of the pretraining's test text", "A rise measures forgetting."),
    "token_f1": Title("token F1", "Overlap of the words of the answer and of the right one, 0 to 1."),
    "chrf": Title("chrF", "Overlap of runs of characters, 0 to 100."),
    "exact_match": Title("exact match", "The fraction of answers equal to the right one."),
}


def title(name: str) -> Title:
    """Return the title of a system or metric; an unknown name gets blanks for its underscores.

    >>> title("macro_f1").name, title("a_new_one").name
    ('macro-F1', 'a new one')
    """
    return TITLES.get(name) or Title(name.replace("_", " "))
