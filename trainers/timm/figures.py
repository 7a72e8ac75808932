"""Owns the figures of a validation pass, from the confusion matrix and sums. Pure. Callers: `engine`."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence


def of_validation(confusion: Sequence[Sequence[int]], top5: int, loss: float) -> Dict[str, float]:
    """Accuracy, accuracy_top5, precision, recall and f1 (means over the classes that occur), and val_loss.

    Args:
        confusion: rows are true classes, columns are predicted ones.
        top5: how many samples had their class among the five best.
        loss: mean cross entropy, nats.
    """
    total = sum(sum(row) for row in confusion)
    right = sum(row[number] for number, row in enumerate(confusion))
    rows = [row for row in per_class(confusion) if row["support"]]
    mean = {name: sum(row[name] for row in rows) / max(len(rows), 1) for name in ("precision", "recall", "f1")}
    made = {"accuracy": right / max(total, 1), "accuracy_top5": top5 / max(total, 1), **mean, "val_loss": loss}
    return {name: round(value, 6) for name, value in made.items()}


def per_class(confusion: Sequence[Sequence[int]]) -> List[Dict[str, Any]]:
    """Precision, recall, f1 and support of each class."""
    made = []
    for number, row in enumerate(confusion):
        hit, support = row[number], sum(row)
        predicted = sum(other[number] for other in confusion)
        precision = hit / predicted if predicted else 0.0
        recall = hit / support if support else 0.0
        both = precision + recall
        f1 = 2 * precision * recall / both if both else 0.0
        made.append(
            {"precision": round(precision, 6), "recall": round(recall, 6), "f1": round(f1, 6), "support": support}
        )
    return made
