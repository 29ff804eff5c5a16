"""Names of metrics as a reader knows them: "unreadable completions" for ``unreadable_frac``."""

from __future__ import annotations

LABELS = {
    "f1": "F1",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP, small objects",
    "ap_medium": "AP, medium objects",
    "ap_large": "AP, large objects",
    "ap_rare": "AP, rare classes",
    "ap_common": "AP, common classes",
    "ap_frequent": "AP, frequent classes",
    "ar1": "average recall, 1 box",
    "ar10": "average recall, 10 boxes",
    "ar100": "average recall, 100 boxes",
    "ar300": "average recall, 300 boxes",
    "ar_small": "average recall, small objects",
    "ar_medium": "average recall, medium objects",
    "ar_large": "average recall, large objects",
    "ap_constant": "AP with equal scores",
    "ap50_constant": "AP50 with equal scores",
    "ap_logprob": "AP by log-probability",
    "ap50_logprob": "AP50 by log-probability",
    "ap_yes": "AP by P(yes)",
    "ap50_yes": "AP50 by P(yes)",
    "calibration_error_yes": "calibration error of P(yes)",
    "best_f1_yes": "F1 at the best threshold of P(yes)",
    "best_threshold_yes": "best threshold of P(yes)",
    "f1_mean": "F1, IoU 0.5 to 0.95",
    "f1_macro": "F1, mean over classes",
    "precision_mean": "precision, IoU 0.5 to 0.95",
    "recall_mean": "recall, IoU 0.5 to 0.95",
    "false_positive_rate": "false positives on absent classes",
    "box_miou": "mean box IoU",
    "accuracy_at_50": "accuracy at IoU 0.5",
    "accuracy_at_75": "accuracy at IoU 0.75",
    "accuracy_paper_substring": "accuracy, paper's substring rule",
    "giou": "gIoU",
    "ciou": "cIoU",
    "unreadable_frac": "unreadable completions",
    "at_most_1_frac": "answers with all numbers at most 1",
    "other_label_frac": "boxes labelled as another class",
    "truncated_frac": "truncated completions",
    "well_formed_frac": "well-formed completions",
    "no_objects_frac": "answers without objects",
    "nonzero_std_frac": "groups with different rewards",
    "duplicate_frac": "duplicate boxes",
    "clip_frac": "clipped tokens",
    "capped_frac": "capped importance weights",
    "kl": "KL divergence",
    "grad_norm": "gradient norm",
    "entropy": "sampling entropy",
    "num_tokens": "tokens per step",
    "tokens_per_s": "tokens/s",
    "update_mfu": "MFU of the update",
    "completion_tokens": "completion length",
    "target_tokens": "target length",
    "iou": "IoU",
}
"""Key of a metric or of a reward part -> label."""


def label_of(name: str) -> str:
    """Return the label of a metric's key; the suffix of a class group or of a dataset stays.

    >>> label_of("f1@novel"), label_of("unreadable_frac"), label_of("mean_confidence"), label_of("my_frac")
    ('F1@novel', 'unreadable completions', 'mean confidence', 'my fraction')
    """
    key, at, group = name.partition("@")
    if key not in LABELS and key.endswith("_frac"):
        key = key.removesuffix("frac") + "fraction"
    return LABELS.get(key, key.replace("_", " ")) + at + group
