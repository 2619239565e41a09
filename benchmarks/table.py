"""The README's tables from run folders: python benchmarks/table.py RUN [RUN ...]."""

import json
import sys
from pathlib import Path


def table(runs: list[Path]) -> str:
    """Markdown, a row per task and learner: what evaluation.json says."""
    rows = []
    for run in runs:
        config, result = (json.loads((run / name).read_text()) for name in ("config.json", "evaluation.json"))
        far, gap = result["final_distance"], result["optimality_gap"]
        rows.append(
            (
                result["task"],
                {"pods": "second", "pods1": "first"}[config["learner"]],
                f"{config['config']['epochs']}",
                f"{result['training_seconds']:.0f}",
                f"{result['return']:.3f} ± {result['return_std']:.3f}",
                f"{result['terminal_kinetic_energy']:.1e}",
                "" if far is None else f"{far:.1e}",
                f"{result['handle_speed']:.3f}",
                "" if gap is None else f"{gap:.2%}",
                f"{result['failed']}",
            )
        )
    head = ("task", "order", "epochs", "seconds", "return", "terminal KE [J]", "final distance [m]")
    head += ("handle speed [m/s]", "optimality gap", "failed")
    lines = [head, ("---",) * len(head), *sorted(rows, key=lambda row: (row[0], -len(row[1])))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("table: expected run folders")
    print(table([Path(argument) for argument in sys.argv[1:]]))
